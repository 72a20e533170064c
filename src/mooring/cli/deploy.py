"""`mooring deploy`: from a model to an endpoint that answers, in one command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mooring.cli.problems import CommandError, NotFoundError, UsageError
from mooring.cli.session import Format, Project, Session, connected

Json = dict[str, Any]


@connected
def deploy(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="PATH_OR_NAME", help="A .gguf file here, or mooring-demo.")],
    name: Annotated[str, typer.Option(help="Name of service and endpoint; default: the model's.")] = "",
    replicas: Annotated[int | None, typer.Option(min=1, help="Running copies; default: 1, or as before.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Replace the model of an existing service.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until it is healthy.")] = 600.0,
    project: Project = "default",
) -> None:
    """Deploy a model, put an endpoint in front of it and make a key for it.

    Example: [bold]mooring deploy ./models/qwen3-0.6b-q8_0.gguf[/bold]
    """
    from mooring.cli import kinds, output, waiting

    documents = plan_documents(model, name, replicas or 1, project)
    if existing := _existing(session, "service", documents[0], project):
        documents[0] = merge_service(existing, documents[0], replicas, update=update)
    if existing := _existing(session, "endpoint", documents[1], project):
        documents[1] = merge_endpoint(existing, documents[1], update=update)
    items = kinds.apply_documents(session.client, documents)
    label = f"{documents[0]['metadata']['name'].replace('.', '-')}-key"
    labels = [item["metadata"]["name"] for item in session.client.items(f"{kinds.API}/keys", project=project)]
    if label not in labels:
        # On its own: a label can't be applied twice, and its maker must see the key even if the model fails.
        items += kinds.apply_documents(session.client, [_key(label, documents[1]["metadata"]["name"], project)])
    if session.output is not Format.table:
        output.print_data({"items": items}, session.output)
    else:
        _print_access(session, items, label)
    sys.stdout.flush()
    waiting.wait_for_services(session.client, items, timeout)
    output.say("Ready.")


def plan_documents(model: str, name: str, replicas: int, project: str) -> list[dict[str, Any]]:
    """Return the ModelService and the Endpoint for a file or a model that ships with the platform.

    Raises:
        UsageError: `model` looks like a file that isn't there, or is no .gguf file.
    """
    path = Path(model)
    looks_like_path = "/" in model or path.suffix == ".gguf" or path.exists()
    if looks_like_path and not path.exists():
        raise UsageError(f"There is no file {model}.", "Give a .gguf file, or the name mooring-demo.")
    if looks_like_path and path.is_file() and path.suffix != ".gguf":
        raise UsageError(f"{model} is not a .gguf file.", "The embedded engine reads GGUF files only.")
    if looks_like_path:
        source = {"source": "local", "path": str(path.resolve())}
    else:
        source = {"source": "builtin", "name": model}
    chosen = name or name_for(path.stem if looks_like_path else model)
    metadata = {"name": chosen, "project": project}
    return [
        {"kind": "ModelService", "metadata": metadata, "spec": {"model": source, "replicas": replicas}},
        {"kind": "Endpoint", "metadata": metadata, "spec": {"services": [{"name": chosen}]}},
    ]


def merge_service(existing: Json, wanted: Json, replicas: int | None, *, update: bool) -> Json:
    """Return the existing service with the wanted model; what was set on it besides stays.

    Raises:
        CommandError: it runs another model and `update` is not asked for.
    """
    name, spec = wanted["metadata"]["name"], wanted["spec"]
    if existing["spec"]["model"] != spec["model"] and not update:
        raise CommandError(
            f"The service '{name}' exists and runs another model ({_told(existing['spec']['model'])}).",
            "Add --update to replace its model, or choose another name with --name.",
        )
    changed = {"model": spec["model"]} | ({"replicas": replicas} if replicas else {})
    return {**wanted, "metadata": existing["metadata"], "spec": {**existing["spec"], **changed}}


def merge_endpoint(existing: Json, wanted: Json, *, update: bool) -> Json:
    """Return the existing endpoint, pointed at the service only if it was not there and `update` is asked for.

    Raises:
        CommandError: it leads elsewhere and `update` is not asked for.
    """
    name, targets = wanted["metadata"]["name"], [target["name"] for target in existing["spec"]["services"]]
    spec = existing["spec"]
    if name not in targets:
        if not update:
            raise CommandError(
                f"The endpoint '{name}' exists and leads to {', '.join(targets)}.",
                "Add --update to point it at this model, or choose another name with --name.",
            )
        spec = {**spec, **wanted["spec"]}
    return {**wanted, "metadata": existing["metadata"], "spec": spec}


def name_for(text: str) -> str:
    """Return a valid object name made from a model's name: lower case, a–z 0–9 . - only."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:63].rstrip("-.") or "model"


def _existing(session: Session, word: str, document: Json, project: str) -> Json | None:
    from mooring.cli.kinds import find_kind, get_object

    try:
        return get_object(session.client, find_kind(word), document["metadata"]["name"], project)
    except NotFoundError:
        return None


def _told(model: Json) -> str:
    return str(model.get("path") or model.get("name"))


def _key(label: str, endpoint: str, project: str) -> dict[str, Any]:
    spec = {"description": f"made by mooring deploy for {endpoint}"[:100], "endpoints": [endpoint]}
    return {"kind": "ApiKey", "metadata": {"name": label, "project": project}, "spec": spec}


def _print_access(session: Session, items: list[dict[str, Any]], label: str) -> None:
    endpoint = next(item for item in items if item["kind"] == "Endpoint")
    key = next((item["status"]["key"] for item in items if item["kind"] == "ApiKey"), "")
    body = {"model": endpoint["id"], "messages": [{"role": "user", "content": "Hello"}]}
    for item in items:
        if item["kind"] != "ApiKey":
            print(f"{item['kind']} {item['metadata']['name']} {item['action']}")
    print(f"Endpoint: {endpoint['id']}")
    print(f"Key:      {key}   (shown only now)" if key else f"Key:      {label} exists; it was shown when made.")
    print(f"\ncurl {session.client.base_url}/v1/chat/completions \\")
    print(f"  -H 'Authorization: Bearer {key or '<key>'}' -H 'Content-Type: application/json' \\")
    print(f"  -d '{json.dumps(body)}'\n", flush=True)
