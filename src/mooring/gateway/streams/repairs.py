"""What is made good in one chunk or answer: facts about its JSON, no bytes, no sockets.

`mend_chunk` and `mend_answer` change what they are given and name the repairs that were needed (`core.repairs`);
nothing named means nothing changed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import msgspec

from mooring.core.repairs import CHOICES, ENVELOPE, REASONING, TOOL_CALLS
from mooring.gateway.streams.objects import Members, without_halves, write_value
from mooring.gateway.streams.usage import Usage

_NAMES = ("reasoning", "reasoning_content")
_NEWLINES = "\r\n"
_KINDS = {"chat": ("chat.completion", "chat.completion.chunk"), "completion": ("text_completion", "text_completion")}
_ID_PREFIXES = {"chat": "chatcmpl-", "completion": "cmpl-"}


class Shape(NamedTuple):
    """What an answer must look like, and what is filled in where a service leaves it out."""

    operation: str  # chat | completion
    wants_usage: bool
    model: str
    request_id: str
    created: int  # Unix seconds
    prompt_estimate: int = 0  # tokens
    known: frozenset[str] = frozenset()  # repairs learnt before

    @property
    def answer_id(self) -> str:
        """Return the id of an answer that came without one."""
        return _ID_PREFIXES[self.operation] + self.request_id


class StreamState:
    """What of a stream later chunks depend on."""

    def __init__(self) -> None:
        self.begun: set[int] = set()  # choices of which a chunk was seen
        self.over: set[int] = set()  # choices with a finish_reason
        self.thought: set[int] = set()  # choices that have said reasoning and no content yet
        self.calls: dict[int, list[str]] = {}  # choice → ids of its tool calls, in order


def mend_envelope(answer: Members, shape: Shape, last: Members | None = None, *, streamed: bool) -> bool:
    """Fill in id, object, created, model; return whether that was needed. `last`: those of the chunk before."""
    kind = _KINDS[shape.operation][streamed]
    changed = False
    for name, value in (last or {}).items():
        if not answer.get(name):
            answer[name], changed = value, True
    created = answer.get("created")
    if not isinstance(answer.get("id"), str) or not answer["id"]:
        answer["id"], changed = shape.answer_id, True
    if answer.get("object") != kind:
        answer["object"], changed = kind, True
    if not isinstance(created, int) or isinstance(created, bool):
        answer["created"], changed = (
            int(created) if isinstance(created, float) and math.isfinite(created) else shape.created,
            True,
        )
    if not isinstance(answer.get("model"), str) or not answer["model"]:
        answer["model"], changed = shape.model, True
    return changed


def mend_chunk(chunk: Members, shape: Shape, state: StreamState, last: Members | None = None) -> set[str]:
    """Make one chunk of a stream what OpenAI's schema says. `last`: members of the chunk before it."""
    found = {ENVELOPE} if mend_envelope(chunk, shape, last, streamed=True) else set[str]()
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        chunk["choices"] = choices = []
        found.add(CHOICES)
    for place, choice in enumerate(cast("list[Any]", choices)):
        if not isinstance(choice, dict):
            choices[place] = choice = cast("Members", {"text": choice} if isinstance(choice, str) else {})
            found.add(CHOICES)
        found |= _mend_choice(cast("Members", choice), place, shape, state)
    return found


def _mend_choice(choice: Members, place: int, shape: Shape, state: StreamState) -> set[str]:
    found = _mend_ends(choice, place)
    index: int = choice["index"]
    if shape.operation == "completion":
        if _mend_text(choice):
            found.add(CHOICES)
    else:
        found |= _mend_delta(choice, index, state)
    state.begun.add(index)
    if choice["finish_reason"] is not None:
        state.over.add(index)
    return found


def _mend_text(choice: Members) -> bool:
    """Give a completion's choice its text, also where it came as that of a chat; return whether that was needed."""
    if isinstance(choice.get("text"), str):
        return False
    choice["text"] = ""
    for name in ("delta", "message"):
        said = choice.pop(name, None)
        text = cast("Members", said).get("content") if isinstance(said, dict) else said
        choice["text"] = choice["text"] or (text if isinstance(text, str) else "")
    return True


