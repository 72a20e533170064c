"""Lists: what may be asked for, and the opaque cursor that says where the next page starts."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from mooring.core.errors import Invalid

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000

T = TypeVar("T", covariant=True)


@dataclass(frozen=True, slots=True)
class Query:
    """Which objects. Empty = all. `after` is (name, id) of the last one already seen."""

    project: str = ""
    tag: tuple[str, str] | None = None
    state: str = ""
    text: str = ""  # part of the name
    owner: str = ""  # user id; keys only
    after: tuple[str, str] | None = None
    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """`cursor` is None on the last page."""

    items: list[T]
    cursor: str | None = None


def encode_cursor(*parts: str | float) -> str:
    """Return an opaque cursor that holds `parts`."""
    return base64.urlsafe_b64encode(json.dumps(parts, ensure_ascii=False).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: type) -> tuple[Any, ...]:
    """Return the parts of a cursor, checked to be of `kinds`.

    Raises:
        Invalid: it is not a cursor that this kind of list gave out.
    """
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        parts = None if "\\u" in text else json.loads(text)  # ours hold no escapes; NULs and half surrogates do
    except (ValueError, binascii.Error, RecursionError):
        parts = None
    if isinstance(parts, list):
        values = cast("list[Any]", parts)
        if len(values) == len(kinds) and all(isinstance(v, k) for v, k in zip(values, kinds, strict=True)):
            return tuple(values)
    raise Invalid(
        "The cursor is not valid.", next_step="Send the 'cursor' of the previous page, or none.", param="cursor"
    )
