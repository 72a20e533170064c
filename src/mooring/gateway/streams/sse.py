"""The event stream of one answer on its way through: whole events out, usage read, asked-for usage kept.

A healthy stream leaves byte for byte. Only the events that hold a usage object are looked into: the extra chunk
that our `include_usage` caused is taken out again unless the caller asked for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mooring.gateway.streams.usage import Usage

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_MAX_HELD = 1 << 20  # an event longer than this passes in pieces, unread
DONE = b"data: [DONE]"


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: Usage | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class EventRelay:
    """Relays one event stream of an engine that we know.

    `feed` returns what may leave now, `end` what is left when the upstream has ended, `tail` the last bytes; `events`
    counts what has left. `failed`: the error object with which the service ended the stream, which is over then.
    `broken`, after `end`: it is not complete. `found`: the repairs that it needed. `said`: the text, where it is kept
    to be counted.
    """

    __slots__ = ("_held", "_last_out", "_wants_usage", "broken", "events", "failed", "usage")
    found: frozenset[str] | set[str] = frozenset()
    said: str | None = None

    def __init__(self, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._held = b""
        self._last_out = b""
        self.events = 0
        self.usage: Usage | None = None
        self.failed: dict[str, Any] | None = None
        self.broken = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came, return the whole events among them."""
        if self._held:
            data = self._held + data
            self._held = b""
        if data[-2:] != b"\n\n" and not data.endswith(b"\r\n\r\n"):
            data = self._hold_tail(data)
        if b'"usage"' in data:
            data = map_events(data, b'"usage"', self._usage_event)
        self.events += data.count(b"data:")
        if data:
            self._last_out = data
        return data

    @property
    def finished(self) -> bool:
        """Whether the stream's own end, `[DONE]`, has left: what breaks afterwards is no loss."""
        return DONE in self._last_out

    def end(self, clean: bool) -> bytes:
        """Return what is left when the upstream has ended; `clean`: its framing says that nothing is missing."""
        data, self._held = self._held, b""
        if b'"usage"' in data:
            data = map_events(data + b"\n\n", b'"usage"', self._usage_event)
        if data and not clean:
            self.broken = True
            return b""
        return data

    def tail(self, usage: Usage | None, *, estimated: bool) -> bytes:
        """Return the very last bytes: nothing is missing of what these engines send."""
        return b""

    def _hold_tail(self, data: bytes) -> bytes:
        """Keep the unfinished last event back, so that no event is judged by half."""
        cut = 0
        for match in _EVENT_END.finditer(data):
            cut = match.end()
        if len(data) - cut > _MAX_HELD:
            return data
        self._held = data[cut:]
        return data[:cut]

    def _usage_event(self, event: bytes) -> bytes:
        """Read one event that mentions usage; return it, or nothing when only our question caused it."""
        chunk = _read_chunk(event)
        if chunk is None or chunk.usage is None:
            return event
        self.usage = chunk.usage
        if not chunk.choices and not self._wants_usage:
            return b""
        return event


def split_events(data: bytes) -> Iterator[bytes]:
    """Yield the events of a run of whole ones, each with its empty line."""
    start = 0
    for match in _EVENT_END.finditer(data):
        yield data[start : match.end()]
        start = match.end()
    if start < len(data):
        yield data[start:]


def map_events(data: bytes, mark: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return whole events with `change` applied to those that hold `mark`."""
    return b"".join([change(event) if mark in event else event for event in split_events(data)])


def _read_chunk(event: bytes) -> _Chunk | None:
    payload = event.partition(b"data:")[2].strip()
    try:
        return _decode_chunk(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
