"""`mooring deploy`: from a model to an endpoint that answers, in one command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer

from mooring.cli import deployment, models
from mooring.cli.models import Hub, HubOptions
from mooring.cli.problems import CommandError, NotFoundError
from mooring.cli.session import Format, Project, Session, connected
from mooring.cli.terms import AgreeTerms, agree

Json = dict[str, Any]
HUB, ENGINE = "From a hub", "How it runs"


class Engine(StrEnum):
    """What runs the model."""

    auto = "auto"
    llamacpp = "llamacpp"
    vllm = "vllm"


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A .gguf file or model folder here, org/repo of a hub, or mooring-demo.",
        show_default=False,
    ),
]
Source = Annotated[Hub, typer.Option("--source", help="Hub that org/repo stands for.", rich_help_panel=HUB)]
Revision = Annotated[
    str, typer.Option("--revision", help="Branch, tag or commit; default: the hub's.", rich_help_panel=HUB)
]
FilePattern = Annotated[
    str, typer.Option("--file", metavar="PATTERN", help="Which weights, such as '*q8_0.gguf'.", rich_help_panel=HUB)
]
Mirror = Annotated[str, typer.Option("--mirror", metavar="URL", help="Mirror of the hub.", rich_help_panel=HUB)]
TokenSecret = Annotated[
    str,
    typer.Option("--token-secret", metavar="NAME", help="Secret that holds the hub's token.", rich_help_panel=HUB),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        help="The hub's token, kept as a secret; default: HF_TOKEN or MODELSCOPE_API_TOKEN.",
        rich_help_panel=HUB,
    ),
]
EngineName = Annotated[
    Engine | None, typer.Option("--engine", help="Default: as the files want.", rich_help_panel=ENGINE)
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="FLAG", help="Flag of the engine, such as --arg=--ctx-size=8192. Repeatable.",
                 rich_help_panel=ENGINE),
]  # fmt: skip
Variables = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="KEY=VALUE", help="Variable of the engine. Repeatable.", rich_help_panel=ENGINE),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="NAME=MODEL", help="LoRA adapter: path or org/repo. Repeatable.",
                 rich_help_panel=ENGINE),
]  # fmt: skip
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="What it answers: chat, completion, embedding, rerank. Repeatable.",
                 rich_help_panel=ENGINE),
]  # fmt: skip
Gpus = Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs of one replica.", rich_help_panel=ENGINE)]
Cpu = Annotated[float | None, typer.Option("--cpu", min=0, help="Cores of one replica.", rich_help_panel=ENGINE)]
Memory = Annotated[str, typer.Option("--memory", help="Memory of one replica, such as 8Gi.", rich_help_panel=ENGINE)]
Replicas = Annotated[
    int | None,
    typer.Option("--replicas", min=0, help="Running copies; default: 1, or as before.", rich_help_panel=ENGINE),
]


@connected
def deploy(
    session: Session,
    model: Model,
    name: Annotated[str, typer.Option(help="Name of service and endpoint; default: the model's.")] = "",
    source: Source = Hub.huggingface,
    revision: Revision = "",
    file: FilePattern = "",
    mirror: Mirror = "",
    token_secret: TokenSecret = "",
    token: Token = "",
    engine: EngineName = None,
    arg: Arguments = None,
    env: Variables = None,
    lora: Adapters = None,
    type_: Types = None,
    gpus: Gpus = None,
    cpu: Cpu = None,
    memory: Memory = "",
    replicas: Replicas = None,
    update: Annotated[bool, typer.Option("--update", help="Change an existing service, or replace its model.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't wait until it is healthy.")] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait; a download that moves on does not count.")
    ] = 600.0,
    agree_terms: AgreeTerms = False,
    project: Project = "default",
) -> None:
    """Deploy a model, put an endpoint in front of it and make a key for it.

    Example: [bold]mooring deploy ./models/qwen3-0.6b-q8_0.gguf[/bold]
    """
    from mooring.cli.client import is_loopback

    options = HubOptions(source, revision, file, mirror, token_secret)
    elsewhere = not is_loopback(session.client.base_url)
    resources = {"cpu": cpu, "memory": memory or None, "gpus": gpus}
    given: Json = {
        "engine": engine and str(engine),
        "args": arg,
        "env": deployment.pairs("--env", env or []),
        "adapters": [models.plan_adapter(text, options, elsewhere=elsewhere) for text in lora or []],
        "types": type_,
        "resources": {part: value for part, value in resources.items() if value is not None},
        "replicas": replicas,
    }
    given = {field: value for field, value in given.items() if value or value == 0}
    spec_model = models.plan_model(model, options, elsewhere=elsewhere)
    service, endpoint = deployment.plan_documents(spec_model, name, given, project)
    order = _Order(session, service, endpoint, update=update)
    order.keep_token(*models.find_token(token, source, os.environ), explicit=bool(token))
    if agree_terms:
        agree(session.client)
    if dry_run:
        order.rehearse()
        return
    with order.told_when_left():
        order.place()
        if not no_wait:
            order.wait(timeout)
    order.print_usage(waited=not no_wait)


class _Order:
    """One deployment on its way: what is ordered, and what came of it."""

    def __init__(self, session: Session, service: Json, endpoint: Json, *, update: bool) -> None:
        self._session = session
        self._update = update
        self._name, self._project = service["metadata"]["name"], service["metadata"]["project"]
        self._existing = self._find("service")
        self._service, self._endpoint = service, endpoint
        self._secrets: list[Json] = []
        self._items: list[Json] = []
        self._label = ""

    def keep_token(self, token: str, found_in: str, *, explicit: bool) -> None:
        """Have a hub's token kept as a secret, unless one is named or was before and nobody asks for another."""
        from mooring.cli.output import say

        if not token or not deployment.needs_token(self._service) or self._service["spec"]["model"].get("tokenSecret"):
            return
        secret, service = deployment.with_token(self._service, token)
        held = (self._existing or {}).get("spec", {}).get("model", {}).get("tokenSecret")
        if held not in (None, secret["metadata"]["name"]) and not explicit:
            return
        self._secrets, self._service = [secret], service
        say(f"The token of {found_in} is kept as the secret {secret['metadata']['name']}.")

    def rehearse(self) -> None:
        """Print what placing the order would do."""
        from mooring.cli import apply, output

        items = self._apply(self._documents(), dry_run=True)
        if self._session.output is Format.table:
            apply.print_actions(items, dry_run=True)
        else:
            output.print_data({"items": items}, self._session.output)

    @contextlib.contextmanager
    def told_when_left(self) -> Iterator[None]:
        """Tell who presses Ctrl-C that the deployment goes on: it may have been ordered the moment before."""
        from mooring.cli import output, waiting

        try:
            yield
        except waiting.Left:
            raise
        except KeyboardInterrupt:
            output.say(waiting.left([self._name]))
            raise

    def place(self) -> None:
        """Make service, endpoint and key, and print endpoint and key at once: the key is shown only here."""
        from mooring.cli import output

        self._items = self._apply(self._documents())
        self._start_failed()
        self._ensure_key()
        if self._session.output is Format.table:
            self._print_access()
        else:
            output.print_data({"items": self._items}, self._session.output)
        sys.stdout.flush()

    def wait(self, timeout_s: float) -> None:
        """Return when the model answers; raises NotReadyError with what to do if it does not come up."""
        from mooring.cli import output, waiting

        try:
            self._items = waiting.wait_for_services(self._session.client, self._items, timeout_s)
        except waiting.NotReadyError as error:
            error.next_step += deployment.flags_for(error.message)
            error.next_step += "\n" + (
                "What ran before keeps serving. Correct the order with: mooring deploy … --update"
                if error.serving
                else "Try again with the same command, or remove it: "
                f"mooring services delete {self._name} --with-endpoints"
            )
            raise
        output.say("Ready.")

    def print_usage(self, *, waited: bool) -> None:
        """Print how to call it."""
        from mooring.cli.output import say

        if self._session.output is not Format.table:
            return
        if not waited:
            say(f"It is on its way. Watch: mooring services events -f {self._name}")
        endpoint, service = self._item("Endpoint"), self._item("ModelService")
        types = service["status"].get("types") or ["chat"]
        call = next((call for kind, call in _CALLS.items() if kind in types), None)
        if call is not None:
            path, body = call
            print(f"\ncurl {self._session.client.base_url}{path} \\")
            print(f"  -H 'Authorization: Bearer {self._key() or '<key>'}' \\")
            print("  -H 'Content-Type: application/json' \\")
            print(f'  -d \'{{"model": "{endpoint["id"]}",\n       {json.dumps(body)[1:]}\'')
        if "chat" in types:
            print(f"\nmooring chat {endpoint['metadata']['name']}")

    def _apply(self, documents: list[Json], *, dry_run: bool = False) -> list[Json]:
        """Apply documents; a refusal does not speak of documents, for the user has written none."""
        from mooring.cli import kinds

        try:
            return kinds.apply_documents(self._session.client, documents, dry_run=dry_run)
        except CommandError as error:
            error.message = re.sub(r"^Document \d+(?: \([^)]*\))?: ", "", error.message)
            if self._service["spec"]["model"]["source"] == "builtin" and "built-in model" in error.message:
                error.next_step += " A model of a hub is named org/repo, a file by its path."
            told = [error.message, error.next_step, *(str(fault.get("field")) for fault in error.faults)]
            error.next_step = (error.next_step + deployment.flags_for(" ".join(told))).strip()
            raise

    def _start_failed(self) -> None:
        """Try a service anew that has failed and that the order did not change."""
        from mooring.cli import kinds, output, waiting

        item = self._item("ModelService")
        if item["action"] != "unchanged" or item["spec"].get("stopped") or waiting.judge(item) != "failed":
            return
        path = kinds.object_path(kinds.find_kind("ModelService"), item["id"])
        started = self._session.client.post(f"{path}/start", {})
        self._items[self._items.index(item)] = {**item, **started, "action": "started"}
        output.say(f"{self._name} had failed; it is tried anew.")

    def _ensure_key(self) -> None:
        """Make a key for the endpoint unless one of those made before opens it; one that opens nothing is deleted."""
        from mooring.cli import access

        client, endpoint = self._session.client, self._item("Endpoint")
        found = access.find_access(client, self._name, endpoint, self._project)
        self._label = found.label
        if found.opens:
            return
        for key in found.useless:
            access.delete_key(client, key)
        # On its own: a label can't be applied twice, and its maker must see the key even if the model fails.
        self._items += self._apply([deployment.plan_key(found.label, endpoint["metadata"]["name"], self._project)])

    def _documents(self) -> list[Json]:
        service, endpoint = self._service, self._endpoint
        if self._existing:
            service = deployment.merge_service(self._existing, service, update=self._update)
        if existing := self._find("endpoint"):
            endpoint = deployment.merge_endpoint(existing, endpoint, update=self._update)
        return [*self._secrets, service, endpoint]

    def _find(self, word: str) -> Json | None:
        from mooring.cli.kinds import find_kind, get_object

        try:
            return get_object(self._session.client, find_kind(word), self._name, self._project)
        except NotFoundError:
            return None

    def _item(self, kind: str) -> Json:
        return next(item for item in self._items if item["kind"] == kind)

    def _key(self) -> str:
        return next((item["status"]["key"] for item in self._items if item["kind"] == "ApiKey"), "")

    def _print_access(self) -> None:
        for item in self._items:
            if item["kind"] != "ApiKey":
                print(f"{item['kind']} {item['metadata']['name']} {item['action']}")
        print(f"Endpoint: {self._item('Endpoint')['id']}")
        key, label = self._key(), self._label
        print(f"Key:      {key}   (shown only now)" if key else f"Key:      {label} exists; it was shown when made.")


_HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
_CALLS: dict[str, tuple[str, Json]] = {
    "chat": ("/v1/chat/completions", _HELLO),
    "embedding": ("/v1/embeddings", {"input": "Hello"}),
    "rerank": ("/v1/rerank", {"query": "Hello", "documents": ["Good morning", "Good night"]}),
    "completion": ("/v1/completions", {"prompt": "Hello"}),
}
