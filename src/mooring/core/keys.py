"""API key: lets a program call. Its secret is shown once; its label and description never change."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from mooring.core.objects import (
    DEFAULT_PROJECT,
    DESCRIPTION_PATTERN,
    LABEL_PATTERN,
    Limits,
    Name,
    Noun,
    Resource,
    Status,
    Tags,
)

Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]
Description = Annotated[str, StringConstraints(pattern=DESCRIPTION_PATTERN)]
Access = Literal["full", "inference"]


class KeyMetadata(Noun, frozen=True):
    """`name` is the label."""

    name: Label
    project: Name = DEFAULT_PROJECT
    tags: Tags = Field(default_factory=dict)
    created_at: datetime | None = None


class ApiKeySpec(Noun, frozen=True):
    """`endpoints` confines the key to some endpoints (names or ids); None = all of its project.

    `expiresAt` or, in days from its making, `ttlDays`; neither = it does not expire.
    """

    description: Description | None = None
    endpoints: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = None
    access: Access = "inference"
    limits: Limits = Limits()
    expires_at: AwareDatetime | None = None
    ttl_days: Annotated[int, Field(strict=True, ge=1, le=36500)] | None = None
    enabled: bool = True

    @model_validator(mode="after")
    def _one_way_to_expire(self) -> Self:
        if self.expires_at is not None and self.ttl_days is not None:
            raise ValueError("give expiresAt or ttlDays, not both")
        return self


class KeyStatus(Status, frozen=True):
    """`key` and `accessKey` are set in the answer to the creation only."""

    owner: str = ""  # user id
    owner_name: str = ""
    key: str | None = Field(default=None, repr=False)
    access_key: str | None = Field(default=None, repr=False)


class ApiKey(Resource[KeyMetadata, ApiKeySpec, KeyStatus], frozen=True):
    """An API key of one user in one project."""

    kind: Literal["ApiKey"] = "ApiKey"
    status: KeyStatus = KeyStatus()


def expiry(spec: ApiKeySpec, made_at: datetime) -> datetime | None:
    """Return when the key ends, or None."""
    if spec.ttl_days is not None:
        return made_at + timedelta(days=spec.ttl_days)
    return spec.expires_at


def key_state(*, enabled: bool, owner_enabled: bool, expires_at: datetime | None, now: datetime) -> tuple[str, str]:
    """Return (Active | Expired | Disabled, reason)."""
    if not owner_enabled:
        return "Disabled", "Its owner is disabled."
    if not enabled:
        return "Disabled", "The key is switched off."
    if expires_at is not None and expires_at <= now:
        return "Expired", f"It expired at {expires_at.isoformat()}."
    return "Active", ""
