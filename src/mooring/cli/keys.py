"""`mooring keys …`: API keys. A key is shown once, at its making."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mooring.cli.completion import complete_endpoints, names
from mooring.cli.kinds import API, find_kind, get_object
from mooring.cli.objects import DryRun, Tag, change_object, delete_object, list_objects, rehearsal
from mooring.cli.output import print_data, say
from mooring.cli.session import Format, Project, Session, connected

app = typer.Typer(help="API keys.", no_args_is_help=True)
Label = Annotated[str, typer.Argument(metavar="LABEL", help="Label or id.", autocompletion=names("key"))]


@app.command("list")
@connected
def list_(session: Session, project: Project = "default", tag: Tag = "") -> None:
    """List the keys of a project.

    Example: [bold]mooring keys list[/bold]
    """
    list_objects(session, "key", project, tag)


@app.command()
@connected
def get(session: Session, label: Label, project: Project = "default") -> None:
    """Show a key's label, rights and state; never the key itself.

    Example: [bold]mooring keys get my-key[/bold]
    """
    print_data(get_object(session.client, find_kind("key"), label, project), session.output)


@app.command()
@connected
def create(
    session: Session,
    label: Annotated[str, typer.Argument(help="Label: 1–100 of A–Z a–z 0–9 _ -; it can't be changed later.")],
    description: Annotated[str, typer.Option("--description", "-d", help="What it is for; can't be changed.")] = "",
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint", "-e", help="Only for this endpoint. May be repeated.", autocompletion=complete_endpoints
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="May manage the platform too, as you may.")] = False,
    ttl_days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; default: never.")] = None,
    dry_run: DryRun = False,
    project: Project = "default",
) -> None:
    """Make a key and show it, this once.

    Example: [bold]mooring keys create my-key -d "for my app" -e chat[/bold]
    """
    spec: dict[str, Any] = {"access": "full" if full else "inference"}
    for field, value in (("description", description), ("endpoints", endpoint), ("ttlDays", ttl_days)):
        if value:
            spec[field] = value
    document = {"kind": "ApiKey", "metadata": {"name": label, "project": project}, "spec": spec}
    made = session.client.post(f"{API}/keys", document, **rehearsal(dry_run))
    if dry_run and session.output is Format.table:
        say(f"Would make the key {label}.")
        return
    status = made["status"]
    if session.output is not Format.table:
        print_data(made, session.output)
        return
    print(f"Key:        {status['key']}\nAccess key: {status['accessKey']}\nId:         {made['id']}")
    say("Keep one of the two: this is the only time they are shown.")


@app.command()
@connected
def delete(
    session: Session,
    label: Label,
    dry_run: DryRun = False,
    project: Project = "default",
) -> None:
    """Delete a key; new requests with it are refused within a second.

    Example: [bold]mooring keys delete my-key[/bold]
    """
    delete_object(session, "key", label, project, dry_run=dry_run)


@app.command()
@connected
def enable(session: Session, label: Label, dry_run: DryRun = False, project: Project = "default") -> None:
    """Switch a key on again.

    Example: [bold]mooring keys enable my-key[/bold]
    """
    change_object(session, find_kind("key"), label, project, {"enabled": True}, dry_run=dry_run)


@app.command()
@connected
def disable(session: Session, label: Label, dry_run: DryRun = False, project: Project = "default") -> None:
    """Switch a key off without deleting it.

    Example: [bold]mooring keys disable my-key[/bold]
    """
    change_object(session, find_kind("key"), label, project, {"enabled": False}, dry_run=dry_run)
