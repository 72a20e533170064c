"""`mooring cache …`: the models fetched from hubs, as they lie on the platform's disk."""

from __future__ import annotations

from typing import Annotated

import typer

from mooring.cli.client import Json
from mooring.cli.kinds import API, Column
from mooring.cli.objects import DryRun, rehearsal
from mooring.cli.output import age, print_data, print_objects, say, size
from mooring.cli.session import Format, Session, connected

app = typer.Typer(help="Models fetched from hubs, on the platform's disk.", no_args_is_help=True)


def _users(item: Json) -> str:
    return ", ".join(user["name"] for user in item.get("usedBy") or [])


ENTRIES: tuple[Column, ...] = (
    ("NAME", lambda item: item["name"]),
    ("FILE", lambda item: item.get("file") or ""),
    ("SOURCE", lambda item: item["source"]),
    ("REVISION", lambda item: (item.get("revision") or "")[:12]),
    ("STATE", lambda item: item["state"]),
    ("SIZE", lambda item: size(item["bytes"])),
    ("FILES", lambda item: item["files"]),
    ("AGE", lambda item: age(item["fetchedAt"]) if item.get("fetchedAt") else ""),
    ("USED BY", _users),
    ("CACHE KEY", lambda item: item["key"]),
)


@app.command("ls")
@connected
def ls(session: Session) -> None:
    """List the models that were fetched, their size, and the services that use them.

    Example: [bold]mooring cache ls[/bold]
    """
    answer = session.client.get(f"{API}/cache")
    if session.output is not Format.table:
        print_data(answer, session.output)
        return
    print_objects(answer["items"], ENTRIES, session.output)
    if answer["items"]:
        say(f"{size(answer['bytes'])} in all.")


@app.command()
@connected
def prune(
    session: Session,
    older_than: Annotated[
        int, typer.Option("--older-than", metavar="DAYS", min=0, help="Only what was fetched so long ago.")
    ] = 0,
    dry_run: DryRun = False,
) -> None:
    """Remove the fetched models that no service uses.

    Example: [bold]mooring cache prune --older-than 30 --dry-run[/bold]
    """
    answer = session.client.post(f"{API}/cache/prune", {"olderThanDays": older_than}, **rehearsal(dry_run))
    if session.output is not Format.table:
        print_data(answer, session.output)
        return
    count, would = len(answer["keys"]), "would be " if dry_run else ""
    say(f"{count} {'model' if count == 1 else 'models'} {would}removed, {size(answer['freedBytes'])} {would}freed.")
