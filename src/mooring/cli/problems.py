"""What a command says when it can't do what was asked: what happened and what to do next."""

from __future__ import annotations

from typing import Any


class CommandError(Exception):
    """A command ends without having done its work.

    Attributes:
        message: what happened, one sentence.
        next_step: what the user should do now; may be empty.
        status: exit status of the process: 1 refused, 2 wrong usage.
        answered: HTTP status of the platform's refusal; 0 if it did not answer, or was not asked.
        code: the refusal's own name, for programs; "" if it has none.
        faults: what is wrong where, each with `field`, `message` and, of several documents, `index` from 0.
    """

    def __init__(self, message: str, next_step: str = "", *, status: int = 1) -> None:
        self.message = message
        self.next_step = next_step
        self.status = status
        self.answered = 0
        self.code = ""
        self.faults: list[dict[str, Any]] = []
        super().__init__(message)


class NotFoundError(CommandError):
    """The platform has no such thing."""


class RefusedKeyError(CommandError):
    """The platform does not take the key."""


class UsageError(CommandError):
    """The command line is wrong: exit status 2."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message, next_step, status=2)
