"""`mooring endpoints …`: what callers put into `model`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mooring.cli.completion import complete_endpoints, complete_services
from mooring.cli.kinds import apply_documents, find_kind, get_object, object_path
from mooring.cli.objects import DryRun, Tag, change_object, delete_object, list_objects, print_applied
from mooring.cli.output import print_data
from mooring.cli.problems import NotFoundError, UsageError
from mooring.cli.service_pages import Language, print_instructions
from mooring.cli.session import Project, Session, connected
from mooring.cli.terms import AgreeTerms, agree

app = typer.Typer(help="What callers put into `model`.", no_args_is_help=True)
Services = Annotated[
    list[str],
    typer.Option(
        "--service",
        "-s",
        help="Service behind it, as NAME or NAME:WEIGHT. May be repeated.",
        autocompletion=complete_services,
    ),
]
EndpointName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name or id of the endpoint.", autocompletion=complete_endpoints)
]


@app.command("list")
@connected
def list_(session: Session, project: Project = "default", tag: Tag = "") -> None:
    """List the endpoints of a project.

    Example: [bold]mooring endpoints list[/bold]
    """
    list_objects(session, "endpoint", project, tag)


@app.command()
@connected
def get(session: Session, name: EndpointName, project: Project = "default") -> None:
    """Show an endpoint.

    Example: [bold]mooring endpoints get chat -o json[/bold]
    """
    print_data(get_object(session.client, find_kind("endpoint"), name, project), session.output)


@app.command()
@connected
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the endpoint.")],
    service: Services,
    dry_run: DryRun = False,
    agree_terms: AgreeTerms = False,
    project: Project = "default",
) -> None:
    """Create an endpoint, or point an existing one elsewhere: its id stays, its callers notice nothing.

    Example: [bold]mooring endpoints create chat -s demo:9 -s demo2:1[/bold]
    """
    spec: dict[str, Any] = {"services": [_target(text) for text in service]}
    metadata: dict[str, Any] = {"name": name, "project": project}
    try:
        existing = get_object(session.client, find_kind("endpoint"), name, project)
        metadata, spec = existing["metadata"], {**existing["spec"], **spec}
    except NotFoundError:
        pass
    document = {"kind": "Endpoint", "metadata": metadata, "spec": spec}
    if agree_terms:
        agree(session.client)
    print_applied(session, apply_documents(session.client, [document], dry_run=dry_run), dry_run=dry_run)


@app.command()
@connected
def point(
    session: Session,
    name: EndpointName,
    service: Services,
    dry_run: DryRun = False,
    project: Project = "default",
) -> None:
    """Point an existing endpoint at other services, or weigh them anew; running requests finish where they are.

    Example: [bold]mooring endpoints point chat -s demo:1 -s demo2:1[/bold]
    """
    spec = {"services": [_target(text) for text in service]}
    change_object(session, find_kind("endpoint"), name, project, spec, dry_run=dry_run)


@app.command()
@connected
def instructions(session: Session, name: EndpointName, language: Language = "", project: Project = "default") -> None:
    """Show how to call an endpoint: addresses and samples.

    Example: [bold]mooring endpoints instructions chat --language curl[/bold]
    """
    print_instructions(session, object_path(find_kind("endpoint"), name), language, project)


@app.command()
@connected
def delete(
    session: Session,
    name: EndpointName,
    dry_run: DryRun = False,
    project: Project = "default",
) -> None:
    """Delete an endpoint.

    Example: [bold]mooring endpoints delete chat[/bold]
    """
    delete_object(session, "endpoint", name, project, dry_run=dry_run)


@app.command()
@connected
def enable(session: Session, name: EndpointName, dry_run: DryRun = False, project: Project = "default") -> None:
    """Take calls again.

    Example: [bold]mooring endpoints enable chat[/bold]
    """
    change_object(session, find_kind("endpoint"), name, project, {"enabled": True}, dry_run=dry_run)


@app.command()
@connected
def disable(session: Session, name: EndpointName, dry_run: DryRun = False, project: Project = "default") -> None:
    """Refuse calls with a clear error and keep the configuration.

    Example: [bold]mooring endpoints disable chat[/bold]
    """
    change_object(session, find_kind("endpoint"), name, project, {"enabled": False}, dry_run=dry_run)


def _target(text: str) -> dict[str, Any]:
    name, _, weight = text.partition(":")
    if weight and not weight.isdigit():
        raise UsageError(f"--service {text}: the weight is not a whole number.", "Write NAME or NAME:WEIGHT.")
    return {"name": name, "weight": int(weight or 1)}
