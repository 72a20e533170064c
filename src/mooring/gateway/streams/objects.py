"""Reads and writes the JSON of services, also where it is not quite JSON."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, cast

import msgspec

Members = dict[str, Any]
_SPACE = " \t\r\n,"  # between values that stand one behind the other
_HALF = re.compile(  # of a character beyond the basic plane, written as an escape
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_lenient = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and Infinity, which JSON has not, become null


class Read(NamedTuple):
    """The objects of a payload. `plain`: it is exactly one, in strict JSON, so that its bytes may leave as they are."""

    objects: list[Members]
    plain: bool


def read_objects(payload: bytes) -> Read | None:
    """Return the JSON objects of a payload, usually one; None when it can't be read. What is no object is left out."""
    try:
        value: Any = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_several(payload)
    if isinstance(value, dict):
        return Read([cast("Members", value)], True)
    values = cast("list[Any]", value) if isinstance(value, list) else []
    return Read([cast("Members", item) for item in values if isinstance(item, dict)], False)


def read_object(written: bytes) -> Members:
    """Return the one object of what was read before."""
    read = read_objects(written)
    assert read is not None
    return read.objects[0]


def _read_several(payload: bytes) -> Read | None:
    """Read objects that stand one behind the other, or that hold what only lenient readers take."""
    found: list[Members] = []
    text = payload.decode(errors="replace").strip(_SPACE)
    at = 0
    try:
        while at < len(text):
            value, at = _lenient.raw_decode(text, at)
            if not isinstance(value, dict):
                return None
            found.append(cast("Members", value))
            while at < len(text) and text[at] in _SPACE:
                at += 1
    except (ValueError, RecursionError):
        return None
    return Read(found, False) if found else None


def write_object(value: Members) -> bytes:
    """Return an object as JSON, also with half a character (a lone surrogate) in it."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def write_whole(value: Members) -> bytes:
    """Return an object as JSON that every reader takes: half characters are replaced, no other half will follow."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _HALF.sub(b"\\\\ufffd", write_object(value))


def without_halves(value: Members) -> Members:
    """Return an object that every encoder writes."""
    return _decode(write_whole(value))


def write_value(value: Any) -> str:
    """Return any value as JSON text."""
    return write_object(value).decode()


def whole_text(parts: list[str]) -> str:
    """Return pieces of text as one: halves of a character that were parted are joined, lone ones replaced."""
    return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
