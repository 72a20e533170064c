"""User: a person or program with an account. Its role bounds what its API keys may do."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mooring.core.objects import Name, Noun, Resource, Status

Role = Literal["administrator", "member"]
Password = Annotated[str, StringConstraints(min_length=8, max_length=256)]


class UserMetadata(Noun, frozen=True):
    """Users have neither project nor tags."""

    name: Name
    created_at: datetime | None = None


class UserSpec(Noun, frozen=True):
    """`password` is only ever written; no answer holds it."""

    role: Role = "member"
    enabled: bool = True
    password: Password | None = Field(default=None, repr=False)


class User(Resource[UserMetadata, UserSpec, Status], frozen=True):
    """An account."""

    kind: Literal["User"] = "User"
    status: Status = Status()


def user_status(*, enabled: bool) -> Status:
    """Return the state of an account."""
    if enabled:
        return Status(state="Active")
    return Status(state="Disabled", reason="An administrator disabled this user; its keys are refused.")
