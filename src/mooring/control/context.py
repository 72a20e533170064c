"""Who orders something, and what the rules need to judge it."""

from __future__ import annotations

from dataclasses import dataclass

from mooring.control.sealing import Sealer
from mooring.core.errors import Forbidden
from mooring.settings import Settings


@dataclass(frozen=True, slots=True)
class Actor:
    """The caller of a management operation, with the rights of this moment."""

    user_id: str
    name: str
    administrator: bool
    key_id: str = ""  # "" when a password was used
    agreed_terms: str = ""  # version of the terms of use that this request says its caller agrees to

    @property
    def told(self) -> str:
        """How the audit names the caller."""
        return f"user:{self.name}" + (f" key:{self.key_id}" if self.key_id else "")


@dataclass(frozen=True, slots=True)
class Context:
    """What rules read besides the order itself."""

    settings: Settings
    sealer: Sealer


def require_administrator(actor: Actor, deed: str) -> None:
    """Let only administrators pass. `deed` ends the sentence 'Only an administrator may …'.

    Raises:
        Forbidden: the caller is none.
    """
    if not actor.administrator:
        raise Forbidden(f"Only an administrator may {deed}.")
