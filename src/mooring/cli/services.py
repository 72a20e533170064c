"""`mooring services …`: deployed models and registered services; their names are unique over both."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mooring.cli.kinds import API, KINDS, SERVICES, apply_documents, find_kind, get_service, object_path
from mooring.cli.objects import Name, Tag, change_object, print_applied
from mooring.cli.output import print_data, print_object, print_objects, print_table, say
from mooring.cli.problems import CommandError
from mooring.cli.session import Format, Project, Session, connected

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
def get(session: Session, name: Name, project: Project = "default") -> None:
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
    project: Project = "default",
) -> None:
    """Register a service that runs elsewhere. (Deploy a model with: mooring deploy.)

    Example: [bold]mooring services create elsewhere --upstream http://10.0.0.7:9000/v1[/bold]
    """
    spec: dict[str, Any] = {"urls": upstream, "chip": chip}
    if served_model:
        spec["servedModel"] = served_model
    if secret:
        spec["apiKeySecret"] = secret
    document = {"kind": "ExternalService", "metadata": {"name": name, "project": project}, "spec": spec}
    print_applied(session, apply_documents(session.client, [document]))


@app.command()
@connected
def delete(session: Session, name: Name, project: Project = "default") -> None:
    """Delete a service; its replicas end.

    Example: [bold]mooring services delete demo2[/bold]
    """
    kind, item = get_service(session.client, name, project)
    session.client.delete(object_path(kind, item["id"]), project=project)
    say(f"Deleted the {kind.told} {item['metadata']['name']} ({item['id']}).")


@app.command()
@connected
def stop(session: Session, name: Name, project: Project = "default") -> None:
    """End the replicas of a deployed model and keep its configuration.

    Example: [bold]mooring services stop demo2[/bold]
    """
    _act(session, name, project, "stop")


@app.command()
@connected
def start(session: Session, name: Name, project: Project = "default") -> None:
    """Start a stopped or failed model again.

    Example: [bold]mooring services start demo2[/bold]
    """
    _act(session, name, project, "start")


@app.command()
@connected
def enable(session: Session, name: Name, project: Project = "default") -> None:
    """Take calls that address the service itself.

    Example: [bold]mooring services enable demo2[/bold]
    """
    _switch(session, name, project, True)


@app.command()
@connected
def disable(session: Session, name: Name, project: Project = "default") -> None:
    """Refuse calls that address the service itself; it keeps running.

    Example: [bold]mooring services disable demo2[/bold]
    """
    _switch(session, name, project, False)


@app.command()
@connected
def logs(
    session: Session,
    name: Name,
    tail: Annotated[int, typer.Option("--tail", "-n", min=1, help="How many lines of each replica.")] = 100,
    project: Project = "default",
) -> None:
    """Show what the engine of a deployed model wrote.

    Example: [bold]mooring services logs mooring-demo -n 20[/bold]
    """
    kind, item = get_service(session.client, name, project)
    if kind.name == "ExternalService":
        raise CommandError(
            f"{item['metadata']['name']} has no log here, it runs elsewhere: {', '.join(item['spec']['urls'])}.",
            f"See what happened to it with: mooring services events {name}",
        )
    text = session.client.text(f"{object_path(kind, item['id'])}/logs", tail=tail, project=project).rstrip()
    if session.output is Format.table:
        print(text)
    else:
        print_data({"id": item["id"], "name": item["metadata"]["name"], "lines": text.splitlines()}, session.output)


@app.command()
@connected
def events(session: Session, name: Name, project: Project = "default") -> None:
    """Show what happened to a service, newest first.

    Example: [bold]mooring services events mooring-demo[/bold]
    """
    path = object_path(find_kind("ModelService"), name)  # takes services of either kind
    items = session.client.get(f"{path}/events", project=project)["items"]
    if session.output is not Format.table:
        print_data({"items": items}, session.output)
        return
    if not items:
        say("Nothing yet.")
        return
    rows = [[event["at"][:19].replace("T", " "), event["level"], event["message"]] for event in items]
    print_table(["AT (UTC)", "LEVEL", "MESSAGE"], rows)


def _act(session: Session, name: str, project: str, action: str) -> None:
    kind = find_kind("ModelService")
    changed = session.client.post(f"{object_path(kind, name)}/{action}", {}, project=project)
    print_object(changed, kind.columns, session.output)


def _switch(session: Session, name: str, project: str, enabled: bool) -> None:
    kind, item = get_service(session.client, name, project)
    change_object(session, kind, item["id"], project, {"enabled": enabled})
