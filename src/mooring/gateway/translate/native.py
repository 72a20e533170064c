"""Messages and Responses of services that speak them: they pass byte for byte; their tokens and their end are read."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from mooring.gateway.streams.sse import EventRelay, split_events
from mooring.gateway.streams.usage import Usage

_ENDS = frozenset({"message_stop", "response.completed", "response.incomplete"})
_FAILURES = frozenset({"error", "response.failed"})
_MARKS = (b'"usage"', b"message_stop", b'"error"', b"response.failed")


class _Counted(msgspec.Struct):
    """Usage in both APIs; what was read from or written to a cache is no part of Anthropic's `input_tokens`."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    input_tokens_details: dict[str, Any] | None = None
    output_tokens_details: dict[str, Any] | None = None


class _Told(msgspec.Struct):
    """An event or a whole answer, as far as it is read."""

    type: str = ""
    usage: _Counted | None = None
    message: Any = None  # of message_start: an object that holds the usage; of an error event: its text
    response: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Told).decode


def usage_in(body: bytes) -> Usage | None:
    """Return the usage of a whole answer, None when it tells none or can't be read."""
    told = _read(body)
    return _merged(None, told.usage) if told is not None and told.usage is not None else None


def _read(payload: bytes) -> _Told | None:
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _merged(known: Usage | None, told: _Counted) -> Usage:
    """Return what is known with what is told now: Anthropic's streams tell the input first, the output at the end."""
    cached = told.cache_read_input_tokens or _detail(told.input_tokens_details, "cached_tokens")
    merged: dict[str, Any] = {
        "prompt_tokens": known.prompt_tokens if known is not None else 0,
        "completion_tokens": known.completion_tokens if known is not None else 0,
        "prompt_tokens_details": {"cached_tokens": known.cached_tokens if known is not None else 0},
        "completion_tokens_details": {"reasoning_tokens": _detail(told.output_tokens_details, "reasoning_tokens")},
    }
    if told.input_tokens is not None:
        written = (told.cache_read_input_tokens or 0) + (told.cache_creation_input_tokens or 0)
        merged["prompt_tokens"] = told.input_tokens + written
        merged["prompt_tokens_details"] = {"cached_tokens": cached}
    if told.output_tokens is not None:
        merged["completion_tokens"] = told.output_tokens
    return msgspec.convert(merged, Usage)


def _detail(details: dict[str, Any] | None, name: str) -> int:
    value = (details or {}).get(name)
    return value if isinstance(value, int) else 0


class NativeRelay(EventRelay):
    """Relays one stream in the caller's own API. An error event is held back: it is said in the dialect's words."""

    __slots__ = ("_ended",)

    def __init__(self) -> None:
        super().__init__(True)
        self._ended = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came, return the whole events among them."""
        if self._held:
            data = self._held + data
            self._held = b""
        if data[-2:] != b"\n\n" and not data.endswith(b"\r\n\r\n"):
            data = self._hold_tail(data)
        self.events += data.count(b"delta\n")  # the names of the events that carry text
        return self._look(data) if any(mark in data for mark in _MARKS) else data

    @property
    def finished(self) -> bool:
        """Whether the API's own last event has left."""
        return self._ended

    def end(self, clean: bool) -> bytes:
        """Return what is left when the service has ended. Without its own last event, the stream is broken."""
        rest, self._held = self._held, b""
        rest = self._look(rest) if rest else b""
        self.broken = self.failed is None and not self._ended
        return rest if self._ended else b""

    def _look(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for event in split_events(data):
            told = _read(event.partition(b"data:")[2].strip())
            if told is not None and told.type in _FAILURES:
                self.failed = _reason(told)
                break
            out.append(event)
            if told is not None:
                self._count(told)
        return b"".join(out)

    def _count(self, told: _Told) -> None:
        self._ended = self._ended or told.type in _ENDS
        counted = told.usage
        for holder in (told.message, told.response):
            if counted is None and isinstance(holder, dict):
                counted = _usage(cast("dict[str, Any]", holder).get("usage"))
        if counted is not None:
            self.usage = _merged(self.usage, counted)


def _usage(value: Any) -> _Counted | None:
    try:
        return msgspec.convert(value, _Counted)
    except msgspec.ValidationError:
        return None


def _reason(told: _Told) -> dict[str, Any]:
    """Return the error object in an event that says that the answer failed."""
    for holder in (told.error, told.response):
        if isinstance(holder, dict):
            members = cast("dict[str, Any]", holder)
            inner = members.get("error")
            return cast("dict[str, Any]", inner) if isinstance(inner, dict) else members
    return {"message": told.message if isinstance(told.message, str) else ""}
