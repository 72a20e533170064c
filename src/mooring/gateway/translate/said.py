"""What a chat completion says, whole or in chunks, as parts that follow one another: thoughts, texts, tool calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal, NamedTuple

import msgspec

from mooring.core.errors import UpstreamFailed
from mooring.gateway.streams.usage import Usage

Kind = Literal["thinking", "text", "refusal", "call"]
_CUT = ("length", "content_filter")  # ends of an answer that is not whole


class Counted(Usage):
    """The usage object of a chat. `estimated` is true where nobody counted."""

    estimated: Any = None


class Function(msgspec.Struct):
    """What is called; `arguments` is JSON text, or a piece of it."""

    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct):
    """One tool call, or a piece of it. A chunk's has an index."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Said(msgspec.Struct):
    """A message, or a chunk's delta."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None


class Choice(msgspec.Struct):
    """One answer, or a piece of it."""

    index: int | None = 0
    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM's: the string that stopped it


class Chat(msgspec.Struct):
    """A chat completion or a chunk of one, as far as it is translated. `error`: what came in its place."""

    created: int | float | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Counted | None = None
    error: Any = None


class Part:
    """One thought, text, refusal or tool call of an answer.

    `place`: its number in the answer. `pieces`: its text, or the arguments of the call as JSON text. `told`: how many
    of the pieces have left; `next_look`: with how many it is worth looking whether they are whole.
    """

    __slots__ = ("call_id", "kind", "name", "next_look", "pieces", "place", "told")

    def __init__(self, kind: Kind, place: int) -> None:
        self.kind: Kind = kind
        self.place = place
        self.call_id = ""
        self.name = ""
        self.pieces: list[str] = []
        self.told = 0
        self.next_look = 1

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Step(NamedTuple):
    """What is to be said next of a part: that it opens, a piece of it, that it closes."""

    do: Literal["open", "more", "close"]
    part: Part
    text: str = ""


class Parts:
    """Puts what comes in pieces into parts of which one is open at a time, so that each can be said to its end.

    A tool call stays open until its arguments are a whole JSON object: where two calls come in turns, the second waits.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._waiting: list[Part] = []  # the first is open
        self._calls: dict[int, Part] = {}
        self._ids: set[str] = set()
        self._open = False
        self._closed: list[Part] = []

    @property
    def all(self) -> list[Part]:
        """Every part that has come, in order."""
        return self._closed + self._waiting

    def add(self, said: Said) -> Iterator[Step]:
        """Yield the steps that a delta, or a whole message, leads to."""
        thought = said.reasoning_content or said.reasoning
        if thought:
            yield from self._grow(self._last_of("thinking"), thought)
        if said.content:
            yield from self._grow(self._last_of("text"), said.content)
        if said.refusal:
            yield from self._grow(self._last_of("refusal"), said.refusal)
        for place, call in enumerate(said.tool_calls or ()):
            part = self._call(place if call.index is None else call.index, call)
            function = call.function
            if part is not None:
                yield from self._grow(part, function.arguments or "" if function is not None else "")

    def end(self) -> Iterator[Step]:
        """Yield the steps that are left when nothing more comes."""
        while self._waiting:
            if not self._open:
                yield self._begin()
            yield from self._tell()
            yield self._close()

    def _last_of(self, kind: Kind) -> Part:
        last = self._waiting[-1] if self._waiting else None
        return last if last is not None and last.kind == kind else self._new(kind)

    def _new(self, kind: Kind) -> Part:
        part = Part(kind, len(self._closed) + len(self._waiting))
        self._waiting.append(part)
        return part

    def _call(self, key: int, call: Call) -> Part | None:
        """Return the part of a call; None when it is closed: then nothing but white space can follow."""
        part = self._calls.get(key)
        if part is None:
            part = self._calls[key] = self._new("call")
            part.call_id = self._unique(call.id, part.place)
        elif part not in self._waiting:
            return None
        if not part.name and call.function is not None:
            part.name = call.function.name or ""
        return part

    def _unique(self, call_id: str | None, place: int) -> str:
        if not call_id or call_id in self._ids:
            call_id = f"call_{self._request_id}_{place}"
        self._ids.add(call_id)
        return call_id

    def _grow(self, part: Part, text: str) -> Iterator[Step]:
        if text:
            part.pieces.append(text)
        yield from self._tell()
        while len(self._waiting) > 1 and self._open and _whole(self._waiting[0]):
            yield self._close()
            yield from self._tell()

    def _tell(self) -> Iterator[Step]:
        """Say what is not yet said of the first part; a call's name comes before all else of it."""
        part = self._waiting[0]
        if not self._open:
            if part.kind == "call" and not part.name:
                return
            yield self._begin()
        if part.told < len(part.pieces):
            text = "".join(part.pieces[part.told :])
            part.told = len(part.pieces)
            yield Step("more", part, text)

    def _begin(self) -> Step:
        self._open = True
        return Step("open", self._waiting[0])

    def _close(self) -> Step:
        part = self._waiting.pop(0)
        self._open = False
        self._closed.append(part)
        return Step("close", part)


def _whole(part: Part) -> bool:
    """Return whether nothing can be added to a part after which another has begun.

    Arguments that are not whole are looked at again when they have grown by a quarter, so that all looks together cost
    no more than a few.
    """
    if part.kind != "call":
        return True
    if not part.pieces or part.pieces[-1].rstrip()[-1:] != "}" or len(part.pieces) < part.next_look:
        return False
    part.next_look = len(part.pieces) * 5 // 4 + 1
    return arguments_of(part.text) is not None


def arguments_of(text: str) -> dict[str, Any] | None:
    """Return a call's arguments, None when the text is no JSON object."""
    try:
        return _decode_object(text)
    except (msgspec.DecodeError, RecursionError):
        return None


class Answer(NamedTuple):
    """What was said in all. `finish`: stop | tool_calls | length | content_filter. `stop`: the string that stopped it,
    where the engine tells."""

    model: str
    created: int  # Unix seconds
    parts: list[Part]
    finish: str
    stop: str
    usage: Counted | None

    @property
    def cut(self) -> bool:
        """Whether the last part may not be whole."""
        return self.finish in _CUT


decode_chat = msgspec.json.Decoder(Chat).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def answer_of(chat: Chat, choice: Choice, parts: list[Part], usage: Counted | None) -> Answer:
    """Return the whole of an answer: `chat` and `choice` tell whose it is and why it ended."""
    finish = choice.finish_reason or ""
    if finish not in _CUT:
        finish = "tool_calls" if any(part.kind == "call" for part in parts) else "stop"
    stop = choice.stop_reason if isinstance(choice.stop_reason, str) else ""
    return Answer(chat.model or "", int(chat.created or 0), parts, finish, stop, usage)


def read_answer(body: bytes, request_id: str) -> Answer:
    """Return what a whole chat completion says; only its first choice is read.

    Raises:
        UpstreamFailed: it can't be read.
    """
    try:
        chat = decode_chat(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamFailed("The service's answer is no chat completion.") from None
    choice = chat.choices[0] if chat.choices else Choice()
    parts = Parts(request_id)
    deque(chain(parts.add(choice.message or Said()), parts.end()), maxlen=0)
    return answer_of(chat, choice, parts.all, chat.usage)
