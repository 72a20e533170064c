"""`mooring completion`: the shell's Tab knows commands and options, and the names of what the platform holds."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

TIMEOUT_S = 1.0  # whoever presses Tab does not wait longer


class Shell(StrEnum):
    """Shells we print a script for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.", show_default=False)]) -> None:
    """Print the script that teaches a shell to complete our commands. In ~/.bashrc: source <(mooring completion bash)

    Example: [bold]mooring completion bash[/bold]
    """
    from typer._completion_shared import get_completion_script  # the one behind typer's own --show-completion

    print(get_completion_script(prog_name="mooring", complete_var="_MOORING_COMPLETE", shell=str(shell)))


def names(*words: str) -> Callable[[typer.Context, str], list[str]]:
    """Return a completer for the names of all objects of some kinds; of none if the platform does not answer."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        return [name for name in _listed(context, words) if name.startswith(incomplete)]

    return complete


def complete_kinds(incomplete: str) -> list[str]:
    """Return the kinds that begin like this."""
    from mooring.cli.kinds import KINDS

    return [kind.words[0] for kind in KINDS if kind.words[0].startswith(incomplete)]


def complete_objects(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the kind that stands before them on the command line."""
    kind = context.params.get("kind")
    return names(kind.name)(context, incomplete) if kind is not None else []


complete_services = names("service", "external")
complete_models = names("service")
complete_endpoints = names("endpoint")


def _listed(context: typer.Context, words: tuple[str, ...]) -> list[str]:
    from mooring.cli.kinds import API, find_kind
    from mooring.cli.problems import CommandError
    from mooring.cli.session import Format, connect

    given = {**context.find_root().params, **{name: value for name, value in context.params.items() if value}}
    try:
        session = connect(given.get("url") or "", given.get("key") or "", given.get("data_dir"), Format.table)
        session.client.timeout_s = TIMEOUT_S
        project = given.get("project") or "default"
        found = [
            item["metadata"]["name"]
            for word in words
            for item in session.client.items(f"{API}/{find_kind(word).collection}", project=project)
        ]
    except CommandError:
        return []
    return sorted(found)
