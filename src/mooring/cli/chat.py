"""`mooring chat`: talk to an endpoint in the terminal; the answer appears as it is written."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from mooring.cli.problems import CommandError
from mooring.cli.session import Format, Project, Session, connected

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


@connected
def chat(
    session: Session,
    endpoint: Annotated[str, typer.Argument(help="Endpoint (name or id) or model; default: the first start's.")] = "",
    message: Annotated[str, typer.Argument(help="What to say; without it, a conversation starts.")] = "",
    system: Annotated[str, typer.Option("--system", "-s", help="System message.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    project: Project = "default",
) -> None:
    """Talk to a model.

    Example: [bold]mooring chat mooring-demo "Hello"[/bold]
    """
    target, text = _arguments(session, endpoint, message, project)
    options: dict[str, Any] = {"model": target}
    if max_tokens:
        options["max_tokens"] = max_tokens
    messages = [{"role": "system", "content": system}] if system else []
    if text:
        _turn(session, options, messages, text)
        return
    if not sys.stdin.isatty():
        _turn(session, options, messages, sys.stdin.read().strip())
        return
    _converse(session, options, messages)


def _arguments(session: Session, endpoint: str, message: str, project: str) -> tuple[str, str]:
    """Return (model, message). A single argument that names nothing callable is a message."""
    if endpoint:
        known = _find_model(session, endpoint, project)
        if known or message:
            return known or endpoint, message
    default = session.endpoint or _only_model(session)
    return default, endpoint


def _find_model(session: Session, name: str, project: str) -> str:
    """Return what `name` is called in `model`, "" if this key may call nothing of that name.

    An endpoint comes before a service of the same name, and one of `project` before another project's. A disabled
    one is found too: the gateway then says why it does not answer.
    """
    models = _models(session)
    named = [model for model in models if _is_endpoint(model) and model.get("name") == name]
    named.sort(key=lambda model: model.get("owned_by") != project)
    if named:
        return str(named[0]["id"])
    return name if any(name in (model["id"], model.get("name")) for model in models) else ""


def _models(session: Session) -> list[dict[str, Any]]:
    return session.client.get("/v1/models")["data"]


def _is_endpoint(model: dict[str, Any]) -> bool:
    return str(model["id"]).startswith("ep-") and model["id"] != model.get("name")


def _only_model(session: Session) -> str:
    models = _models(session)
    if not models:
        raise CommandError("This key may call no model.", "Deploy one with: mooring deploy mooring-demo")
    endpoints = [model for model in models if _is_endpoint(model)]
    return str((endpoints or models)[0]["id"])


def _converse(session: Session, options: dict[str, Any], messages: list[dict[str, str]]) -> None:
    import readline  # noqa: F401  (gives input() its history and editing)

    print(f"Talking to {options['model']}. Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return
        if text:
            answer = _turn(session, options, messages, text)
            messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


def _turn(session: Session, options: dict[str, Any], messages: list[dict[str, str]], text: str) -> str:
    body = {**options, "messages": [*messages, {"role": "user", "content": text}]}
    if session.output is not Format.table:
        from mooring.cli.output import print_data

        whole = session.client.post("/v1/chat/completions", body)
        print_data(whole, session.output)
        return str(whole["choices"][0]["message"].get("content") or "")
    return _print_stream(session, {**body, "stream": True})


def _print_stream(session: Session, body: dict[str, Any]) -> str:
    """Print an answer as it comes and return it. Reasoning is dim; where stdout is no terminal it goes to stderr."""
    terminal = sys.stdout.isatty()
    dim, plain = (DIM, PLAIN) if terminal else ("", "")
    beside = sys.stdout if terminal else sys.stderr
    parts: list[str] = []
    thought = ""
    for event in session.client.stream("/v1/chat/completions", body):
        if error := event.get("error"):
            raise CommandError(str(error.get("message", error)))
        choice = event["choices"][0] if event.get("choices") else {}
        delta = choice.get("delta") or choice.get("message") or {}  # a message: the whole answer came at once
        if reasoning := delta.get("reasoning_content"):
            thought += reasoning
            print(f"{dim}{reasoning}{plain}", end="", file=beside, flush=True)
        if content := delta.get("content"):
            if not parts:
                content = content.lstrip("\n")
                print(_gap(thought), end="", file=beside, flush=True)
            parts.append(content)
            print(content, end="", flush=True)
    print()
    return "".join(parts)


def _gap(thought: str) -> str:
    """Return the line ends that leave one empty line between the reasoning and the answer."""
    return "\n" * max(0, 2 - (len(thought) - len(thought.rstrip("\n")))) if thought else ""
