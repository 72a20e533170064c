"""Secret: named confidential values, such as an upstream's key. Written, used, never read again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mooring.core.objects import Metadata, Noun, Resource, Status

DataKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
DataValue = Annotated[str, StringConstraints(max_length=65536)]
TOKEN = "token"  # the key read when a secret stands for one credential


class SecretSpec(Noun, frozen=True):
    """The values, on the way in only."""

    type: Literal["Opaque"] = "Opaque"
    string_data: Annotated[dict[DataKey, DataValue], Field(max_length=100)] | None = Field(default=None, repr=False)


class SecretStatus(Status, frozen=True):
    """Which values a secret holds, never the values."""

    keys: list[str] = Field(default_factory=list)  # names of the values held


class Secret(Resource[Metadata, SecretSpec, SecretStatus], frozen=True):
    """A secret of one project."""

    kind: Literal["Secret"] = "Secret"
    status: SecretStatus = SecretStatus()


def token_key(keys: list[str]) -> str | None:
    """Return which value of a secret is its credential: `token`, or the only one; None if that is unclear."""
    if TOKEN in keys:
        return TOKEN
    return keys[0] if len(keys) == 1 else None
