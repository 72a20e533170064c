"""The event stream of one answer on its way through: whole events out, usage read, asked-for usage kept.

A healthy stream leaves byte for byte. Only the events that hold a usage object are looked into: the extra chunk
that our `include_usage` caused is taken out again unless the caller asked for it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mooring.gateway.quirks import llamacpp
from mooring.gateway.streams.usage import Usage

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_MAX_HELD = 1 << 20  # an event longer than this passes in pieces, unread
_DONE = b"data: [DONE]"


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: Usage | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_any = msgspec.json.Decoder().decode


class EventRelay:
    """Relays one event stream. `feed` returns what may leave now; `events` counts what has left."""

    __slots__ = ("_held", "_last_out", "_wants_usage", "events", "usage")

    def __init__(self, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._held = b""
        self._last_out = b""
        self.events = 0
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came, return the whole events among them."""
        if self._held:
            data = self._held + data
            self._held = b""
        if data[-2:] != b"\n\n" and not data.endswith(b"\r\n\r\n"):
            data = self._hold_tail(data)
        if b'"usage"' in data:
            data = self._read_usage(data)
        self.events += data.count(b"data:")
        self._last_out = data
        return data

    @property
    def finished(self) -> bool:
        """Whether the stream's own end, `[DONE]`, has left: what breaks afterwards is no loss."""
        return _DONE in self._last_out

    def end(self) -> bytes:
        """Return what is left when the upstream has ended."""
        data, self._held = self._held, b""
        if b'"usage"' in data:
            data = self._read_usage(data + b"\n\n")
        return data

    def _hold_tail(self, data: bytes) -> bytes:
        """Keep the unfinished last event back, so that no event is judged by half."""
        cut = 0
        for match in _EVENT_END.finditer(data):
            cut = match.end()
        if len(data) - cut > _MAX_HELD:
            return data
        self._held = data[cut:]
        return data[:cut]

    def _read_usage(self, data: bytes) -> bytes:
        out: list[bytes] = []
        start = 0
        for match in _EVENT_END.finditer(data):
            event = data[start : match.end()]
            start = match.end()
            if b'"usage"' in event:
                event = self._usage_event(event)
            out.append(event)
        out.append(data[start:])
        return b"".join(out)

    def _usage_event(self, event: bytes) -> bytes:
        """Read one event that mentions usage; return it, or nothing when only our question caused it."""
        chunk = _read_chunk(event)
        if chunk is None or chunk.usage is None:
            return event
        self.usage = chunk.usage
        if not chunk.choices and not self._wants_usage:
            return b""
        return event


class LlamaCppRelay(EventRelay):
    """llama.cpp's streams: usage of every choice summed, moved out of choices chunks, sent once before [DONE]."""

    __slots__ = ("_choices_per_prompt", "_completion", "_counted", "_last")

    def __init__(self, wants_usage: bool, *, completion: bool, choices_per_prompt: int) -> None:
        super().__init__(wants_usage)
        self._completion = completion
        self._choices_per_prompt = choices_per_prompt
        self._counted: set[int] = set()  # prompts whose tokens are in the sum
        self._last: dict[str, Any] | None = None

    def feed(self, data: bytes) -> bytes:
        data = super().feed(data)
        if self._completion:
            data = llamacpp.completion_id(data)
        if self._wants_usage and self._last is not None and _DONE in data:
            at = data.rindex(_DONE)
            data = b"%b%b%b" % (data[:at], self._usage_chunk(), data[at:])
        return data

    def _usage_event(self, event: bytes) -> bytes:
        payload = event.partition(b"data:")[2].strip()
        try:
            chunk: dict[str, Any] = _decode_any(payload)
            usage: Usage = msgspec.convert(chunk["usage"], Usage)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            return event
        self._add(usage, chunk)
        del chunk["usage"]
        if not chunk.get("choices"):
            self._last = chunk
            return b""
        self._last = {name: value for name, value in chunk.items() if name != "choices"}
        return b"data: %b\n\n" % msgspec.json.encode(chunk)

    def _add(self, usage: Usage, chunk: dict[str, Any]) -> None:
        """Sum completion tokens over the choices; a prompt counts once however many choices it has."""
        choices = chunk.get("choices")
        prompt = choices[0]["index"] // self._choices_per_prompt if choices else 0
        total = self.usage
        if total is None:
            self.usage = usage
        else:
            total.completion_tokens = (total.completion_tokens or 0) + (usage.completion_tokens or 0)
            if prompt not in self._counted:
                total.prompt_tokens = (total.prompt_tokens or 0) + (usage.prompt_tokens or 0)
        self._counted.add(prompt)

    def _usage_chunk(self) -> bytes:
        usage = self.usage
        assert usage is not None
        assert self._last is not None
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        chunk: dict[str, Any] = {
            **self._last,
            "choices": [],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            },
        }
        self._last = None
        return llamacpp.completion_id(b"data: %b\n\n" % msgspec.json.encode(chunk))


def _read_chunk(event: bytes) -> _Chunk | None:
    payload = event.partition(b"data:")[2].strip()
    try:
        return _decode_chunk(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
