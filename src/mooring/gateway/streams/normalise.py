"""The stream of a service that runs elsewhere on its way through: whatever it sends, OpenAI's events leave.

A healthy stream leaves byte for byte and costs a few comparisons per event. The first plain piece of text is read and
judged; what stands around the text in it is the *frame*. A later event that begins and ends like the frame, with
nothing but text between, is as healthy as the first and passes unread. Everything else is read, judged, and mended
where that is needed.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mooring.core.repairs import BARE_JSON, FRAMING, NO_DONE, USAGE_ABSENT, USAGE_PLACE
from mooring.gateway.streams.lines import Event, EventCutter, TooLong
from mooring.gateway.streams.objects import Members, read_objects, whole_text, write_object
from mooring.gateway.streams.repairs import Shape, StreamState, error_of, mend_chunk, mend_envelope, usage_told
from mooring.gateway.streams.sse import EventRelay
from mooring.gateway.streams.usage import Usage

_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning)"\s*:\s*"')
# What stands inside a string of JSON: no quote, no half escape, no half character (RFC 8259 §7, RFC 3629 §4).
_INSIDE = re.compile(
    rb"[ !#-\[\]-\x7f]*+"
    rb"(?:(?:[\xe1-\xec\xee\xef][\x80-\xbf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|\xed[\x80-\x9f][\x80-\xbf]"
    rb'|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    rb"|[\xc2-\xdf][\x80-\xbf]"
    rb"|(?:\xf0[\x90-\xbf]|[\xf1-\xf3][\x80-\xbf]|\xf4[\x80-\x8f])[\x80-\xbf][\x80-\xbf])[ !#-\[\]-\x7f]*+)*+"
)
_inside = _INSIDE.fullmatch  # matches nothing where head and tail overlap: its end lies before its start
_DONE_EVENT = b"data: [DONE]\n\n"
_MAX_FRAMES = 16  # choices that speak in turns have one each
_MAX_SAID = 1 << 20  # characters of an answer that are kept to be counted


class Frame(NamedTuple):
    """What stands around the text in an event, and how long both parts are."""

    head: bytes
    tail: bytes
    start: int
    end: int

    def holds(self, data: bytes) -> bool:
        """Return whether this is exactly one event with this frame: nothing between that could end the text."""
        head, tail, start, end = self
        return data.startswith(head) and data.endswith(tail) and _inside(data, start, len(data) - end) is not None


class NormalisingRelay(EventRelay):
    """See the module, and EventRelay for what it tells."""

    __slots__ = (
        "_cutter", "_done", "_ended", "_frame", "_frames", "_kept", "_last", "_seen", "_shape", "_state", "_texts",
        "_told", "_unreadable", "_usage_due", "found", "said",
    )  # fmt: skip

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape.wants_usage)
        self._shape = shape
        self._state = StreamState()
        self._cutter = EventCutter()
        self._frame: Frame | None = None  # of the usual event, while nothing is left over and nothing has ended
        self._frames: list[Frame] = []  # the last that fitted first
        self._ended = False  # [DONE] has left
        self._last: Members = {}  # the last chunk's envelope, for the usage chunk
        self._seen = False  # a chunk has come
        self._done = False  # [DONE] has come
        self._usage_due = shape.wants_usage
        self._told: Members = {}  # the service's usage object as it came
        self._unreadable = False
        self._texts: list[str] | None = [] if USAGE_ABSENT in shape.known else None
        self._kept = 0  # characters in _texts
        self.found: frozenset[str] | set[str] = frozenset()
        self.said: str | None = None

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came, return the whole, correct events that may leave now."""
        frame = self._frame
        if frame is not None:
            head, tail, start, end = frame  # Frame.holds, without the call
            if data.startswith(head) and data.endswith(tail) and _inside(data, start, len(data) - end):
                self.events += 1
                return data
        if self._over:
            return b""
        self._frame = None
        out: list[bytes] = []
        try:
            for event in self._cutter.feed(data):
                out.append(self._event(event))  # one by one: what came before TooLong leaves
        except TooLong:
            self._unreadable = not self._done
        if self._frames and not (self._over or self._done) and self._cutter.idle:
            self._frame = self._frames[0]
        return b"".join(out)

    @property
    def _over(self) -> bool:
        """Whether nothing that may still come is of interest."""
        return self.failed is not None or self._unreadable

    @property
    def finished(self) -> bool:
        """Whether all that the service had to say has been said: what breaks afterwards is no loss."""
        state = self._state
        return self._done or (bool(state.begun) and state.over >= state.begun)

    def end(self, clean: bool) -> bytes:
        """Return what is left when the upstream has ended; see EventRelay."""
        out: list[bytes] = []
        try:
            for event in self._cutter.rest():
                out.append(self._event(event))
        except TooLong:
            self._unreadable = not self._done
        if self.failed is None:
            cut = self._cutter.left and not self._done
            self.broken = self._unreadable or cut or not (self._done or (self._seen and (clean or self.finished)))
            if not self.broken:
                self._learn(sure=bool(clean or self._done))
        return b"".join(out)

    def tail(self, usage: Usage | None, *, estimated: bool) -> bytes:
        """Return the usage chunk, where one is due, and the end."""
        if self._ended:
            return b""
        self._ended = True
        if not self._usage_due or usage is None:
            return _DONE_EVENT
        self._usage_due = False
        return self._usage_chunk(usage, estimated=estimated) + _DONE_EVENT

    def _learn(self, *, sure: bool) -> None:
        """Note what this stream lacked; of one that was cut off it is not `sure` what would still have come."""
        if sure and not self._done:
            self._note(NO_DONE)
        if self._cutter.odd:
            self._note(FRAMING)
        if self.usage is None:
            if sure:
                self._note(USAGE_ABSENT)
            if self._texts is not None:
                self.said = whole_text(self._texts)

    def _note(self, *repairs: str) -> None:
        self.found = {*self.found, *repairs}

    # --- one event

    def _event(self, event: Event) -> bytes:
        if self._over:
            return b""
        raw, payload = event.raw, event.payload
        if raw[:1] == b":":
            return b"" if self._done else raw
        if raw and not self._done and self._fits_frame(raw):
            self.events += 1
            return raw
        if payload.strip() == b"[DONE]":
            return self._end_of_stream()
        read = read_objects(payload)
        if read is None or not read.objects:
            if not self._done:
                self._judge_noise(event)
            return b""
        if event.bare:
            self._note(BARE_JSON)
        if read.plain:
            return self._chunk(read.objects[0], event, raw)
        self._note(FRAMING)
        return b"".join([self._chunk(chunk, event, b"") for chunk in read.objects])

    def _judge_noise(self, event: Event) -> None:
        """What can't be read is an error in words, the loss of some text, or a line that means nothing."""
        payload = event.payload.strip()
        if event.name == b"error":
            self.failed = {"message": payload.strip(b'"').decode(errors="replace")}
        elif payload[:1] == b"{":
            self._unreadable = True

    def _end_of_stream(self) -> bytes:
        """[DONE] has come: it leaves at once, unless tokens must be counted first."""
        if self._done:
            return b""
        self._done = True
        if self.usage is None and self._usage_due:
            return b""
        return self.tail(self.usage, estimated=False)

    def _fits_frame(self, raw: bytes) -> bool:
        for place, frame in enumerate(self._frames):
            if frame.holds(raw):
                if place:
                    self._frames.insert(0, self._frames.pop(place))
                return True
        return False

    def _chunk(self, chunk: Members, event: Event, raw: bytes) -> bytes:
        if self.failed is None and not self._done:
            self.failed = error_of(chunk, event.name)
        if self.failed is not None:
            return b""
        moved = self._take_usage(chunk)
        alone = moved or bool(chunk.get("usage"))  # the usage that it has or had is all that it tells
        if self._done or not ("choices" in chunk or alone):
            return b""  # too late, a sign of life, or something that is no part of an answer
        found = self._mend(chunk, moved)
        if alone and not chunk["choices"]:
            if moved or not self._usage_due:
                return b""
            self._usage_due = False
        self._note_text(chunk)
        if found or not raw:
            return b"data: %b\n\n" % write_object(chunk)
        if self._texts is None:
            self._learn_frame(raw, chunk)
        return raw

    def _mend(self, chunk: Members, moved: bool) -> set[str]:
        """Mend a chunk and remember it; return which repairs it needed. `moved`: its usage was taken out."""
        found = mend_chunk(chunk, self._shape, self._state, self._last)
        if moved:
            found.add(USAGE_PLACE)
        if found:
            self._note(*found)
        if self._state.thought:
            self._frames.clear()  # a newline between reasoning and content is taken out: it must be seen
        self._seen = True
        self._last = {name: chunk[name] for name in ("id", "object", "created", "model")}
        return found

    def _take_usage(self, chunk: Members) -> bool:
        """Read the usage of a chunk, and take it out, unless it is alone there and complete; return whether it was."""
        told = chunk.get("usage")
        if told is None:
            return False
        usage = usage_told(told)
        if usage is not None:
            self.usage, self._told = usage, told
            if not chunk.get("choices") and isinstance(told.get("total_tokens"), int):
                return False
        del chunk["usage"]
        chunk.setdefault("choices", [])
        return True

    def _note_text(self, chunk: Members) -> None:
        """Count what the chunk says as one token, and keep it where it is to be counted better."""
        said: list[str] = []
        chat = self._shape.operation == "chat"
        for choice in chunk["choices"]:
            if not chat:
                said.append(choice["text"])
                continue
            delta: Members = choice["delta"]
            said += [delta[name] for name in ("reasoning", "content") if isinstance(delta.get(name), str)]
            for call in delta.get("tool_calls") or ():
                function: Members = call.get("function") or {}
                said += [text for name in ("name", "arguments") if (text := function.get(name))]
        text = "".join(said)
        if text:
            self.events += 1
            if self._texts is not None and self._kept < _MAX_SAID:
                self._texts.append(text)
                self._kept += len(text)

    def _learn_frame(self, raw: bytes, chunk: Members) -> None:
        """Remember what stands around the text of a healthy event that says nothing but text."""
        choices = chunk["choices"]
        if len(choices) != 1 or choices[0]["finish_reason"] is not None:
            return
        matches = list(_TEXT.finditer(raw))
        if len(matches) != 1 or self._state.thought or b'"tool_calls":[' in raw:
            return
        start = matches[0].end()
        inside = _INSIDE.match(raw, start)
        end = inside.end() if inside is not None else start
        if raw[end : end + 1] == b'"':
            del self._frames[_MAX_FRAMES - 1 :]
            self._frames.insert(0, Frame(raw[:start], raw[end:], start, len(raw) - end))

    def _usage_chunk(self, usage: Usage, *, estimated: bool) -> bytes:
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        told: dict[str, Any] = {
            **(self._told if usage is self.usage else {}),
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        if estimated:
            told["estimated"] = True
        chunk: Members = {**self._last, "choices": [], "usage": told}
        mend_envelope(chunk, self._shape, streamed=True)
        return b"data: %b\n\n" % write_object(chunk)
