"""What `mooring doctor` says of one thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "BAD"]


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        level: BAD is a fault; a note is worth knowing and no fault.
        next_step: what to do; "" when there is nothing to do.
    """

    name: str
    level: Level
    found: str
    next_step: str = ""

    @property
    def fine(self) -> bool:
        """Whether it is no fault."""
        return self.level != "BAD"

    def told(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "name": self.name,
            "level": self.level,
            "fine": self.fine,
            "found": self.found,
            "nextStep": self.next_step,
        }


def check(name: str, fine: bool, found: str, next_step: str, *, otherwise: Level = "BAD") -> Check:
    """Return an ok, or what it is `otherwise` with its next step."""
    return Check(name, "ok", found) if fine else Check(name, otherwise, found, next_step)
