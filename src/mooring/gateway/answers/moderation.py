"""What callers see when a text is not let through: each dialect has its own signal.

    dialect           input hit            output hit, whole answer     output hit, stream
    openai, cluster   400 content_filter   200, content_filter, empty   last chunk content_filter, [DONE]
    ark               400                  400                          last chunk content_filter, [DONE]
    modelarts         403                  403                          chunk content_filter without delta, [DONE]
    genstudio         200, blocked: true   the same                     last chunk blocked: true, [DONE]

Who decides is a `Checker`: this module only asks it and speaks for it. The errors get their codes in the dialects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from mooring.core.errors import InputFiltered, MooringError, OutputFiltered
from mooring.gateway.streams.sse import DONE, EventRelay, split_events

if TYPE_CHECKING:
    from mooring.gateway.admission import Ticket

FILTERED = "content_filter"
FLAGGED: dict[str, Any] = {}  # told apart from a service's error by identity
_THOUGHTS = ("reasoning", "reasoning_content")
_REFUSING = frozenset({"ark", "modelarts"})  # a whole answer that is not let through is an error there
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Window(Protocol):
    """Watches one text that comes in pieces."""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return what may leave now, and whether something was found. Text is kept only while a match is open."""
        ...

    def flush(self) -> str:
        """Return what was kept: the text is over and the match did not come about."""
        ...


class Checker(Protocol):
    """Decides which texts are let through."""

    def found(self, text: str) -> bool:
        """Return whether a whole text holds something that must not pass."""
        ...

    def window(self) -> Window:
        """Return the watch for one text that comes in pieces."""
        ...


def moderated(ticket: Ticket) -> bool:
    """Return whether this request's texts are checked: the endpoint decides, else the service.

    Services that we deploy are checked by default. What runs elsewhere is its owner's.
    """
    endpoint, entry = ticket.target.endpoint, ticket.service.entry
    if endpoint is not None and endpoint.moderation is not None:
        return endpoint.moderation
    return entry.moderation if entry.moderation is not None else not entry.external


def input_found(checker: Checker, body: bytes) -> bool:
    """Return whether something a caller sends must not pass; `body` was read before and is a JSON object."""
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    told = (asked.get(name) for name in ("system", "instructions", "messages", "prompt", "input"))
    return any(checker.found(text) for part in told for text in _texts(part))


def input_refusal(ticket: Ticket, request_id: str, created: int) -> MooringError | bytes:
    """Return the answer to a caller whose text was not let through: an error, or a body where that is the signal."""
    if ticket.route.dialect.NAME != "genstudio":
        return InputFiltered("The request holds content that is not let through.")
    head = {"id": f"chatcmpl-{request_id}", "created": created, "model": ticket.service.entry.served_model}
    if ticket.stream:
        chunk = {**head, "object": "chat.completion.chunk", "choices": _last_choices(ticket, {0})}
        return b"data: %b\n\n%b\n\n" % (_encode({**chunk, "blocked": True}), DONE)
    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": FILTERED}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    answer = {**head, "object": "chat.completion", "choices": [choice], "usage": usage, "blocked": True}
    return _encode(answer)


def checked_answer(ticket: Ticket, checker: Checker, body: bytes) -> bytes:
    """Return a whole answer as it may leave.

    Raises:
        OutputFiltered: it holds what must not pass, and the dialect says so by an error.
    """
    try:
        answer: dict[str, Any] = _decode(body)
        choices = cast("list[dict[str, Any]]", answer["choices"])
        if not any(checker.found(text) for choice in choices for text in _choice_texts(choice)):
            return body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        return body
    dialect = ticket.route.dialect.NAME
    if dialect in _REFUSING:
        raise OutputFiltered("The answer holds content that is not let through.")
    for choice in choices:
        choice["finish_reason"] = FILTERED
        if "text" in choice:
            choice["text"] = ""
        else:
            choice["message"] = {"role": "assistant", "content": ""}
        choice.pop("logprobs", None)
    if dialect == "genstudio":
        answer["blocked"] = True
    return _encode(answer)


