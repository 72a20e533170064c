"""`mooring get` and `mooring delete`: the same for every kind. The commands of a kind build on them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mooring.cli.completion import complete_kinds, complete_objects
from mooring.cli.kinds import API, Kind, find_kind, get_object, names_of, object_path
from mooring.cli.output import print_data, print_object, print_objects, say
from mooring.cli.session import Format, Project, Session, connected

KindWord = Annotated[
    Kind,
    typer.Argument(
        parser=find_kind,
        metavar="KIND",
        help="service, external, endpoint, key, secret, project…",
        autocompletion=complete_kinds,
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or id.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]
Tag = Annotated[str, typer.Option("--tag", metavar="KEY=VALUE", help="Only with this tag.")]


@connected
def get(
    session: Session,
    kind: KindWord,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Name or id; without it, all.", autocompletion=complete_objects)
    ] = "",
    project: Project = "default",
    all_projects: Annotated[bool, typer.Option("--all-projects", "-A", help="Of every project.")] = False,
    tag: Tag = "",
) -> None:
    """Show one object, or list all of a kind.

    Example: [bold]mooring get endpoints -o yaml[/bold]
    """
    if name:
        print_data(get_object(session.client, kind, name, project), session.output)
    else:
        list_objects(session, kind.name, "" if all_projects else project, tag)


@connected
def delete(
    session: Session,
    kind: KindWord,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id.", autocompletion=complete_objects)],
    dry_run: DryRun = False,
    project: Project = "default",
) -> None:
    """Delete an object.

    Example: [bold]mooring delete endpoint chat[/bold]
    """
    delete_object(session, kind.name, name, project, dry_run=dry_run)


def list_objects(session: Session, word: str, project: str, tag: str = "") -> None:
    """Print all objects of the kind that `word` names; project "" means every project."""
    kind = find_kind(word)
    items = session.client.items(f"{API}/{kind.collection}", project=project, tag=tag.replace("=", ":", 1))
    if kind.name == "ApiKey" and session.output is Format.table:
        items = _with_endpoint_names(session, items)
    print_objects(items, kind.columns, session.output)


def _with_endpoint_names(session: Session, keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not any(key["spec"].get("endpoints") for key in keys):
        return keys
    names = names_of(session.client, "endpoint")
    return [
        {**key, "spec": {**key["spec"], "endpoints": [names.get(ref, ref) for ref in key["spec"]["endpoints"]]}}
        if key["spec"].get("endpoints")
        else key
        for key in keys
    ]


def delete_object(session: Session, word: str, name: str, project: str, *, dry_run: bool = False) -> None:
    """Delete the object with this name or id and say so."""
    kind = find_kind(word)
    item = session.client.delete(object_path(kind, name), project=project, **rehearsal(dry_run))
    say(f"{'Would delete' if dry_run else 'Deleted'} the {kind.told} {item['metadata']['name']} ({item['id']}).")


def change_object(
    session: Session, kind: Kind, name: str, project: str, spec: dict[str, Any], *, dry_run: bool = False
) -> None:
    """Merge `spec` into the object's and print how it is then."""
    item = session.client.patch(object_path(kind, name), {"spec": spec}, project=project, **rehearsal(dry_run))
    print_changed(session, kind, item, dry_run=dry_run)


def print_changed(session: Session, kind: Kind, item: dict[str, Any], *, dry_run: bool) -> None:
    """Print an object as it is after a change, or as it would be."""
    if dry_run:
        say("Nothing was changed. It would be:")
    print_object(item, kind.columns, session.output)


def print_applied(session: Session, items: list[dict[str, Any]], *, dry_run: bool = False) -> None:
    """Print what became of the one object of a command: created, updated or unchanged."""
    item = items[0]
    if session.output is Format.table:
        would = "would be " if dry_run and item["action"] != "unchanged" else ""
        say(f"{item['kind']} {item['metadata']['name']} {would}{item['action']}.")
    print_object(item, find_kind(item["kind"]).columns, session.output)


def rehearsal(dry_run: bool) -> dict[str, str]:
    """Return the query parameters that have a call judged and nothing kept."""
    return {"dryRun": "true"} if dry_run else {}
