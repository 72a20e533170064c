"""`mooring secrets …`: credentials that the platform keeps sealed and never shows again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mooring.cli.completion import names
from mooring.cli.deployment import pairs
from mooring.cli.kinds import API, apply_documents, find_kind, get_object
from mooring.cli.objects import DryRun, delete_object, list_objects, rehearsal
from mooring.cli.output import print_data, print_object, say
from mooring.cli.problems import CommandError, UsageError
from mooring.cli.session import Format, Project, Session, connected

app = typer.Typer(help="Credentials, kept sealed and never shown.", no_args_is_help=True)
USUAL = "token"  # what services and hubs look for in a secret
SecretName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name or id of the secret.", autocompletion=names("secret"))
]


@app.command("list")
@connected
def list_(session: Session, project: Project = "default") -> None:
    """List the secrets of a project.

    Example: [bold]mooring secrets list[/bold]
    """
    list_objects(session, "secret", project)


@app.command()
@connected
def get(session: Session, name: SecretName, project: Project = "default") -> None:
    """Show which values a secret holds; never the values.

    Example: [bold]mooring secrets get hf[/bold]
    """
    print_data(get_object(session.client, find_kind("secret"), name, project), session.output)


@app.command()
@connected
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name: 1–63 of a–z 0–9 . -")],
    from_literal: Annotated[
        list[str] | None, typer.Option("--from-literal", metavar="KEY=VALUE", help="A value. May be repeated.")
    ] = None,
    from_file: Annotated[
        list[str] | None,
        typer.Option("--from-file", metavar="KEY=PATH", help="A value from a file, - for stdin. May be repeated."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Replace all values of one that exists.")] = False,
    dry_run: DryRun = False,
    project: Project = "default",
) -> None:
    """Create a secret. Without values named, `token` is asked for, or read from stdin, so that no history keeps it.

    Example: [bold]mooring secrets create hf --from-file token=./hf-token.txt[/bold]
    """
    values = read_values(from_literal or [], from_file or [])
    document = {"kind": "Secret", "metadata": {"name": name, "project": project}, "spec": {"stringData": values}}
    if update:
        item = apply_documents(session.client, [document], dry_run=dry_run)[0]
    else:
        item = session.client.post(f"{API}/secrets", document, **rehearsal(dry_run))
    if session.output is Format.table:
        done = item.get("action", "created")
        say(f"The secret {name} {f'would be {done}' if dry_run else f'is {done}'}: {', '.join(sorted(values))}.")
    print_object(item, find_kind("secret").columns, session.output)


@app.command()
@connected
def delete(session: Session, name: SecretName, dry_run: DryRun = False, project: Project = "default") -> None:
    """Delete a secret that nothing uses any more.

    Example: [bold]mooring secrets delete hf[/bold]
    """
    delete_object(session, "secret", name, project, dry_run=dry_run)


def read_values(literals: list[str], files: list[str]) -> dict[str, str]:
    """Return the values that the options name; with none, `token` from the terminal without echo, or from stdin.

    Raises:
        UsageError: an option is not of its form, a name is given twice, or there is no value.
        CommandError: a file can't be read.
    """
    values = pairs("--from-literal", literals)
    for key, path in pairs("--from-file", files).items():
        if key in values:
            raise UsageError(f"The value '{key}' is given twice.")
        values[key] = _read(path)
    if not values:
        values = {USUAL: _ask() if sys.stdin.isatty() else sys.stdin.read().strip()}
    if empty := [key for key, value in values.items() if not value]:
        raise UsageError(f"The value '{empty[0]}' is empty.", "Give it with --from-file KEY=PATH, or on stdin.")
    return values


def _ask() -> str:
    import getpass

    return getpass.getpass(f"{USUAL}: ").strip()


def _read(path: str) -> str:
    """Return a file's text without the line end that editors put behind it."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} can't be read: {error}.") from None
    return text.removesuffix("\n").removesuffix("\r")
