"""`mooring services …`: deployed models and registered services; their names are unique over both."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mooring.cli import removal, service_pages
from mooring.cli.completion import complete_models
from mooring.cli.kinds import API, KINDS, SERVICES, apply_documents, find_kind, get_service, object_path
from mooring.cli.objects import DryRun, Tag, change_object, print_applied, print_changed, rehearsal
from mooring.cli.output import print_data, print_objects, say
from mooring.cli.problems import CommandError
from mooring.cli.service_pages import Follow, Language, Limit, Replica, ServiceName, Tail
from mooring.cli.session import Project, Session, connected
from mooring.cli.terms import AgreeTerms, agree

ModelName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name or id of the model service.", autocompletion=complete_models)
]

app = typer.Typer(help="Deployed models and registered services.", no_args_is_help=True)


@app.command("list")
@connected
def list_(session: Session, project: Project = "default", tag: Tag = "") -> None:
    """List the services of a project.

    Example: [bold]mooring services list[/bold]
    """
    kinds = [kind for kind in KINDS if kind.name in ("ModelService", "ExternalService")]
    items = [
        item
        for kind in kinds
        for item in session.client.items(f"{API}/{kind.collection}", project=project, tag=tag.replace("=", ":", 1))
    ]
    print_objects(items, SERVICES, session.output)


@app.command()
@connected
def get(session: Session, name: ServiceName, project: Project = "default") -> None:
    """Show a service with its state.

    Example: [bold]mooring services get mooring-demo[/bold]
    """
    print_data(get_service(session.client, name, project)[1], session.output)


@app.command()
@connected
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the external service.")],
    upstream: Annotated[list[str], typer.Option("--upstream", help="Its OpenAI base URL, up to /v1. Repeatable.")],
    served_model: Annotated[str, typer.Option(help="The model name it wants; default: its own name.")] = "",
    secret: Annotated[str, typer.Option(help="Name of the secret that holds its API key.")] = "",
    chip: Annotated[str, typer.Option(help="Kind of accelerator it runs on.")] = "cpu",
    dry_run: DryRun = False,
    agree_terms: AgreeTerms = False,
    project: Project = "default",
) -> None:
    """Register a service that runs elsewhere. (Deploy a model with: mooring deploy.)

    Example: [bold]mooring services create elsewhere --upstream http://127.0.0.1:9000/v1[/bold]
    """
    spec: dict[str, Any] = {"urls": upstream, "chip": chip}
    if served_model:
        spec["servedModel"] = served_model
    if secret:
        spec["apiKeySecret"] = secret
    document = {"kind": "ExternalService", "metadata": {"name": name, "project": project}, "spec": spec}
    if agree_terms:
        agree(session.client)
    print_applied(session, apply_documents(session.client, [document], dry_run=dry_run), dry_run=dry_run)


@app.command()
@connected
def delete(
    session: Session,
    name: ServiceName,
    with_endpoints: Annotated[
        bool,
        typer.Option(
            "--with-endpoints", help="And the endpoints that lead only to it, with what deploy made for them."
        ),
    ] = False,
    dry_run: DryRun = False,
    project: Project = "default",
) -> None:
    """Delete a service; its replicas end. While an endpoint leads to it, this is refused.

    With --with-endpoints its endpoints go too, the keys that mooring deploy made for them, and its hub token.

    Example: [bold]mooring services delete demo2[/bold]
    """
    kind, item = get_service(session.client, name, project)
    if with_endpoints:
        found = removal.find_removal(session.client, item)
        if not dry_run:
            removal.remove(session.client, found)
        for part in found.items if dry_run else ():
            say(f"Would delete {removal.told(part)}.")
        return
    try:
        session.client.delete(object_path(kind, item["id"]), project=project, **rehearsal(dry_run))
    except CommandError as error:
        if error.answered == removal.CONFLICT:
            error.next_step += f" Or delete them with it: mooring services delete {name} --with-endpoints"
        raise
    say(f"{'Would delete' if dry_run else 'Deleted'} {removal.told(item)}.")


@app.command()
@connected
def stop(session: Session, name: ModelName, dry_run: DryRun = False, project: Project = "default") -> None:
    """End the replicas of a deployed model and keep its configuration.

    Example: [bold]mooring services stop demo2[/bold]
    """
    _act(session, name, project, "stop", {}, dry_run=dry_run)


@app.command()
@connected
def start(session: Session, name: ModelName, dry_run: DryRun = False, project: Project = "default") -> None:
    """Start a stopped or failed model again.

    Example: [bold]mooring services start demo2[/bold]
    """
    _act(session, name, project, "start", {}, dry_run=dry_run)


@app.command()
@connected
def scale(
    session: Session,
    name: ModelName,
    replicas: Annotated[int, typer.Argument(min=0, help="How many copies shall run.")],
    dry_run: DryRun = False,
    project: Project = "default",
) -> None:
    """Run more or fewer copies of a deployed model; callers notice nothing.

    Example: [bold]mooring services scale demo2 2[/bold]
    """
    _act(session, name, project, "scale", {"replicas": replicas}, dry_run=dry_run)


@app.command()
@connected
def enable(session: Session, name: ServiceName, dry_run: DryRun = False, project: Project = "default") -> None:
    """Take calls that address the service itself.

    Example: [bold]mooring services enable demo2[/bold]
    """
    _switch(session, name, project, True, dry_run=dry_run)


@app.command()
@connected
def disable(session: Session, name: ServiceName, dry_run: DryRun = False, project: Project = "default") -> None:
    """Refuse calls that address the service itself; it keeps running.

    Example: [bold]mooring services disable demo2[/bold]
    """
    _switch(session, name, project, False, dry_run=dry_run)


@app.command()
@connected
def replicas(session: Session, name: ModelName, project: Project = "default") -> None:
    """List the running copies of a deployed model and what they use.

    Example: [bold]mooring services replicas mooring-demo[/bold]
    """
    service_pages.print_replicas(session, name, project)


@app.command()
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

    Example: [bold]mooring services logs mooring-demo -n 20[/bold]
    """
    service_pages.print_logs(session, name, project, follow=follow, replica=replica, tail=tail)


