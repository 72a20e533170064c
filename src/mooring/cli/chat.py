"""`mooring chat`: talk to an endpoint in the terminal; the answer appears as it is written."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from mooring.cli.completion import complete_endpoints
from mooring.cli.problems import CommandError
from mooring.cli.session import Format, Project, Session, connected


@connected
def chat(
    session: Session,
    endpoint: Annotated[
        str,
        typer.Argument(
            help="Endpoint (name or id) or model, also MODEL:ADAPTER; default: the first start's.",
            autocompletion=complete_endpoints,
        ),
    ] = "",
    message: Annotated[str, typer.Argument(help="What to say; without it, a conversation starts.")] = "",
    system: Annotated[str, typer.Option("--system", "-s", help="System message.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0: always the likeliest word.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say tokens and tokens per second after an answer.")] = False,
    project: Project = "default",
) -> None:
    """Talk to a model. In a conversation, /help lists what else you can type.

    Example: [bold]mooring chat mooring-demo "Hello"[/bold]
    """
    from mooring.cli.conversation import Conversation

    target, text = _arguments(session, endpoint, message, project)
    wanted = {"max_tokens": max_tokens, "temperature": temperature}
    options: dict[str, Any] = {"model": target} | {name: value for name, value in wanted.items() if value is not None}
    conversation = Conversation(session.client, options, system, stats=stats)
    if text or not sys.stdin.isatty():
        _say_once(session, conversation, text or sys.stdin.read().strip())
    else:
        conversation.run(lambda name: find_model(session, name, project), _name_of(session, target))


def find_model(session: Session, name: str, project: str) -> str:
    """Return what `name` is called in `model`, "" if this key may call nothing of that name.

    An endpoint comes before a service of the same name, and one of `project` before another project's. A disabled
    one is found too: the gateway then says why it does not answer. `name` may end in `:ADAPTER`.
    """
    models = _models(session)
    if found := _named(models, name, project):
        return found
    base, colon, adapter = name.rpartition(":")
    found = _named(models, base, project) if colon else ""
    return f"{found}:{adapter}" if found else ""


def _say_once(session: Session, conversation: Any, text: str) -> None:
    if session.output is Format.table:
        conversation.say(text)
        return
    from mooring.cli.output import print_data

    print_data(session.client.post("/v1/chat/completions", conversation.body(text)), session.output)


def _arguments(session: Session, endpoint: str, message: str, project: str) -> tuple[str, str]:
    """Return (model, message). A single argument that names nothing callable is a message."""
    if endpoint:
        known = find_model(session, endpoint, project)
        if known or message:
            return known or endpoint, message
    default = session.endpoint or _only_model(session)
    return default, endpoint


def _name_of(session: Session, target: str) -> str:
    """Return the name of what is `target` in `model`, with its adapter if there is one."""
    base, colon, adapter = target.partition(":")
    names = {model["id"]: model.get("name") or model["id"] for model in _models(session)}
    return names.get(target) or f"{names.get(base, base)}{colon}{adapter}"


def _named(models: list[dict[str, Any]], name: str, project: str) -> str:
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
