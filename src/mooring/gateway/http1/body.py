"""Editing a JSON request body as bytes: find a top-level member's value, replace it, add a member.

Bodies are spliced, never re-serialised: numbers keep their digits, unknown members their spelling. The body has
been parsed once before, so these functions may assume valid JSON whose top level is an object.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]', re.DOTALL)
_SPACE = b" \t\r\n"


class Edit(NamedTuple):
    """Replace `body[start:end]` by `text`."""

    start: int
    end: int
    text: bytes


class Member(NamedTuple):
    """Where one top-level member stands: its key (with quotes) and its value (without surrounding space)."""

    key_start: int
    key_end: int
    start: int
    end: int


def find_value(body: bytes, name: bytes, value: bytes) -> tuple[int, int] | None:
    """Return the span of the top-level member `name`, whose raw value is known, if it can be told at a glance.

    That is so when `"name"` occurs once in the whole body and no letter is written as `\\u00..`: the parser has
    seen the member, so the one occurrence is it. Else None: use `find_members`.
    """
    quoted = b'"%b"' % name
    at = body.find(quoted)
    if at < 0 or body.find(quoted, at + 1) >= 0 or (b"\\" in body and b"\\u00" in body):
        return None
    start = body.find(b":", at) + 1
    while body[start] in _SPACE:
        start += 1
    end = start + len(value)
    return (start, end) if body[start:end] == value else None


def find_members(body: bytes, name: str) -> list[Member]:
    """Return every top-level member called `name` (escapes in the key resolved), in order."""
    found: list[Member] = []
    depth = 0
    key: tuple[int, int] | None = None
    value_start = -1
    for token in _TOKEN.finditer(body):
        text = token.group()
        first = text[0]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
        if depth == 1 and first == 0x22 and key is None:
            key = token.span()
        elif depth == 1 and first == 0x3A and value_start < 0:
            value_start = token.end()
        elif key is not None and value_start >= 0 and ((depth == 1 and first == 0x2C) or depth == 0):
            if msgspec.json.decode(body[key[0] : key[1]]) == name:
                found.append(_trimmed(body, key, value_start, token.start()))
            key, value_start = None, -1
    return found


def _trimmed(body: bytes, key: tuple[int, int], start: int, end: int) -> Member:
    while body[start] in _SPACE:
        start += 1
    while body[end - 1] in _SPACE:
        end -= 1
    return Member(key[0], key[1], start, end)


def replace_value(body: bytes, name: str, value: bytes | None, text: bytes) -> list[Edit]:
    """Return the edits that give every top-level member `name` the value `text`. `value`: its raw value, if known."""
    if value is not None:
        span = find_value(body, name.encode(), value)
        if span is not None:
            return [Edit(span[0], span[1], text)]
    return [Edit(member.start, member.end, text) for member in find_members(body, name)]


def rename_member(body: bytes, name: str, new: str) -> list[Edit]:
    """Return the edits that call the top-level member `name` `new`."""
    quoted = b'"%b"' % new.encode()
    return [Edit(member.key_start, member.key_end, quoted) for member in find_members(body, name)]


def add_member(body: bytes, text: bytes) -> Edit:
    """Return the edit that adds the member `text` (`"key":value`) at the end of a non-empty object."""
    end = body.rindex(b"}")
    return Edit(end, end, b"," + text)


def splice(body: bytes, edits: list[Edit]) -> list[bytes]:
    """Return the body in pieces with all edits done."""
    if not edits:
        return [body]
    if len(edits) == 1:
        start, end, text = edits[0]
        return [body[:start], text, body[end:]]
    parts: list[bytes] = []
    at = 0
    for edit in sorted(edits):
        parts.append(body[at : edit.start])
        parts.append(edit.text)
        at = edit.end
    parts.append(body[at:])
    return parts
