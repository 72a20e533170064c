"""`mooring admin …`: the administrator's way in, for whoever owns the data directory. Works on its files."""

from __future__ import annotations

from pathlib import Path

import typer

from mooring.cli.problems import CommandError
from mooring.cli.session import DataDir, Format, OutputFormat, read_admin_file

app = typer.Typer(help="The administrator's way in, for the owner of the data directory.", no_args_is_help=True)


@app.command()
def reset(data_dir: DataDir = None, output: OutputFormat = Format.table) -> None:
    """Give the administrator a new password and a new key, written to admin.json.

    Example: [bold]mooring admin reset[/bold]
    """
    from mooring import settings
    from mooring.cli.output import print_data, say
    from mooring.control.bootstrap import reset_administrator
    from mooring.core.errors import MooringError

    try:
        chosen = settings.load(data_dir=data_dir)
        if not chosen.data_dir.exists():
            raise CommandError(f"There is no {chosen.data_dir}.", "Name the data directory with --data-dir.")
        made = reset_administrator(chosen)
    except settings.SettingError as error:
        raise CommandError(str(error)) from None
    except MooringError as error:
        raise CommandError(error.message, error.next_step) from None
    except OSError as error:
        raise CommandError(f"{chosen.data_dir} can't be changed: {error.strerror}.") from None
    if output is Format.table:
        say(f"A new password and a new key are in {chosen.data_dir / 'admin.json'}.")
    else:
        print_data(made, output)


@app.command()
def seal(data_dir: DataDir = None) -> None:
    """Remove the password from admin.json; keep it elsewhere first. The key stays: commands use it.

    Example: [bold]mooring admin seal[/bold]
    """
    from mooring.cli.output import say
    from mooring.control import admin_file

    folder = data_dir or Path(".mooring")
    if not read_admin_file(folder):
        raise CommandError(f"There is no {folder / 'admin.json'}.", "Name the data directory with --data-dir.")
    try:
        sealed = admin_file.seal(folder)
    except OSError as error:
        raise CommandError(f"{folder / 'admin.json'} can't be written: {error.strerror}.") from None
    say(f"{folder / 'admin.json'} holds no password any more." if sealed else "It held no password already.")