@app.command()
@connected
def events(
    session: Session, name: ServiceName, follow: Follow = False, limit: Limit = 100, project: Project = "default"
) -> None:
    """Show what happened to a service, the newest last.

    Example: [bold]mooring services events mooring-demo[/bold]
    """
    service_pages.print_events(session, name, project, follow=follow, limit=limit)


@app.command()
@connected
def instructions(session: Session, name: ServiceName, language: Language = "", project: Project = "default") -> None:
    """Show how to call a service itself: addresses and samples.

    Example: [bold]mooring services instructions mooring-demo --language curl[/bold]
    """
    path = object_path(find_kind("ModelService"), name)  # takes services of either kind
    service_pages.print_instructions(session, path, language, project)


@app.command()
@connected
def notebook(
    session: Session,
    name: ServiceName,
    file: Annotated[str, typer.Option("--file", help="Where to; default: NAME.ipynb here, - is stdout.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
    project: Project = "default",
) -> None:
    """Write a Jupyter notebook that calls the service.

    Example: [bold]mooring services notebook mooring-demo --file demo.ipynb[/bold]
    """
    path = object_path(find_kind("ModelService"), name)  # takes services of either kind
    service_pages.save_notebook(session, path, name, file, project, force=force)


def _act(session: Session, name: str, project: str, action: str, body: dict[str, Any], *, dry_run: bool) -> None:
    kind = find_kind("ModelService")
    path = f"{object_path(kind, name)}/{action}"
    print_changed(
        session, kind, session.client.post(path, body, project=project, **rehearsal(dry_run)), dry_run=dry_run
    )


def _switch(session: Session, name: str, project: str, enabled: bool, *, dry_run: bool) -> None:
    kind, item = get_service(session.client, name, project)
    change_object(session, kind, item["id"], project, {"enabled": enabled}, dry_run=dry_run)
