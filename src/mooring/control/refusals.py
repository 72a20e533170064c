"""Refusals that several nouns share."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from mooring.core.errors import MooringError, Unprocessable
from mooring.core.objects import Moderation
from mooring.store.database import Transaction
from mooring.store.projects import find_project


@contextmanager
def in_spec() -> Generator[None]:
    """Let the refusals of an engine name its field as the user wrote it: `args` is `spec.args`."""
    try:
        yield
    except MooringError as error:
        if error.param and not error.param.startswith("spec."):
            error.param = f"spec.{error.param}"
        raise


def refuse_moderation(moderation: Moderation | None) -> None:
    """Raise Unprocessable when moderation is asked for: this version has none."""
    if moderation is not None and moderation.enabled:
        raise Unprocessable(
            "This version can't moderate content yet.",
            next_step="Leave 'moderation' out or set its 'enabled' to false.",
            param="spec.moderation.enabled",
            code="not_supported_yet",
        )


async def require_project(tx: Transaction, name: str) -> None:
    """Raise Unprocessable when the project does not exist."""
    found = await find_project(tx, name)
    if found is None or found.metadata.name != name:
        raise Unprocessable(
            f"There is no project '{name}'.",
            next_step="Create the project first, or name one that GET /manage/v1/projects lists.",
            param="metadata.project",
        )
