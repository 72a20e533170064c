"""/tokenize and /detokenize of llama.cpp in vLLM's form."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.core.errors import Invalid
from mooring.gateway.quirks.checks import ABSENT


class _Tokenize(msgspec.Struct):
    prompt: str | None = None
    messages: list[msgspec.Raw] | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: msgspec.Raw = ABSENT
    tools: msgspec.Raw = ABSENT


class _Detokenize(msgspec.Struct):
    tokens: list[int]


def read_tokenize(body: bytes) -> _Tokenize:
    """Read vLLM's tokenize body.

    Raises:
        Invalid: neither `prompt` nor `messages`, both, or a wrong type.
    """
    try:
        read = msgspec.json.decode(body, type=_Tokenize)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"The body can't be read: {error}.") from None
    if (read.prompt is None) == (read.messages is None):
        raise Invalid("Give either 'prompt' or 'messages'.", param="prompt")
    return read


def template_body(read: _Tokenize) -> bytes:
    """Return the body of llama.cpp's /apply-template."""
    body: dict[str, Any] = {"messages": read.messages, "add_generation_prompt": read.add_generation_prompt}
    for name in ("chat_template_kwargs", "tools"):
        raw: msgspec.Raw = getattr(read, name)
        if bytes(raw) not in (b"", b"null"):
            body[name] = raw
    return msgspec.json.encode(body)


def tokenize_body(prompt: str, add_special: bool) -> bytes:
    """Return the body of llama.cpp's /tokenize."""
    return msgspec.json.encode(
        {"content": prompt, "add_special": add_special, "parse_special": True, "with_pieces": True}
    )


def tokenize_answer(answer: bytes, context_length: int, with_strings: bool) -> bytes:
    """Return vLLM's answer: count, max_model_len, tokens, token_strs."""
    pieces: list[dict[str, Any]] = msgspec.json.decode(answer)["tokens"]
    strings = [_piece_text(piece["piece"]) for piece in pieces] if with_strings else None
    return msgspec.json.encode(
        {
            "count": len(pieces),
            "max_model_len": context_length,
            "tokens": [piece["id"] for piece in pieces],
            "token_strs": strings,
        }
    )


def _piece_text(piece: str | list[int]) -> str:
    """llama.cpp writes a piece that is not valid UTF-8 as a list of bytes."""
    return piece if isinstance(piece, str) else bytes(piece).decode("utf-8", "replace")


def detokenize_body(body: bytes) -> bytes:
    """Return the body of llama.cpp's /detokenize.

    Raises:
        Invalid: `tokens` is missing or not a list of whole numbers.
    """
    try:
        tokens = msgspec.json.decode(body, type=_Detokenize).tokens
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"The body can't be read: {error}.", param="tokens") from None
    if any(not 0 <= token < 2**31 for token in tokens):
        raise Invalid("Tokens are whole numbers from 0 to the size of the vocabulary.", param="tokens")
    return msgspec.json.encode({"tokens": tokens})


def detokenize_answer(answer: bytes) -> bytes:
    """Return vLLM's answer: prompt."""
    return msgspec.json.encode({"prompt": msgspec.json.decode(answer)["content"]})
