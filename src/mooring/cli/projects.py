"""`mooring projects …`: whose things are whose. A project parts services, endpoints, keys and secrets."""

from __future__ import annotations

from typing import Annotated

import typer

from mooring.cli.completion import names
from mooring.cli.kinds import API, find_kind, get_object
from mooring.cli.objects import DryRun, delete_object, list_objects, rehearsal
from mooring.cli.output import print_data, print_object, say
from mooring.cli.session import Format, Session, connected

app = typer.Typer(help="Projects part services, endpoints, keys and secrets.", no_args_is_help=True)
ProjectName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name or id of the project.", autocompletion=names("project"))
]


@app.command("list")
@connected
def list_(session: Session) -> None:
    """List the projects.

    Example: [bold]mooring projects list[/bold]
    """
    list_objects(session, "project", "")


@app.command()
@connected
def get(session: Session, name: ProjectName) -> None:
    """Show a project.

    Example: [bold]mooring projects get default[/bold]
    """
    print_data(get_object(session.client, find_kind("project"), name, ""), session.output)


@app.command()
@connected
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name: 1–63 of a–z 0–9 . -")],
    description: Annotated[str, typer.Option("--description", "-d", help="What it is for.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Create a project.

    Example: [bold]mooring projects create search -d "the search team"[/bold]
    """
    spec = {"description": description} if description else {}
    document = {"kind": "Project", "metadata": {"name": name}, "spec": spec}
    made = session.client.post(f"{API}/projects", document, **rehearsal(dry_run))
    if session.output is Format.table:
        say(f"{'Would create' if dry_run else 'Created'} the project {name}.")
    print_object(made, find_kind("project").columns, session.output)


@app.command()
@connected
def delete(session: Session, name: ProjectName, dry_run: DryRun = False) -> None:
    """Delete a project that holds nothing any more.

    Example: [bold]mooring projects delete search[/bold]
    """
    delete_object(session, "project", name, "", dry_run=dry_run)
