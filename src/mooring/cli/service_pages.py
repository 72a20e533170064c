"""What can be looked at of a service: logs, events, replicas, how to call it; `mooring logs` and `mooring events`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from mooring.cli.client import Json
from mooring.cli.completion import complete_services
from mooring.cli.following import follow_events, follow_lines
from mooring.cli.kinds import API, Column, find_kind, get_service, names_of, object_path
from mooring.cli.output import age, print_data, print_objects, say, size
from mooring.cli.problems import CommandError, NotFoundError
from mooring.cli.session import Format, Project, Session, connected

ServiceName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name or id of the service.", autocompletion=complete_services)
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes; Ctrl-C ends it.")]
Replica = Annotated[str, typer.Option("--replica", help="Only of this replica.")]
Tail = Annotated[int, typer.Option("--tail", "-n", min=1, max=10_000, help="How many lines of each replica.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many of the past.")]
Language = Annotated[str, typer.Option("--language", "-l", help="Only samples in this, such as curl or python.")]


@connected
def logs(
    session: Session,
    name: ServiceName,
    follow: Follow = False,
    replica: Replica = "",
    tail: Tail = 100,
    project: Project = "default",
) -> None:
    """Show what the engines of a deployed model write.

    Example: [bold]mooring logs mooring-demo -n 20[/bold]
    """
    print_logs(session, name, project, follow=follow, replica=replica, tail=tail)


@connected
def events(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(metavar="[NAME]", help="Of this service; without it, of all.", autocompletion=complete_services),
    ] = "",
    follow: Follow = False,
    limit: Limit = 100,
    project: Project = "default",
) -> None:
    """Show what happened to services, the newest last.

    Example: [bold]mooring events mooring-demo[/bold]
    """
    print_events(session, name, project, follow=follow, limit=limit)


def print_logs(session: Session, name: str, project: str, *, follow: bool, replica: str, tail: int) -> None:
    """Print the engines' lines: the last ones, and with `follow` all that come."""
    client = session.client
    kind, item = get_service(client, name, project)
    if kind.name == "ExternalService":
        raise CommandError(
            f"{item['metadata']['name']} has no log here, it runs elsewhere: {', '.join(item['spec']['urls'])}.",
            f"See what happened to it with: mooring services events {name}",
        )
    path = f"{object_path(kind, item['id'])}/logs"
    if not replica and not client.get(f"{object_path(kind, item['id'])}/replicas")["items"]:
        say(_no_engine(item))
    if follow:
        for line in follow_lines(client, path, lambda: _exists(session, item), tail, replica=replica):
            print(line, flush=True)
        say(f"{item['metadata']['name']} is deleted.")
        return
    text = client.text(path, tail=tail, project=project, replica=replica).rstrip()
    if session.output is not Format.table:
        print_data({"id": item["id"], "name": item["metadata"]["name"], "lines": text.splitlines()}, session.output)
    elif text:
        print(text)


def print_events(session: Session, name: str, project: str, *, follow: bool, limit: int) -> None:
    """Print events, the newest last; of all services of the project where `name` is ""."""
    client = session.client
    item = get_service(client, name, project)[1] if name else None
    path = f"{object_path(find_kind('ModelService'), item['id'])}/events" if item else f"{API}/events"
    query: Json = {"limit": limit} if item else {"limit": limit, "project": project}
    names = {} if item else names_of(client, "service", "external")
    if follow:
        found = follow_events(client, path, lambda: item is None or _exists(session, item), **query)
    else:
        found = reversed(client.get(path, **query)["items"])
    if session.output is Format.table:
        _print_event_lines(found, names)
    elif follow:
        _print_documents(found, session.output)
    else:
        print_data({"items": list(found)}, session.output)


def print_replicas(session: Session, name: str, project: str) -> None:
    """Print the replicas of a deployed model and what they use."""
    items = session.client.get(f"{object_path(find_kind('ModelService'), name)}/replicas", project=project)["items"]
    print_objects(items, REPLICAS, session.output)


