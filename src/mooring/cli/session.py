"""How a command finds the platform it talks to, and the options that all such commands share.

`@connected` gives a command function its `session`, and the command line the options --url, --key, --data-dir
and --output; where a thing belongs to a project, `Project` is the option.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from mooring.cli.problems import CommandError, UsageError

if typing.TYPE_CHECKING:
    from mooring.cli.client import Client

SHARED = "Connection and output"


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    yaml = "yaml"


def given_before(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Take what stands before the sub-command (`mooring --url … get keys`) unless it stands behind it too."""
    root = context.find_root()
    before = root.params.get(parameter.name or "")
    source = context.get_parameter_source(parameter.name or "")
    own = root is context or (source is not None and source.name == "COMMANDLINE")
    return value if own or not before else before


Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="MOORING_URL",
        help="Base URL of the platform.",
        rich_help_panel=SHARED,
        callback=given_before,
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--key",
        envvar="MOORING_API_KEY",
        help="API key with full access, or user:password.",
        rich_help_panel=SHARED,
        callback=given_before,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="MOORING_DATA_DIR",
        help="Where admin.json names URL and key (default: .mooring).",
        rich_help_panel=SHARED,
        callback=given_before,
    ),
]
OutputFormat = Annotated[
    Format, typer.Option("--output", "-o", help="How to print the result.", rich_help_panel=SHARED)
]
Project = Annotated[
    str, typer.Option("--project", "-p", envvar="MOORING_PROJECT", help="Project the thing belongs to.")
]


@dataclass(frozen=True)
class Session:
    """A platform to talk to and a way to print. `endpoint` is the one made at the first start, if known."""

    client: Client
    output: Format
    data_dir: Path
    endpoint: str = ""


def read_admin_file(data_dir: Path) -> dict[str, Any]:
    """Return admin.json of a data directory, {} if there is none.

    Raises:
        CommandError: it is there but can't be read.
    """
    path = data_dir / "admin.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except PermissionError:
        raise CommandError(
            f"{path} may be read by its owner only.",
            "Run this as the user who runs the platform, or give --key.",
        ) from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} can't be read: {error}.", "Give --url and --key instead.") from None


def connect(url: str, key: str, data_dir: Path | None, output: Format) -> Session:
    """Return the session for what the command line says; what it leaves out comes from admin.json.

    Raises:
        CommandError: nothing says where the platform is or with which key to call it.
    """
    from mooring.cli.client import Client, is_loopback

    folder = data_dir or Path(".mooring")
    admin = read_admin_file(folder)
    url = with_scheme(url)
    base_url = url or admin.get("base_url") or "http://127.0.0.1:8080"
    # The key in admin.json is for that platform only: never sent to another address.
    ours = not url or same_platform(url, admin.get("base_url") or "")
    chosen = key or (admin.get("api_key") if ours else "") or ""
    if not chosen and not url and not admin:
        raise CommandError(
            f"There is no platform in {folder}/ here.",
            "Start one with: mooring up. Or name one with --data-dir, or with --url and --key.",
        )
    if not chosen and not ours and admin:
        raise CommandError(
            f"The key in {folder / 'admin.json'} is for {admin.get('base_url')} and is not sent to {url}.",
            "Give a key for that address with --key or MOORING_API_KEY, its data directory with --data-dir, "
            "or leave --url (MOORING_URL) out.",
        )
    if not chosen:
        raise CommandError(
            "There is no key to call the platform with.",
            "Give one with --key or MOORING_API_KEY, or run this where the data directory is (--data-dir).",
        )
    certificate = folder / "tls" / "cert.pem" if is_loopback(base_url) else None
    client = Client(base_url, chosen, certificate)
    return Session(client, output, folder, str(admin.get("endpoint_id") or "") if ours else "")


def with_scheme(url: str) -> str:
    """Return a base URL as given, or with `http://` before a bare `host:port`; "" stays.

    Raises:
        UsageError: it is no HTTP address.
    """
    if not url:
        return ""
    full = (url if "://" in url else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(full)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        fine = False
    if not fine:
        raise UsageError(f"--url {url}: not an address.", "Write it like http://127.0.0.1:8080.")
    return full


def same_platform(first: str, second: str) -> bool:
    """Whether two base URLs lead to the same platform; all names of the loopback are one."""
    return bool(first) and bool(second) and _place(first) == _place(second)


def _place(url: str) -> tuple[str, str, int, str]:
    from mooring.cli.client import is_loopback

    parts = urlsplit(url)
    host = "loopback" if is_loopback(url) else parts.hostname or ""
    return parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/")


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Turn `command(session, …)` into a command with the shared options instead of `session`."""

    def run(*, url: str, key: str, data_dir: Path | None, output: Format, **own: Any) -> None:
        command(connect(url, key, data_dir, output), **own)

    shared = {
        "url": (Url, ""),
        "key": (Key, ""),
        "data_dir": (DataDir, None),
        "output": (OutputFormat, Format.table),
    }
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "session"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in shared.items()
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + added
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
