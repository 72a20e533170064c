"""Whole answers of services that run elsewhere: mended, or turned into a stream, or out of one."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import msgspec

from mooring.core.repairs import STREAM_FOR_WHOLE, USAGE_ABSENT, USAGE_PLACE, WHOLE_FOR_STREAM
from mooring.gateway.streams.normalise import NormalisingRelay
from mooring.gateway.streams.objects import Members, read_object, read_objects, whole_text, write_whole
from mooring.gateway.streams.repairs import Shape, error_of, mend_answer, usage_told
from mooring.gateway.streams.sse import split_events
from mooring.gateway.streams.usage import Usage

_PIECE = 50_000  # characters
_THOUGHTS = ("reasoning", "reasoning_content")


class _Told(Usage, kw_only=True):
    prompt_tokens: int  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    completion_tokens: int  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    total_tokens: int


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw
    reasoning: None = None  # what is said there needs the other name as well
    reasoning_content: None = None
    tool_calls: None = None


class _ChatChoice(msgspec.Struct):
    index: int
    finish_reason: str
    message: _Message


class _TextChoice(msgspec.Struct):
    index: int
    finish_reason: str
    text: str


class _Chat(msgspec.Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_ChatChoice]
    usage: _Told


class _Text(msgspec.Struct):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[_TextChoice]
    usage: _Told


_HEALTHY = {"chat": msgspec.json.Decoder(_Chat).decode, "completion": msgspec.json.Decoder(_Text).decode}


class Whole(NamedTuple):
    """One answer. `failed`: the error that came in its place. `usage` None: the service did not tell."""

    body: bytes
    usage: Usage | None
    found: frozenset[str] | set[str] = frozenset()
    failed: Members | None = None


def _check_text(body: bytes) -> None:
    """Members that nobody reads are not decoded: look at their text. Raises UnicodeDecodeError."""
    if not body.isascii():
        body.decode()


def healthy_usage(operation: str, body: bytes) -> Usage | None:
    """Return the usage of an answer that is what OpenAI's schema says, None when it must be looked at."""
    decode = _HEALTHY.get(operation)
    if decode is None:
        return None
    try:
        usage = decode(body).usage
        _check_text(body)
        return usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_answer(body: bytes, shape: Shape) -> Whole | None:
    """Return a service's answer as OpenAI's schema has it, None when it is no JSON object.

    A healthy one is the same bytes.
    """
    try:
        usage = _HEALTHY[shape.operation](body).usage
        _check_text(body)
        return Whole(body, usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _mended(body, shape)


def _mended(body: bytes, shape: Shape) -> Whole | None:
    read = read_objects(body)
    if read is None or len(read.objects) != 1:
        return None
    answer = read.objects[0]
    failed = error_of(answer)
    if failed is not None:
        return Whole(body, None, failed=failed)
    if not isinstance(answer.get("choices"), list):
        return None
    found = mend_answer(answer, shape)
    usage = usage_told(answer.get("usage"))
    if usage is None:
        answer.pop("usage", None)
        found.add(USAGE_ABSENT)
    elif not isinstance(answer["usage"].get("total_tokens"), int):
        answer["usage"] = {**answer["usage"], **_counts(usage)}
        found.add(USAGE_PLACE)
    changed = not read.plain or found - {USAGE_ABSENT}
    return Whole(write_whole(answer) if changed else body, usage, found)


def _counts(usage: Usage) -> Members:
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def with_usage(body: bytes, usage: Usage, *, estimated: bool) -> bytes:
    """Return an answer with the tokens that we counted or estimated."""
    answer: Members = read_object(body)
    told = _counts(usage)
    if estimated:
        told["estimated"] = True
    return write_whole({**answer, "usage": told})


def text_of(body: bytes) -> str:
    """Return all that an answer says, to be counted."""
    said: list[str] = []
    for choice in read_object(body)["choices"]:
        message = choice.get("message")
        holder = cast("Members", message if isinstance(message, dict) else choice)
        said += [holder[name] for name in ("reasoning", "content", "text") if isinstance(holder.get(name), str)]
    return whole_text(said)


def begins_stream(data: bytes) -> bool | None:
    """Return whether an answer that does not call itself an event stream is one; None while that can't be told.

    One JSON object that holds a whole answer or an error is none; several lines of JSON are.
    """
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        return None
    if not start.startswith(b"{"):
        if len(start) < 8 and b"\n" not in start:
            return None
        return start.startswith((b"data:", b"event:", b"id:", b"retry:", b":"))
    line, end, _ = start.partition(b"\n")
    if not end:
        return None
    read = read_objects(line)
    if read is None or not read.objects:
        return False  # an object over several lines
    first = read.objects[0]
    choices = first.get("choices")
    if not isinstance(choices, list) or not choices:
        return error_of(first) is None
    return not isinstance(choices[0], dict) or "message" not in choices[0]


def stream_of(whole: Whole, shape: Shape) -> bytes:
    """Return the events of an answer that came whole where a stream was asked for, without usage and end."""
    answer: Members = read_object(whole.body)
    envelope = {name: answer[name] for name in ("id", "created", "model")}
    kind = "chat.completion.chunk" if shape.operation == "chat" else "text_completion"
    events: list[bytes] = []
    for choice in answer["choices"]:
        for said in _pieces(choice, shape):
            chunk = {**envelope, "object": kind, "choices": [{"index": choice["index"], **said}]}
            events.append(b"data: %b\n\n" % write_whole(chunk))
    return b"".join(events)


def _pieces(choice: Members, shape: Shape) -> list[Members]:
    over: Members = {"finish_reason": choice["finish_reason"]}
    logprobs: Members = {"logprobs": choice["logprobs"]} if choice.get("logprobs") else {}
    if shape.operation == "completion":
        *before, last = _cut(choice["text"])
        return [*({"text": text, "finish_reason": None} for text in before), {"text": last, **logprobs, **over}]
    message: Members = dict(choice["message"])
    content = message.pop("content", None)
    calls: list[Members] = message.pop("tool_calls", None) or []
    thoughts = {name: message.pop(name) for name in _THOUGHTS if message.get(name)}
    pieces: list[Members] = [{"delta": {"role": "assistant", **message, "content": ""}, "finish_reason": None}]
    thought = next((said for said in thoughts.values() if isinstance(said, str)), "")
    for said in _cut(thought):
        if said:
            pieces.append({"delta": dict.fromkeys(thoughts, said), "finish_reason": None})
    for said in _cut(content) if isinstance(content, str) else ():
        if said:
            pieces.append({"delta": {"content": said}, **logprobs, "finish_reason": None})
            logprobs = {}
    for place, call in enumerate(calls):
        pieces += [{"delta": {"tool_calls": [part]}, "finish_reason": None} for part in _cut_call(place, call)]
    return [*pieces, {"delta": {}, **over}]


def _cut(text: str) -> list[str]:
    """Return a text in pieces of which each fits into an event."""
    return [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)] or [""]