def print_instructions(session: Session, path: str, language: str, project: str) -> None:
    """Print how to call a service or an endpoint: its addresses and samples."""
    answer = session.client.get(f"{path}/instructions", project=project)
    if language:
        known = _languages(answer)
        answer = {**answer, "dialects": [_only(dialect, language) for dialect in answer["dialects"]]}
        if not _languages(answer):
            raise CommandError(f"There is no sample in {language}.", f"There are samples in: {', '.join(known)}.")
    if session.output is not Format.table:
        print_data(answer, session.output)
        return
    print(f"URL: {answer['urls']['api']}")
    for dialect in answer["dialects"]:
        if dialect["samples"] or not language:
            print(f"\n{dialect['title']}\n  base URL: {dialect['baseUrl']}\n  model:    {dialect['model']}")
        for sample in dialect["samples"]:
            print(f"\n# {sample['title']} ({sample['language']})\n{sample['code'].strip()}")


def save_notebook(session: Session, path: str, name: str, file: str, project: str, *, force: bool) -> None:
    """Write the notebook that calls a service or an endpoint, to a file or for "-" to stdout."""
    content = session.client.download(f"{path}/notebook", project=project)
    if file == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    target = Path(file or f"{name}.ipynb")
    try:
        with target.open("wb" if force else "xb") as opened:
            opened.write(content)
    except FileExistsError:
        raise CommandError(f"{target} exists.", "Choose another file with --file, or add --force.") from None
    except OSError as error:
        raise CommandError(f"{target} can't be written: {error.strerror}.") from None
    say(f"Wrote {target}. It asks for a key, or takes MOORING_API_KEY.")


def _used(item: Json, field: str) -> float | None:
    return (item.get("usage") or {}).get(field)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}%"


def _size(value: float | None) -> str:
    return "" if value is None else size(value)


REPLICAS: tuple[Column, ...] = (
    ("ID", lambda item: item["id"]),
    ("STATE", lambda item: item["state"]),
    ("VERSION", lambda item: f"{item['specVersion']}{'' if item.get('current', True) else ' (old)'}"),
    ("AGE", lambda item: age(item["startedAt"]) if item.get("startedAt") else ""),
    ("RESTARTS", lambda item: item.get("restarts") or ""),
    ("CPU", lambda item: _percent(_used(item, "cpuPercent"))),
    ("MEMORY", lambda item: _size(_used(item, "memoryBytes"))),
    ("GPUS", lambda item: ", ".join(str(gpu) for gpu in item.get("gpus") or [])),
    ("GPU", lambda item: _percent(_used(item, "gpuPercent"))),
    ("GPU MEMORY", lambda item: _size(_used(item, "gpuMemoryBytes"))),
    ("SLOTS", lambda item: item.get("slots") or ""),
    ("CONTEXT", lambda item: item.get("contextLength") or ""),
    ("PID", lambda item: item.get("pid") or ""),
    ("REASON", lambda item: item.get("reason") or ""),
)


def _no_engine(item: Json) -> str:
    """Return what is said of a service without replicas to somebody who wants their log."""
    name, status = item["metadata"]["name"], item["status"]
    reason = f": {status['reason']}" if status.get("reason") else "."
    rests = status["state"] in ("stopping", "stopped", "sleeping")
    return (
        f"{f'No engine of {name} runs now' if rests else f'No engine of {name} has started yet'}; "
        f"it is {status['state']}{reason}\nSee what happened to it: mooring services events {name}"
    )


def _languages(answer: Json) -> list[str]:
    """Return the languages of the samples, each once, in their order."""
    return list(dict.fromkeys(sample["language"] for dialect in answer["dialects"] for sample in dialect["samples"]))


def _only(dialect: Json, language: str) -> Json:
    wanted = language.lower()
    samples = [sample for sample in dialect["samples"] if sample["language"].lower().startswith(wanted)]
    return {**dialect, "samples": samples}


def _exists(session: Session, item: Json) -> bool:
    try:
        get_service(session.client, item["id"], "")
    except NotFoundError:
        return False
    return True


def _print_event_lines(found: Iterable[Json], names: Json) -> None:
    """Print one line for each event as it comes: time in UTC, level, and of which service where there are several."""
    none = True
    for event in found:
        none = False
        of = f"{names.get(event['serviceId'], event['serviceId'])}: " if names else ""
        level = "" if event["level"] == "info" else f"{event['level'].upper()} "
        print(f"{event['at'][:19].replace('T', ' ')}  {level}{of}{event['message']}", flush=True)
    if none:
        say("Nothing yet.")


def _print_documents(found: Iterable[Json], output: Format) -> None:
    """Print events that have no end: one JSON line each, or YAML documents."""
    import json

    for event in found:
        if output is Format.json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            print("---")
            print_data(event, output)
            sys.stdout.flush()
