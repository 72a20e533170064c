"""`mooring terms …`: the text whoever deploys must agree to, where an administrator has set one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mooring.cli.client import Client
from mooring.cli.kinds import API
from mooring.cli.output import print_data, say
from mooring.cli.problems import CommandError, UsageError
from mooring.cli.session import Format, Session, connected

app = typer.Typer(help="Terms of use that whoever deploys must agree to.", no_args_is_help=True)
HEADER = "Mooring-Agree-Terms"
NOT_AGREED = "terms_not_accepted"
NEXT_STEP = "Read them with: mooring terms show. Then repeat the command with --agree-terms."
AgreeTerms = Annotated[bool, typer.Option("--agree-terms", help="Agree to the platform's terms of use.")]


@app.command()
@connected
def show(session: Session) -> None:
    """Show the terms of use.

    Example: [bold]mooring terms show[/bold]
    """
    terms = session.client.get(f"{API}/terms")
    if session.output is not Format.table:
        print_data(terms, session.output)
    elif terms.get("text"):
        print(terms["text"].rstrip())
    else:
        say("There are no terms of use: nobody needs to agree to anything.")


@app.command("set")
@connected
def set_(
    session: Session,
    file: Annotated[str, typer.Argument(help="Text file, or - for stdin. An empty one: no terms any more.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
) -> None:
    """Set the terms of use, as an administrator. Whoever makes a service or an endpoint must agree to them.

    Example: [bold]mooring terms set terms.txt[/bold]
    """
    text = read_text(file)
    if dry_run:
        say(f"Would set {len(text)} characters as the terms of use." if text else "Would remove the terms of use.")
        return
    terms = session.client.put(f"{API}/terms", {"text": text})
    if session.output is not Format.table:
        print_data(terms, session.output)
    else:
        say(f"The terms of use are set, version {terms['version']}." if text else "There are no terms of use any more.")


def agree(client: Client) -> None:
    """Let all further calls of `client` say that its user agrees to the terms of use as they are now."""
    terms = client.get(f"{API}/terms")
    if terms.get("text"):
        client.headers[HEADER] = terms["version"]


def read_text(file: str) -> str:
    """Return the stripped text of a file, or of stdin for "-".

    Raises:
        UsageError: there is no such file.
        CommandError: it can't be read.
    """
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")).strip()
    except FileNotFoundError:
        raise UsageError(f"There is no file {file}.", "Give a text file, or - for stdin.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} can't be read: {error}.") from None
