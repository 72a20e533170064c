"""Cuts an event stream, however it is written, into its events: the payload of each, and its bytes if they are plain.

Understands server-sent events with any line end, fields besides `data`, comments, data over several lines, events
that no empty line parts, a byte order mark, and streams that are no events at all but JSON objects on lines.
(Format: HTML standard, §9.2.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_LINE = 1 << 20  # bytes of a line or an event; what is longer is none of a language model
_BOM = b"\xef\xbb\xbf"
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)')


class Event:
    """One event. `raw`: its bytes, when it is exactly `data: <payload>` and an empty line; else b""."""

    __slots__ = ("bare", "name", "payload", "raw")

    def __init__(self, payload: bytes, raw: bytes = b"", *, name: bytes = b"", bare: bool = False) -> None:
        self.payload = payload
        self.raw = raw
        self.name = name  # of its `event:` field
        self.bare = bare  # a line of JSON without `data:`


class TooLong(ValueError):
    """A line or an event without end."""


class _Lines:
    """The lines of one value, as far as they came. `whole`: they hold an object with all of its braces closed."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0
        self._depth = 0

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def whole(self) -> bool:
        return self._depth <= 0 and bool(self._lines) and self._lines[0].lstrip()[:1] == b"{"

    def add(self, line: bytes) -> None:
        """Keep one more line. Raises TooLong."""
        self._size += len(line)
        if self._size > MAX_LINE:
            raise TooLong
        rest = _STRING.sub(b"", line)  # a string of JSON never goes on in the next line
        self._depth += rest.count(b"{") - rest.count(b"}")
        self._lines.append(line)

    def take(self) -> bytes:
        """Return them joined, and forget them."""
        joined = b"\n".join(self._lines)
        self._lines, self._size, self._depth = [], 0, 0
        return joined


class EventCutter:
    """`feed` yields the events that are complete; comments come as an Event whose raw begins with a colon.

    `odd` tells that other framing than OpenAI's was met.
    """

    def __init__(self) -> None:
        self._held: bytes = b""
        self._data = _Lines()  # of the event that is being read
        self._bare = _Lines()  # of an object without `data:`
        self._name = b""
        self._begun = False
        self.odd = False

    @property
    def idle(self) -> bool:
        """Whether nothing is left over from the last read."""
        return self._begun and not (self._held or self._data or self._bare or self._name)

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield what is complete now. Raises TooLong."""
        data = self._held + data if self._held else data
        self._held = b""
        at = 0 if self._begun else self._after_mark(data)
        while at < len(data):
            end = data.find(b"\n", at)
            if end >= 0 and self._plain(data, at, end):
                if data[end + 1 : end + 2] == b"\n":
                    yield Event(data[at + 6 : end], data[at : end + 2])
                    at = end + 2
                    continue
                if end + 1 == len(data):
                    break  # the line after it decides
            end, after = _line_end(data, at)
            if end < 0:
                break
            if end - at > MAX_LINE:
                raise TooLong
            self.odd = self.odd or after - end != 1 or data[end : end + 1] != b"\n"
            yield from self._line(data[at:end])
            at = after
        if len(data) - at > MAX_LINE + 2:  # a line and its end
            raise TooLong
        self._held = data[at:] if self._begun else data

    def _after_mark(self, data: bytes) -> int:
        """Return where the stream begins: after its byte order mark. While that can't be told, nothing has begun."""
        if len(data) < len(_BOM) and _BOM.startswith(data):
            return len(data)
        self._begun = True
        if not data.startswith(_BOM):
            return 0
        self.odd = True
        return len(_BOM)

    def _plain(self, data: bytes, at: int, end: int) -> bool:
        """Whether this is a line with which an event begins as OpenAI writes it."""
        return (
            data.startswith(b"data: ", at)
            and end - at <= MAX_LINE
            and not (self._data or self._bare or self._name)
            and data.find(b"\r", at, end) < 0
        )

    def rest(self) -> Iterator[Event]:
        """Yield what is complete although no line end follows: the stream is over."""
        held, self._held = self._held, b""
        for line in held.splitlines():
            yield from self._line(line)
        yield from self._line(b"")

    @property
    def left(self) -> bool:
        """Whether an object was begun and never came to its end."""
        return bool(self._bare)

    def _line(self, line: bytes) -> Iterator[Event]:
        start = line.lstrip()[:1]
        if self._data.whole and (line.startswith(b"data:") or start in (b"{", b"[")):
            self.odd = True  # no empty line parts these events
            yield self._event()
        if self._bare or (start == b"{" and not self._data):
            if line:
                yield from self._bare_line(line)
        elif not line:
            if self._data:
                yield self._event()
            self._name = b""
        elif line[:1] == b":":
            if self._data:
                self.odd = True
            else:
                yield Event(b"", line + b"\n\n")
        elif line.strip() == b"[DONE]":
            self.odd = True
            yield Event(b"[DONE]", bare=True)
        else:
            self._field(line)

    def _event(self) -> Event:
        self.odd = self.odd or len(self._data) > 1
        event = Event(self._data.take(), name=self._name)
        self._name = b""
        return event

    def _field(self, line: bytes) -> None:
        """Keep a line of the event that is being read. What is no field that we know is noise."""
        if line[:5] == b"data:":
            self._data.add(line[6:] if line[5:6] == b" " else line[5:])
            self.odd = self.odd or line[5:6] != b" "
            return
        self.odd = True
        if line.startswith(b"event:"):
            self._name = line[6:].strip()

    def _bare_line(self, line: bytes) -> Iterator[Event]:
        """A JSON value without `data:`; it may be spread over several lines."""
        if self._bare and line[:5] == b"data:":
            yield Event(self._bare.take(), bare=True)  # begun and never finished: let it be judged as it is
            yield from self._line(line)
            return
        self._bare.add(line)
        if self._bare.whole:
            yield Event(self._bare.take(), bare=True)


def _line_end(data: bytes, at: int) -> tuple[int, int]:
    """Return where the line from `at` ends and where the next begins; -1 when its end has not come yet."""
    line_feed = data.find(b"\n", at)
    carriage = data.find(b"\r", at, line_feed if line_feed >= 0 else len(data))
    if carriage < 0:
        return line_feed, line_feed + 1
    if carriage + 1 == len(data):
        return -1, -1  # a line feed may follow
    return carriage, carriage + (2 if data[carriage + 1 : carriage + 2] == b"\n" else 1)