def _choice_texts(choice: dict[str, Any]) -> Iterator[str]:
    """Yield what a choice says: its content, its thoughts, what it hands to tools."""
    yield from _texts(choice.get("text"))
    message: dict[str, Any] = choice.get("message") or {}
    yield from _texts(message.get("content"))
    yield from {message[name] for name in _THOUGHTS if isinstance(message.get(name), str)}
    calls: list[dict[str, Any]] = message.get("tool_calls") or []
    for call in calls:
        function: dict[str, Any] = call.get("function") or {}
        yield from _texts(function.get("arguments"))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a `content`, `prompt`, `input` or list of messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in cast("list[Any]", value):
            yield from _texts(part)
    elif isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        for name in ("content", "text", "input_text", "output", "arguments"):
            yield from _texts(members.get(name))


def _last_choices(ticket: Ticket, indexes: Iterable[int]) -> list[dict[str, Any]]:
    """Return the choices of the chunk that ends a stream."""
    ends: list[dict[str, Any]] = []
    for index in sorted(indexes):
        end: dict[str, Any] = {"index": index, "finish_reason": FILTERED}
        if ticket.operation == "completion":
            end["text"] = ""
        elif ticket.route.dialect.NAME != "modelarts":
            end["delta"] = {}
        ends.append(end)
    return ends


class ModeratedRelay:
    """Watches the stream that another relay lets out. `failed` is FLAGGED where something was found: it ends there."""

    def __init__(self, inner: EventRelay, ticket: Ticket, checker: Checker) -> None:
        self._inner = inner
        self._ticket = ticket
        self._checker = checker
        self._windows: dict[tuple[int, str], Window] = {}
        self._open: set[int] = {0}  # choices that have not ended
        self._found = False

    def __getattr__(self, name: str) -> Any:
        """Return what the inner relay knows of the stream."""
        return getattr(self._inner, name)

    @property
    def failed(self) -> dict[str, Any] | None:
        """What has ended the stream: a find, or the service's own error."""
        return FLAGGED if self._found else self._inner.failed

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came, return the events that may leave."""
        return self._check(self._inner.feed(data))

    def end(self, clean: bool) -> bytes:
        """Return what is left when the upstream has ended."""
        return self._check(self._inner.end(clean))

    def _check(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for event in split_events(data):
            if self._found:
                break
            out.append(self._check_event(event) if b'"choices"' in event else event)
        return b"".join(out)

    def _check_event(self, event: bytes) -> bytes:
        try:
            chunk: dict[str, Any] = _decode(event.partition(b"data:")[2].strip())
            told = [self._check_choice(choice) for choice in chunk["choices"]]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
            return event
        if self._found:
            return self._ending(chunk)
        if told and not any(told) and not chunk.get("usage"):
            return b""
        return b"data: %b\n\n" % _encode(chunk)

    def _check_choice(self, choice: dict[str, Any]) -> bool:
        """Take out what may not leave yet; return whether anything is left to say."""
        index: int = choice["index"]
        self._open.add(index)
        over = choice.get("finish_reason") is not None
        if over:
            self._open.discard(index)
        if "text" in choice:
            self._watch(choice, index, ("text",), over)
            return over or bool(choice["text"])
        delta: dict[str, Any] = choice["delta"]
        self._watch(delta, index, _THOUGHTS, over)
        self._watch(delta, index, ("content",), over)
        for call in delta.get("tool_calls") or ():
            self._watch(call.get("function") or {}, index, ("arguments",), over, place=call.get("index", 0))
        return over or any(value not in (None, "") for value in delta.values())

    def _watch(self, holder: dict[str, Any], index: int, names: tuple[str, ...], over: bool, *, place: int = 0) -> None:
        """Let `holder[name]` pass the watch for this text; several names hold the same text."""
        text = next((holder[name] for name in names if isinstance(holder.get(name), str)), "")
        key = index, f"{names[0]}{place}"
        window = self._windows.get(key)
        if window is None:
            if not text:
                return
            window = self._windows[key] = self._checker.window()
        passed, found = window.feed(text) if text else ("", False)
        if over and not found:
            passed += window.flush()
        self._found = self._found or found
        named = [name for name in names if name in holder] or ([names[0]] if passed else [])
        for name in named:
            holder[name] = passed

    def _ending(self, chunk: dict[str, Any]) -> bytes:
        """Return what is left of the chunk in which something was found, and the end of the stream."""
        open_choices = self._open | {choice["index"] for choice in chunk["choices"]}
        chunk.pop("usage", None)
        chunk["choices"] = _last_choices(self._ticket, open_choices)
        if self._ticket.route.dialect.NAME == "genstudio":
            chunk["blocked"] = True
        return b"data: %b\n\n%b\n\n" % (_encode(chunk), DONE)