def _cut_call(place: int, call: Members) -> list[Members]:
    """Return a tool call as the parts in which a stream tells it."""
    function = cast("Members", call["function"]) if isinstance(call.get("function"), dict) else {}
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return [{"index": place, **call}]
    first, *rest = _cut(arguments)
    begun: Members = {"index": place, **call, "function": {**function, "arguments": first}}
    return [begun, *({"index": place, "function": {"arguments": more}} for more in rest)]


class Joiner:
    """Makes one answer of a stream that came where none was asked for."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape._replace(wants_usage=False)
        self._relay = NormalisingRelay(self._shape)

    def join(self, body: bytes) -> Whole | None:
        """Return the answer, None when the stream is not complete."""
        relay = self._relay
        events = relay.feed(body) + relay.end(True)
        if relay.failed is not None:
            return Whole(body, None, failed=relay.failed)
        if relay.broken:
            return None
        chat = self._shape.operation == "chat"
        choices: dict[int, _Choice] = {}
        answer: Members = {}
        for event in split_events(events):
            if not event.startswith(b"data: {"):
                continue  # a comment, [DONE]
            chunk = read_object(event[6:])
            answer = {name: chunk[name] for name in ("id", "object", "created", "model")}
            for choice in chunk["choices"]:
                choices.setdefault(choice["index"], _Choice(chat)).add(choice)
        if not choices:
            return None
        joined = [{"index": index, **choices[index].joined()} for index in sorted(choices)]
        whole: Members = {**answer, "object": "chat.completion" if chat else "text_completion", "choices": joined}
        usage = relay.usage
        found = {*relay.found, STREAM_FOR_WHOLE}
        body = write_whole(whole)
        return Whole(body if usage is None else with_usage(body, usage, estimated=False), usage, found)


class _Choice:
    """What the chunks of one choice say."""

    def __init__(self, chat: bool) -> None:
        self._chat = chat
        self._texts: dict[str, list[str]] = {}  # name → pieces
        self._calls: dict[int, tuple[Members, list[str]]] = {}  # index → the call, pieces of its arguments
        self._reason = "stop"

    def add(self, choice: Members) -> None:
        self._reason = choice["finish_reason"] or self._reason
        if not self._chat:
            self._texts.setdefault("text", []).append(choice["text"])
            return
        said: Members = choice["delta"]
        for name in ("content", *_THOUGHTS, "refusal"):
            if isinstance(said.get(name), str):
                self._texts.setdefault(name, []).append(said[name])
        for call in said.get("tool_calls") or ():
            self._add_call(call)

    def _add_call(self, call: Members) -> None:
        held, arguments = self._calls.setdefault(call["index"], ({"id": "", "type": "function", "name": ""}, []))
        function: Members = call.get("function") or {}
        held["id"] = call.get("id") or held["id"]
        held["name"] = function.get("name") or held["name"]
        arguments.append(function.get("arguments") or "")

    def joined(self) -> Members:
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        if not self._chat:
            return {"text": texts.get("text", ""), "finish_reason": self._reason}
        message: Members = {"role": "assistant", "content": None if self._calls else "", **texts}
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": held["id"],
                    "type": held["type"],
                    "function": {"name": held["name"], "arguments": "".join(arguments)},
                }
                for _, (held, arguments) in sorted(self._calls.items())
            ]
        return {"message": message, "finish_reason": self._reason}


def streamed(whole: Whole, shape: Shape) -> Whole:
    """Return the events of a whole answer in its place, for a caller who asked for a stream."""
    return whole._replace(body=stream_of(whole, shape), found={*whole.found, WHOLE_FOR_STREAM})
