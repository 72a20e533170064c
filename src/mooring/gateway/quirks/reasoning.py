"""What a model thinks has two names in the field, `reasoning` and `reasoning_content`: both are taken, both are given.

The answers' side is written for vLLM, which says `reasoning` and lets the content that follows begin with newlines.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mooring.gateway.http1.body import Edit, find_members

# A quote inside a JSON string is escaped, so what matches is a member and no text.
_SAID = re.compile(rb'"reasoning"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")', re.DOTALL)
_SAID_CONTENT = re.compile(rb'"reasoning_content"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")', re.DOTALL)
_TWICE = rb'"reasoning":\1,"reasoning_content":\1'
_OTHERS = {
    "reasoning": ("reasoning_content", b'"reasoning_content"'),
    "reasoning_content": ("reasoning", b'"reasoning"'),
}
_NEWLINES = "\r\n"

_Members = dict[str, msgspec.Raw]
_decode_any = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(_Members).decode
_decode_list = msgspec.json.Decoder(list[_Members]).decode
_encode = msgspec.json.Encoder().encode


def name_in_messages(body: bytes, wanted: str, edits: list[Edit]) -> None:
    """Give messages that say the other name the same under `wanted`, which the engine reads.

    The body has been checked: its `messages` are objects.
    """
    other, quoted = _OTHERS[wanted]
    if quoted not in body:
        return
    for member in find_members(body, "messages")[-1:]:  # of several the last counts, as for any reader
        messages = _decode_list(body[member.start : member.end])
        for message in messages:
            if other in message:
                message.setdefault(wanted, message[other])
        edits.append(Edit(member.start, member.end, _encode(messages)))


def is_said(data: bytes) -> bool:
    """Return whether something was thought here: `"reasoning": null` is on every answer of vLLM."""
    return _SAID.search(data) is not None


def both_names(data: bytes) -> bytes:
    """Return events in which every `reasoning` also stands under `reasoning_content`."""
    return data if b'"reasoning_content"' in data else _SAID.sub(_TWICE, data)


def both_names_of_content(data: bytes) -> bytes:
    """Return an answer or events in which every `reasoning_content` also stands under `reasoning`."""
    return data if b'"reasoning":' in data else _SAID_CONTENT.sub(_TWICE, data)


def finished_answer(body: bytes) -> bytes:
    """Return a whole chat answer with both names, and without the newlines that stand before the content."""
    if not is_said(body):
        return body
    try:
        answer = _decode_members(body)
        choices = _decode_list(answer["choices"])
        for choice in choices:
            choice["message"] = msgspec.Raw(_encode(_finished_message(_decode_members(choice["message"]))))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return body
    answer["choices"] = msgspec.Raw(_encode(choices))
    return _encode(answer)


def _finished_message(message: _Members) -> _Members:
    said = message.get("reasoning")
    if said is None or bytes(said)[:1] != b'"':
        return message
    message.setdefault("reasoning_content", said)
    content = message.get("content")
    if content is not None and bytes(content)[:1] == b'"':
        text = _decode_any(content)
        message["content"] = msgspec.Raw(_encode(text.lstrip(_NEWLINES)))
    return message


class Newlines:
    """Takes the newlines out of a stream that stand between a choice's reasoning and its content."""

    __slots__ = ("_choices", "_spoken")

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self._spoken: set[int] = set()  # choices whose content has begun

    @property
    def over(self) -> bool:
        """Whether the content of every choice has begun: nothing is left to do."""
        return len(self._spoken) >= self._choices

    def strip(self, event: bytes) -> bytes:
        """Return one event without the newlines its content begins with, if this is the content's beginning."""
        try:
            chunk: dict[str, Any] = _decode_any(event.partition(b"data:")[2].strip())
            changed = [self._strip_choice(choice) for choice in chunk["choices"]]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
            return event
        return b"data: %b\n\n" % _encode(chunk) if any(changed) else event

    def _strip_choice(self, choice: dict[str, Any]) -> bool:
        delta = choice["delta"]
        content = delta.get("content")
        if not content or choice["index"] in self._spoken:
            return False
        delta["content"] = content.lstrip(_NEWLINES)
        if delta["content"]:
            self._spoken.add(choice["index"])
        return delta["content"] != content
