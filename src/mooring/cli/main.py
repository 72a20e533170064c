"""The `mooring` command, and the one place where a failure becomes a message and an exit status.

Exit status: 0 done · 1 refused or failed · 2 wrong usage. Command modules import the heavy parts on use, so
that `mooring --help` and `mooring up` start quickly.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mooring.cli import (
    admin,
    apply,
    backup,
    cache,
    chat,
    completion,
    deploy,
    doctor,
    endpoints,
    keys,
    objects,
    projects,
    secrets,
    service_pages,
    services,
    terms,
    up,
    usage,
)
from mooring.cli.output import wrapped
from mooring.cli.problems import CommandError

app = typer.Typer(
    name="mooring",
    help="Deploy language models and govern them behind one gateway.",
    epilog="Start with: mooring up",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command(rich_help_panel="Platform")(up.up)
app.command(rich_help_panel="Platform")(doctor.doctor)
app.command(rich_help_panel="Platform")(backup.backup)
app.command(rich_help_panel="Platform")(backup.restore)
app.add_typer(cache.app, name="cache", rich_help_panel="Platform")
app.add_typer(terms.app, name="terms", rich_help_panel="Platform")
app.add_typer(admin.app, name="admin", rich_help_panel="Platform")
app.command(rich_help_panel="Platform")(completion.completion)
app.command(rich_help_panel="Models")(deploy.deploy)
app.command(rich_help_panel="Models")(chat.chat)
app.add_typer(services.app, name="services", rich_help_panel="Models")
app.add_typer(endpoints.app, name="endpoints", rich_help_panel="Models")
app.add_typer(keys.app, name="keys", rich_help_panel="Models")
app.command(rich_help_panel="Models")(service_pages.logs)
app.command(rich_help_panel="Models")(service_pages.events)
app.command(rich_help_panel="Models")(usage.usage)
app.command(rich_help_panel="Objects")(apply.apply)
app.command(rich_help_panel="Objects")(objects.get)
app.command(rich_help_panel="Objects")(objects.delete)
app.add_typer(secrets.app, name="secrets", rich_help_panel="Objects")
app.add_typer(projects.app, name="projects", rich_help_panel="Objects")


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def main(
    url: Annotated[str, typer.Option("--url", help="Base URL of the platform.")] = "",
    key: Annotated[str, typer.Option("--key", help="API key with full access, or user:password.")] = "",
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder of the platform.")] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Deploy language models and govern them behind one gateway."""
    # The commands look here for what they were not given themselves: session.given_before.


@app.command(rich_help_panel="Platform")
def version() -> None:
    """Show the version.

    Example: [bold]mooring version[/bold]
    """
    from mooring import __version__

    print(f"mooring {__version__}")


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit status."""
    try:
        app(arguments, prog_name="mooring")  # also as `python -m mooring`; completion goes by it
    except CommandError as error:
        print(wrapped(f"Error: {error.message}", sys.stderr), file=sys.stderr)
        for fault in error.faults if len(error.faults) > 1 else ():
            place = f"{fault['place']}, " if fault.get("place") else ""
            print(f"  {place}{fault.get('field')}: {fault.get('message')}", file=sys.stderr)
        if next_step := terms.NEXT_STEP if error.code == terms.NOT_AGREED else error.next_step:
            print(wrapped(next_step, sys.stderr), file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # typer takes it for a failure
            _leave_quietly()
        raise
    except BrokenPipeError:
        _leave_quietly()


def _leave_quietly() -> NoReturn:
    """End after the reader left (`mooring get keys | head`): nothing more may be written, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    sys.exit(0)
