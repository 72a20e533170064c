"""What a chat says as Anthropic's messages say it: the blocks of a whole message, and the events of a streamed one.

message_start
  content_block_start · content_block_delta … · content_block_stop     for each block
message_delta (why it ended, usage) · message_stop
"""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.gateway.streams.usage import bounded
from mooring.gateway.translate.chat_stream import ChatStream, event
from mooring.gateway.translate.reading import Members
from mooring.gateway.translate.said import Answer, Counted, Part, Step, arguments_of

_STOPS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}
_DELTAS = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}
_ERRORS = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "timeout_error",
        "api_error",
        "overloaded_error",
    }
)


class _Asked(msgspec.Struct):
    model: Any = None
    stop_sequences: list[str] | None = None


_decode_asked = msgspec.json.Decoder(_Asked).decode


def envelope(request_id: str, model: str, asked: bytes) -> Members:
    """Return a message in which nothing is said yet. `asked`: the caller's body, whose model stands in for none."""
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model or _decode_asked(asked).model or "",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def content_of(parts: list[Part]) -> list[Members]:
    """Return the blocks of a whole message."""
    return [_block(part, part.text) for part in parts]


def ending_of(answer: Answer, asked: bytes) -> Members:
    """Return `stop_reason`, `stop_sequence` and `stop_details`, which tell why a message ended."""
    reason, matched = _STOPS[answer.finish], None
    if any(part.kind == "refusal" for part in answer.parts):
        reason = "refusal"
    if reason == "end_turn" and answer.stop and answer.stop in (_decode_asked(asked).stop_sequences or ()):
        reason, matched = "stop_sequence", answer.stop
    details = {"type": "refusal", "category": None, "explanation": None} if reason == "refusal" else None
    return {"stop_reason": reason, "stop_sequence": matched, "stop_details": details}


def usage_of(usage: Counted | None) -> Members:
    """Return Anthropic's usage: what was read from the cache is not among the input tokens."""
    usage = usage or Counted()
    prompt, cached = bounded(usage.prompt_tokens), usage.cached_tokens
    told: Members = {
        "input_tokens": max(prompt - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": bounded(usage.completion_tokens),
    }
    if usage.completion_tokens_details is not None:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.estimated is True:
        told["estimated"] = True
    return told


class Translator(ChatStream):
    """One chat stream on its way to a caller of `/v1/messages`."""

    def _begin(self) -> bytes:
        message = envelope(self._request_id, self._chat.model or "", self._asked)
        return event({"type": "message_start", "message": message})

    def _step(self, step: Step, answer: Answer | None = None) -> bytes:
        part = step.part
        if step.do == "open":
            return event({"type": "content_block_start", "index": part.place, "content_block": _block(part, "")})
        if step.do == "close":
            return event({"type": "content_block_stop", "index": part.place})
        kind, name = _DELTAS[part.kind]
        return event({"type": "content_block_delta", "index": part.place, "delta": {"type": kind, name: step.text}})

    def _finish(self, answer: Answer) -> bytes:
        ending = ending_of(answer, self._asked)
        return event({"type": "message_delta", "delta": ending, "usage": usage_of(answer.usage)}) + event(
            {"type": "message_stop"}
        )

    def _fail(self, kind: str, message: str, code: str) -> bytes:
        error = {"type": kind if kind in _ERRORS else "api_error", "message": message, "code": code}
        return event({"type": "error", "error": error, "request_id": self._request_id})


def _block(part: Part, text: str) -> Members:
    if part.kind == "thinking":
        return {"type": "thinking", "thinking": text, "signature": ""}  # nobody has signed it
    if part.kind == "call":
        return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": _input(text)}
    return {"type": "text", "text": text}


def _input(arguments: str) -> dict[str, Any]:
    """A block's input is an object. What the model wrote in its place is not lost."""
    read = arguments_of(arguments) if arguments.strip() else {}
    return {"arguments": arguments} if read is None else read
