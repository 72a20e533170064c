"""`mooring backup` and `mooring restore`: the whole installation in one file. Both work on the data directory."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mooring.cli.problems import CommandError, UsageError
from mooring.cli.session import given_before

if TYPE_CHECKING:
    from mooring.control.archive import Backup
    from mooring.settings import Settings

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", envvar="MOORING_DATA_DIR", help="The data directory (default: .mooring).", callback=given_before
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(envvar="MOORING_DATABASE_URL", help="postgresql://… (default: SQLite in the data directory)."),
]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File whose first line is the passphrase.")
]
Passphrase = Annotated[
    str,
    typer.Option(
        "--passphrase",
        envvar="MOORING_BACKUP_PASSPHRASE",
        help="The passphrase itself; rather give it by file or variable, for others may see command lines.",
    ),
]


def backup(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.", metavar="FILE")],
    data_dir: FolderOption = None,
    database_url: DatabaseUrl = None,
    passphrase_file: PassphraseFile = None,
    passphrase: Passphrase = "",
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Leave the secret key out; restore then needs it beside the backup.")
    ] = False,
) -> None:
    """Write everything but model files to one file. The platform may run and serve meanwhile.

    Example: [bold]mooring backup mooring-2026-11-25.zip[/bold]
    """
    from mooring.cli.output import say
    from mooring.control.backup import make

    chosen = _settings(data_dir, database_url)
    secret = None
    if not without_key:
        secret = _passphrase(passphrase_file, passphrase, new=True)
    with _told(f"{file} can't be written"):
        made = make(chosen, file, secret)
    files = _count(made.journal_files, "journal file")
    say(f"Wrote {file}: {_summary(made.rows)}, {files}; {_size(made.size_bytes)}.")
    if without_key:
        say(f"The secret key is not in it: keep {chosen.data_dir / 'secret.key'} elsewhere. Restoring needs it.")
    else:
        say("The secret key in it is sealed with the passphrase. Restoring needs that.")
    say("Model files are not in it.")


def restore(
    file: Annotated[Path, typer.Argument(help="File that `mooring backup` wrote.", metavar="FILE")],
    data_dir: FolderOption = None,
    database_url: DatabaseUrl = None,
    passphrase_file: PassphraseFile = None,
    passphrase: Passphrase = "",
    secret_key: Annotated[
        Path | None, typer.Option("--secret-key", help="The installation's secret.key, instead of a passphrase.")
    ] = None,
) -> None:
    """Put a backup into an empty data directory and an empty database: all of it or nothing.

    Example: [bold]mooring restore mooring-2026-11-25.zip --data-dir /srv/mooring[/bold]
    """
    from mooring.cli.output import say
    from mooring.control.restore import restore as carry_out

    chosen = _settings(data_dir, database_url)
    with _told(f"{file} can't be restored"):
        held = carry_out(chosen, file, _key_finder(secret_key, passphrase_file, passphrase))
    made = f"{held.created_at} by Mooring {held.mooring}"
    say(f"Restored into {chosen.data_dir} what was backed up at {made}: {_summary(held.tables)}.")
    place = f" --data-dir {shlex.quote(str(chosen.data_dir))}" if data_dir is not None else ""
    say(f"All keys and passwords are as they were. Start it with: mooring up{place}")
    if chosen.database_url:
        say("Give that, and what follows, the same database, as --database-url or MOORING_DATABASE_URL.")
    say(f"If the administrator's password is lost: mooring admin reset{place}")
    say("Models from files on this machine need these files again; models from a hub are fetched again.")


def _settings(data_dir: Path | None, database_url: str | None) -> Settings:
    from mooring import settings

    try:
        return settings.load(data_dir=data_dir, database_url=database_url)
    except settings.SettingError as error:
        raise UsageError(str(error)) from None


def _key_finder(secret_key: Path | None, passphrase_file: Path | None, passphrase: str) -> Callable[[Backup], bytes]:
    """Return the function that gives the secret key of a backup: from its file, or opened with the passphrase."""

    def find(held: Backup) -> bytes:
        from mooring.control.key_sealing import open_key, read_key

        if secret_key is not None:
            return read_key(secret_key, "Give the secret.key of the installation that the backup was made of.")
        if not held.manifest.has_key:
            raise UsageError(
                "This backup was made without its secret key.", "Give the installation's secret.key with --secret-key."
            )
        return open_key(held.key(), _passphrase(passphrase_file, passphrase, new=False))

    return find


def _passphrase(file: Path | None, given: str, *, new: bool) -> str:
    """Return the passphrase from the file, the variable or the terminal.

    Raises:
        UsageError: none is given and nobody can be asked, or the file can't be read.
    """
    if file is not None:
        try:
            found = file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or "it is not text"
            raise UsageError(f"--passphrase-file {file} can't be read: {cause}.") from None
    else:
        found = given
    if found:
        return found
    if file is not None or not sys.stdin.isatty():
        advice = "Give one with --passphrase-file or MOORING_BACKUP_PASSPHRASE" + (
            ", or use --without-key." if new else "."
        )
        raise UsageError(f"{file} holds no passphrase." if file else "There is no passphrase.", advice)
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True))


@contextmanager
def _told(failure: str) -> Generator[None]:
    """Turn failures into messages, and SIGTERM into an orderly end that leaves nothing half done."""
    from mooring.control.sealing import SecretKeyBroken
    from mooring.core.errors import MooringError
    from mooring.store.database import DatabaseBroken

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except MooringError as error:
        raise CommandError(error.message, error.next_step) from None
    except (DatabaseBroken, SecretKeyBroken) as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise CommandError(f"{failure}: {error.strerror or error}{where}.", "Nothing was left behind.") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _summary(rows: Mapping[str, int]) -> str:
    tables = {"usage_requests": "usage record", "services": "service", "api_keys": "key"}
    return ", ".join(_count(rows[table], noun) for table, noun in tables.items())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB" if size_bytes >= 1 << 20 else f"{size_bytes >> 10} KiB"
