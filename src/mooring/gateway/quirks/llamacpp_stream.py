"""llama.cpp's event streams: what it counts per choice is summed and sent once, completions get an id of their kind."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.gateway.admission import Ticket
from mooring.gateway.quirks.deployed_stream import ERROR, ERROR_LENGTH, DeployedRelay
from mooring.gateway.quirks.reasoning import both_names_of_content
from mooring.gateway.streams.sse import DONE
from mooring.gateway.streams.usage import Usage

_decode_any = msgspec.json.Decoder().decode


def completion_id(data: bytes) -> bytes:
    """Give a text completion (or a run of its chunks) the id prefix of its kind."""
    return data.replace(b'"id":"chatcmpl-', b'"id":"cmpl-')


class LlamaCppRelay(DeployedRelay):
    """llama.cpp's streams: usage of every choice summed, moved out of choices chunks, sent once before [DONE]."""

    __slots__ = ("_choices_per_prompt", "_completion", "_counted", "_last")

    def __init__(self, ticket: Ticket) -> None:
        super().__init__(ticket)
        self._completion = ticket.operation == "completion"
        self._choices_per_prompt = ticket.choices_per_prompt
        self._counted: set[int] = set()  # prompts whose tokens are in the sum
        self._last: dict[str, Any] | None = None

    def feed(self, data: bytes) -> bytes:
        before = self.events
        data = super().feed(data)
        if data[:ERROR_LENGTH] == ERROR or self.events > before + 1:
            data = self.stop_at_error(data)
        if b'"reasoning_content"' in data:
            data = both_names_of_content(data)
        if self._completion:
            data = completion_id(data)
        if self._wants_usage and self._last is not None and DONE in data:
            at = data.rindex(DONE)
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
        return completion_id(b"data: %b\n\n" % msgspec.json.encode(chunk))