def _mend_ends(choice: Members, place: int) -> set[str]:
    """Fill in index and finish_reason; null stands for "not finished"."""
    found: set[str] = set()
    if not isinstance(choice.get("index"), int) or isinstance(choice["index"], bool):
        choice["index"] = place
        found.add(CHOICES)
    if "finish_reason" not in choice or not (choice["finish_reason"] or choice["finish_reason"] is None):
        choice["finish_reason"] = None
        found.add(CHOICES)
    return found


def _mend_delta(choice: Members, index: int, state: StreamState) -> set[str]:
    found: set[str] = set()
    if not isinstance(choice.get("delta"), dict):
        choice["delta"] = _said_elsewhere(choice, "message")
        found.add(CHOICES)
    delta = cast("Members", choice["delta"])
    role = delta.get("role")
    if role is not None and (not isinstance(role, str) or not role):
        del delta["role"]
        found.add(CHOICES)
    if index not in state.begun and not delta.get("role"):
        choice["delta"] = delta = {"role": "assistant", **{k: v for k, v in delta.items() if k != "role"}}
        found.add(CHOICES)
    if both_names(delta):
        found.add(REASONING)
    if _strip_newlines(delta, index, state):
        found.add(REASONING)
    if delta.get("tool_calls") is not None and mend_calls(delta, state.calls.setdefault(index, [])):
        found.add(TOOL_CALLS)
    return found


def _said_elsewhere(choice: Members, other: str) -> Members:
    """Take what a choice says out of the member in which it came instead."""
    said, text = choice.pop(other, None), choice.pop("text", None)
    if isinstance(said, dict):
        return cast("Members", said)
    text = said if isinstance(said, str) else text
    return {"content": text} if isinstance(text, str) else {}


def both_names(said: Members) -> bool:
    """Give reasoning both of its names; return whether one was missing."""
    one, other = (said.get(name) for name in _NAMES)
    if isinstance(one, str) and not isinstance(other, str):
        said[_NAMES[1]] = one
    elif isinstance(other, str) and not isinstance(one, str):
        said[_NAMES[0]] = other
    else:
        return False
    return True


def _strip_newlines(delta: Members, index: int, state: StreamState) -> bool:
    """Take out the newlines between reasoning and content; return whether there were any."""
    if delta.get(_NAMES[0]):
        state.thought.add(index)
    content = delta.get("content")
    if index not in state.thought or not isinstance(content, str) or not content:
        return False
    stripped = content.lstrip(_NEWLINES)
    if stripped:
        state.thought.discard(index)
    delta["content"] = stripped
    return stripped != content


def mend_calls(said: Members, known: list[str]) -> bool:
    """Give every tool call of a delta its index, its type and arguments that are text; return whether that was needed.

    `known` holds the ids of the calls that the stream has begun, in order: a call without index is found by its id;
    without one it is new if it names a function, else it goes on with the last one.
    """
    changed = _only_objects(said)
    for call in cast("list[Members]", said["tool_calls"]):
        name = call.get("id")
        function = cast("Members", call.get("function") or {})
        begins = (bool(name) and name not in known) or (not name and bool(function.get("name")))
        if not isinstance(call.get("index"), int) or isinstance(call["index"], bool):
            begun = len(known) if begins else max(len(known) - 1, 0)
            call["index"], changed = known.index(name) if name and name in known else begun, True
        if begins:
            known.append(name or "")
            if not call.get("type"):
                call["type"], changed = "function", True
    return changed


def _only_objects(said: Members) -> bool:
    """Make the tool calls a list of objects with functions that are objects, arguments that are text, ids or none."""
    calls: Any = said["tool_calls"]
    kept: list[Any] = [
        call for call in (cast("list[Any]", calls) if isinstance(calls, list) else [calls]) if isinstance(call, dict)
    ]
    changed = kept != calls
    said["tool_calls"] = kept
    for call in cast("list[Members]", kept):
        for name, kind in (("id", str), ("type", str), ("function", dict)):
            if call.get(name) is not None and not isinstance(call[name], kind):
                del call[name]
                changed = True
        changed = _write_arguments(call.get("function") or {}) or changed
    return changed


