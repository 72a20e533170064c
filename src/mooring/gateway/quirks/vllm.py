"""What vLLM does differently from the OpenAI API and from llama.cpp, made good at the gateway.

Requests: it ends in an error where llama.cpp ends the answer (`max_tokens` beyond the context); callers share one
prefix cache and one queue unless told otherwise; an adapter is a model name. Answers: `reasoning` is what everybody
else calls `reasoning_content`; errors carry numbers as codes, and the name of the parameter inside the message. (Seen
with vLLM 0.32.)
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mooring.core.errors import ContextTooLong, Invalid, ModelNotFound, MooringError, UnsupportedType
from mooring.core.snapshot import ServiceEntry
from mooring.gateway.admission import Ticket
from mooring.gateway.http1.body import Edit, add_member, replace_value
from mooring.gateway.quirks import reasoning
from mooring.gateway.quirks.checks import (
    CHECKED,
    Checked,
    CheckedChat,
    count_choices,
    map_thinking,
    read_request,
)
from mooring.gateway.quirks.deployed_stream import ERROR, ERROR_LENGTH, DeployedRelay
from mooring.gateway.streams.sse import EventRelay, map_events

_TOO_LONG = re.compile(r"maximum context length is \d+ tokens")
_PARAMETER = re.compile(r" \(parameter=[^()]*\)")
_INNER_MESSAGE = re.compile(r"""'msg': (?:'([^']*)'|"([^"]*)")""")  # of a validation error, which is Python's repr


def fit(ticket: Ticket, body: bytes, edits: list[Edit]) -> bytes:
    """Check a request and add what vLLM needs to `edits`; return the value of `model` to send.

    Raises:
        Invalid, InvalidJson: see `checks.read_request`.
    """
    if ticket.operation in CHECKED:
        read = read_request(ticket.operation, body)
        count_choices(read)
        ticket.choices_per_prompt = read.n or 1
        if isinstance(read, CheckedChat):
            map_thinking(body, read, edits)
            reasoning.name_in_messages(body, "reasoning", edits)
        if ticket.operation != "embedding":
            _end_at_context(body, read, ticket.service.entry.context_length, edits)
            _keep_apart(body, read, ticket.key.project, edits)
    adapter = ticket.target.adapter
    if not adapter:
        return ticket.service.served_model_json
    return msgspec.json.encode(f"{ticket.service.entry.served_model}:{adapter}")


def _end_at_context(body: bytes, read: Checked, context_length: int, edits: list[Edit]) -> None:
    """A limit that can't be reached is none: the answer ends at the context, instead of being refused."""
    if not context_length:
        return
    for name, value in (("max_tokens", read.max_tokens), ("max_completion_tokens", read.max_completion_tokens)):
        if value is not None and value > context_length:
            edits += replace_value(body, name, None, b"null")


def _keep_apart(body: bytes, read: Checked, project: str, edits: list[Edit]) -> None:
    """No project can find out what another has asked by what is in the cache, and nobody goes before the others."""
    salt = msgspec.json.encode(project)
    if bytes(read.cache_salt):
        edits += replace_value(body, "cache_salt", bytes(read.cache_salt), salt)
    else:
        edits.append(add_member(body, b'"cache_salt":%b' % salt))
    if bytes(read.priority):
        edits += replace_value(body, "priority", bytes(read.priority), b"0")


def event_relay(ticket: Ticket) -> EventRelay:
    """Return the relay for one streamed answer."""
    return VllmRelay(ticket)


def whole_answer(ticket: Ticket, body: bytes) -> bytes:
    """Return a complete JSON answer as the caller shall see it."""
    return reasoning.finished_answer(body) if b'"reasoning"' in body else body


def refusal(status: int, error: dict[str, Any], message: str, entry: ServiceEntry) -> MooringError | None:
    """Return what an error answer means, None where its status says enough."""
    message = _PARAMETER.sub("", message)
    if status == 404:
        if error.get("param") == "model":
            return ModelNotFound(message, param="model")
        return UnsupportedType(f"The service {entry.name} does not offer this kind of call.", param="model")
    if status != 400:
        return None
    param = error.get("param")
    param = param.removeprefix("body.") if isinstance(param, str) else None
    if _TOO_LONG.search(message):
        return ContextTooLong(message, param=param)
    inner = _INNER_MESSAGE.search(message)
    if inner is not None:
        message = f"{param}: {inner[1] or inner[2]}." if param else f"{inner[1] or inner[2]}."
    return Invalid(message, next_step="", param=param)


class VllmRelay(DeployedRelay):
    """vLLM's streams: both names for the reasoning, no newlines after it."""

    __slots__ = ("_newlines", "_thought")

    def __init__(self, ticket: Ticket) -> None:
        super().__init__(ticket)
        self._newlines = reasoning.Newlines(ticket.choices_per_prompt)
        self._thought = False  # and the content may still have to begin

    def feed(self, data: bytes) -> bytes:
        before = self.events
        data = super().feed(data)
        if data[:ERROR_LENGTH] == ERROR or self.events > before + 1:
            data = self.stop_at_error(data)
        if b'"reasoning"' in data and reasoning.is_said(data):
            data = reasoning.both_names(data)
            self._thought = not self._newlines.over
        if self._thought and b'"content"' in data:
            data = map_events(data, b'"content"', self._newlines.strip)
            self._thought = not self._newlines.over
        return data
