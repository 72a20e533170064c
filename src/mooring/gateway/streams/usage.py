"""Token counts out of answers and streams."""

from __future__ import annotations

import msgspec


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = 0


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = 0


_MOST = 2**40  # tokens; what is beyond (or below zero) is nonsense and counts as nothing


def bounded(count: int | None) -> int:
    """Return a token count that may be stored and summed."""
    return count if count is not None and 0 <= count <= _MOST else 0


class Usage(msgspec.Struct):
    """OpenAI's usage object, as far as it is metered."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    @property
    def cached_tokens(self) -> int:
        details = self.prompt_tokens_details
        return bounded(details.cached_tokens) if details is not None else 0

    @property
    def reasoning_tokens(self) -> int:
        details = self.completion_tokens_details
        return bounded(details.reasoning_tokens) if details is not None else 0


class _WithUsage(msgspec.Struct):
    usage: Usage | None = None


_decode = msgspec.json.Decoder(_WithUsage).decode


def usage_of(body: bytes) -> Usage | None:
    """Return the usage object of a JSON answer, None when it has none or can't be read."""
    try:
        return _decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
