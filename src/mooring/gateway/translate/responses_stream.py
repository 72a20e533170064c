"""What a chat says as OpenAI's responses say it: the items of a whole response, and the events of a streamed one.

    response.created · response.in_progress
      output_item.added · [content_part.added] · ….delta … · ….done · [content_part.done] · output_item.done
    response.completed | response.incomplete | error, response.failed

Thoughts, texts and tool calls are items of their own, each with one content part at most.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from mooring.gateway.streams.usage import bounded
from mooring.gateway.translate.chat_stream import ChatStream, event
from mooring.gateway.translate.reading import Members
from mooring.gateway.translate.said import Answer, Counted, Part, Step

_PREFIXES = {"thinking": "rs", "text": "msg", "refusal": "msg", "call": "fc"}
# kind of a part → the events that tell of its text, and the member that holds it whole
_EVENTS = {
    "thinking": ("response.reasoning_text", "text"),
    "text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "call": ("response.function_call_arguments", "arguments"),
}
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
_CODES = {"rate_limit_error": "rate_limit_exceeded", "invalid_request_error": "invalid_prompt"}
# What a response says again of its request, and what it says where the request is silent.
_ECHOED: Members = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_decode_asked = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode


def envelope(asked: bytes, request_id: str, model: str, created: int) -> Members:
    """Return a response that is in progress. `asked`: the caller's body; `created`: Unix seconds, 0 if unknown."""
    told = {name: raw for name, raw in _decode_asked(asked).items() if bytes(raw) != b"null"}
    echoed: Members = {name: told.get(name, default) for name, default in _ECHOED.items()}
    if "tools" in told:
        echoed["tools"] = [{"parameters": None, "strict": None, **tool} for tool in _decode_any(told["tools"])]
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": created or int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": model or told.get("model", ""),
        "output": [],
        "previous_response_id": None,
        "store": False,
        "usage": None,
        **echoed,
    }


def ending_of(answer: Answer, request_id: str) -> Members:
    """Return how a response ended: `status`, `incomplete_details`, `output`, `usage`."""
    output = [item_of(part, request_id, _status(part, answer)) for part in answer.parts]
    return {
        "status": "incomplete" if answer.cut else "completed",
        "incomplete_details": {"reason": _REASONS[answer.finish]} if answer.cut else None,
        "output": output,
        "usage": _usage_of(answer.usage) if answer.usage is not None else None,
    }


def item_of(part: Part, request_id: str, status: str, *, text: str | None = None) -> Members:
    """Return a part as an item of the output. `text`: what is to stand in it, if not all that was said."""
    said = part.text if text is None else text
    item: Members = {"id": _item_id(part, request_id), "status": status}
    if part.kind == "call":
        return {**item, "type": "function_call", "call_id": part.call_id, "name": part.name, "arguments": said}
    content = [_content(part, said)] if said else []
    if part.kind == "thinking":
        return {**item, "type": "reasoning", "summary": [], "content": content}
    return {**item, "type": "message", "role": "assistant", "content": content}


class Translator(ChatStream):
    """One chat stream on its way to a caller of `/v1/responses`."""

    def __init__(self, asked: bytes, request_id: str) -> None:
        super().__init__(asked, request_id)
        self._number = 0
        self._response: Members = {}

    def _begin(self) -> bytes:
        model = self._chat.model or ""
        self._response = envelope(self._asked, self._request_id, model, int(self._chat.created or 0))
        return self._event_of("response.created", response=self._response) + self._event_of(
            "response.in_progress", response=self._response
        )

    def _step(self, step: Step, answer: Answer | None = None) -> bytes:
        if step.do == "open":
            return self._open(step.part)
        if step.do == "close":
            return self._close(step.part, answer)
        return self._told(step.part, f"{_EVENTS[step.part.kind][0]}.delta", delta=step.text)

    def _finish(self, answer: Answer) -> bytes:
        kind = "response.incomplete" if answer.cut else "response.completed"
        return self._event_of(kind, response={**self._response, **ending_of(answer, self._request_id)})

    def _fail(self, kind: str, message: str, code: str) -> bytes:
        """Both ways to say it: a reader of the stream looks for the one or the other."""
        begun = b"" if self._begun else self._begin()
        parts = self._parts.all
        output = [item_of(part, self._request_id, "incomplete" if part is parts[-1] else "completed") for part in parts]
        error = {"code": _CODES.get(kind, "server_error"), "message": message}
        failed = {**self._response, "status": "failed", "error": error, "output": output}
        told = self._event_of("error", code=code, message=message, param=None)
        return begun + told + self._event_of("response.failed", response=failed)

    def _open(self, part: Part) -> bytes:
        item = item_of(part, self._request_id, "in_progress", text="")
        out = self._event_of("response.output_item.added", output_index=part.place, item=item)
        if part.kind == "call":
            return out
        return out + self._told(part, "response.content_part.added", part=_content(part, ""))

    def _close(self, part: Part, answer: Answer | None) -> bytes:
        told, name = _EVENTS[part.kind]
        whole = {name: part.text, "name": part.name} if part.kind == "call" else {name: part.text}
        out = self._told(part, f"{told}.done", **whole)
        if part.kind != "call":
            out += self._told(part, "response.content_part.done", part=_content(part, part.text))
        status = "completed" if answer is None else _status(part, answer)
        item = item_of(part, self._request_id, status)
        return out + self._event_of("response.output_item.done", output_index=part.place, item=item)

    def _told(self, part: Part, kind: str, /, **members: Any) -> bytes:
        """Return an event about a part's content."""
        members |= {"item_id": _item_id(part, self._request_id), "output_index": part.place}
        if part.kind != "call":
            members["content_index"] = 0
        if part.kind == "text" and not kind.startswith("response.content_part"):
            members["logprobs"] = []
        return self._event_of(kind, **members)

    def _event_of(self, kind: str, /, **members: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": kind, "sequence_number": number, **members})


def _item_id(part: Part, request_id: str) -> str:
    return f"{_PREFIXES[part.kind]}_{request_id}_{part.place}"


def _status(part: Part, answer: Answer) -> str:
    """Only the last part can be cut."""
    return "incomplete" if answer.cut and part is answer.parts[-1] else "completed"


def _content(part: Part, text: str) -> Members:
    if part.kind == "thinking":
        return {"type": "reasoning_text", "text": text}
    if part.kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage_of(usage: Counted) -> Members:
    prompt, completion = bounded(usage.prompt_tokens), bounded(usage.completion_tokens)
    told: Members = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": prompt + completion,
    }
    if usage.estimated is True:
        told["estimated"] = True
    return told