def _write_arguments(function: Members) -> bool:
    """Make arguments and name text; return whether that was needed."""
    changed = False
    for name in ("arguments", "name"):
        value = function.get(name)
        if value is not None and not isinstance(value, str):
            function[name], changed = write_value(value), True
    return changed


def mend_answer(answer: Members, shape: Shape) -> set[str]:
    """Make a whole answer what OpenAI's schema says."""
    found = {ENVELOPE} if mend_envelope(answer, shape, streamed=False) else set[str]()
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return found
    for place, choice in enumerate(cast("list[Any]", choices)):
        if not isinstance(choice, dict):
            choices[place] = choice = cast("Members", {"text": choice} if isinstance(choice, str) else {})
            found.add(CHOICES)
        found |= _mend_whole_choice(cast("Members", choice), place, shape)
    return found


def _mend_whole_choice(choice: Members, place: int, shape: Shape) -> set[str]:
    found = _mend_ends(choice, place)
    if choice["finish_reason"] is None:
        choice["finish_reason"] = "stop"
        found.add(CHOICES)
    if shape.operation == "completion":
        if _mend_text(choice):
            found.add(CHOICES)
        return found
    if not isinstance(choice.get("message"), dict):
        choice["message"] = {"content": "", **_said_elsewhere(choice, "delta")}
        found.add(CHOICES)
    message = cast("Members", choice["message"])
    if not message.get("role") or "content" not in message:
        message["role"], message["content"] = message.get("role") or "assistant", message.get("content")
        found.add(CHOICES)
    return found | _mend_said(message)


def _mend_said(message: Members) -> set[str]:
    found = {REASONING} if both_names(message) else set[str]()
    content = message.get("content")
    if message.get(_NAMES[0]) and isinstance(content, str) and content[:1] in ("\r", "\n"):
        message["content"] = content.lstrip(_NEWLINES)
        found.add(REASONING)
    if message.get("tool_calls") is not None and _mend_whole_calls(message):
        found.add(TOOL_CALLS)
    return found


def _mend_whole_calls(message: Members) -> bool:
    """A whole answer's tool calls have no index."""
    changed = _only_objects(message)
    for call in message["tool_calls"]:
        if not call.get("type"):
            call["type"], changed = "function", True
    return changed


def usage_told(told: Any) -> Usage | None:
    """Return what a usage object tells, None when it tells no tokens or can't be read."""
    try:
        usage = msgspec.convert(told, Usage)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None
    members = cast("Members", told)
    return usage if members.get("prompt_tokens") is not None or members.get("completion_tokens") is not None else None


def error_of(answer: Members, name: bytes = b"") -> Members | None:
    """Return the error object of something that came in the place of a chunk or an answer, None if it is none."""
    error = _error_of(answer, name)
    return None if error is None else without_halves(error)


def _error_of(answer: Members, name: bytes) -> Members | None:
    error = answer.get("error")
    if isinstance(error, dict) and error:
        return cast("Members", error)
    if error and (isinstance(error, str) or "choices" not in answer):
        return {**answer, "message": error if isinstance(error, str) else _sentence(answer)}
    if "choices" in answer or "usage" in answer:
        return None
    if answer.get("object") == "error" or name == b"error" or _has_code(answer):
        return {**answer, "message": _sentence(answer)}
    return None


def _has_code(answer: Members) -> bool:
    """Whether this is an error as Chinese platforms write it: a code and a sentence."""
    return ("error_code" in answer and "error_msg" in answer) or (bool(answer.get("code")) and bool(_sentence(answer)))


def _sentence(answer: Members) -> str:
    found = (answer.get(name) for name in ("message", "error_msg", "msg", "detail"))
    return next((text for text in found if isinstance(text, str)), "")
