"""What llama.cpp's server does differently from the OpenAI API and vLLM, made good at the gateway.

Requests: it accepts values out of range, ignores beams and length_penalty, calls repetition_penalty repeat_penalty.
Answers: completions carry a `chatcmpl-` id and put usage into the last choices chunk; with several choices every
choice reports its own usage; errors have a shape of their own. (Seen with xllamacpp 2026.10.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from mooring.core.errors import Invalid, InvalidJson
from mooring.core.snapshot import ServiceEntry
from mooring.gateway.http1.body import Edit, rename_member

_ABSENT = msgspec.Raw()
_MAX_CHOICES = 512


class _Checked(msgspec.Struct):
    """The members whose values llama.cpp does not check itself. Null counts as absent."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    dimensions: int | None = None
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    ignore_eos: bool | None = None
    id_slot: int | None = None
    stream: bool | None = None
    stream_options: msgspec.Raw = _ABSENT
    repetition_penalty: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT


_decode = msgspec.json.Decoder(_Checked).decode
_PATH = re.compile(r"at `\$\.?([^`]*)`")


def check_request(operation: str, body: bytes, entry: ServiceEntry, edits: list[Edit]) -> bool:
    """Check what the engine would let pass, add the renames to `edits`.

    Returns True when the request asks for several choices (n > 1 or several prompts).

    Raises:
        Invalid: a member has the wrong type, is out of range, or asks for what this engine can't do.
    """
    if operation not in ("chat", "completion", "embedding"):
        try:
            body.decode()
        except UnicodeDecodeError:
            raise InvalidJson("The body is not valid UTF-8.") from None
        return False
    try:
        body.decode()  # it answers invalid UTF-8 with a 500, or not at all
        read = _decode(body)
    except UnicodeDecodeError:
        raise InvalidJson("The body is not valid UTF-8.") from None
    except RecursionError:
        raise Invalid("The body is nested too deeply.") from None
    except msgspec.DecodeError as error:
        text = str(error)
        where = _PATH.search(text)
        raise Invalid(f"A member has the wrong type: {text}.", param=where.group(1) if where else None) from None
    _check_ranges(read)
    _check_abilities(read, entry)
    _check_content(operation, read)
    prompts = _count_prompts(bytes(read.prompt))
    choices = prompts * (read.n or 1)
    if choices > _MAX_CHOICES:
        raise Invalid(f"{choices} choices in one request are too many; {_MAX_CHOICES} are allowed.", param="n")
    if bytes(read.repetition_penalty) not in (b"", b"null"):
        edits += rename_member(body, "repetition_penalty", "repeat_penalty")
    return operation != "embedding" and choices > 1


def _check_ranges(read: _Checked) -> None:
    if read.temperature is not None and read.temperature < 0:
        raise Invalid(f"temperature must be non-negative, got {read.temperature}.", param="temperature")
    if read.top_p is not None and not 0 < read.top_p <= 1:
        raise Invalid(f"top_p must be in (0, 1], got {read.top_p}.", param="top_p")
    for name in ("max_tokens", "max_completion_tokens", "n"):
        value = getattr(read, name)
        if value is not None and value < 1:
            raise Invalid(f"{name} must be at least 1, got {value}.", param=name)
    if read.n is not None and read.n > 128:
        raise Invalid(f"n must be at most 128, got {read.n}.", param="n")


def _check_abilities(read: _Checked, entry: ServiceEntry) -> None:
    wanted = "Leave it out, or use a service that runs on vLLM."
    if read.use_beam_search:
        raise Invalid(
            f"{entry.name} runs on llama.cpp, which has no beam search.", param="use_beam_search", next_step=wanted
        )
    if read.best_of is not None and read.best_of > (read.n or 1):
        raise Invalid(f"{entry.name} runs on llama.cpp, which has no best_of.", param="best_of", next_step=wanted)
    if read.length_penalty is not None and read.length_penalty != 1:
        raise Invalid(
            f"{entry.name} runs on llama.cpp, which has no length_penalty.", param="length_penalty", next_step=wanted
        )
    if read.id_slot is not None:
        raise Invalid("id_slot is not yours to choose: slots are shared.", param="id_slot", next_step="Leave it out.")
    if read.tools is not None and any(not isinstance(tool.get("type"), str) for tool in read.tools):
        raise Invalid("Every tool needs a 'type'.", param="tools")
    if read.dimensions is not None:
        raise Invalid(f"{entry.name} can't shorten its embeddings.", param="dimensions", next_step="Leave it out.")
    if bytes(read.stream_options) not in (b"", b"null") and not read.stream:
        raise Invalid(
            "stream_options is only allowed when stream is true.",
            param="stream_options",
            next_step="Set stream to true or leave stream_options out.",
        )


def _check_content(operation: str, read: _Checked) -> None:
    name = {"chat": "messages", "completion": "prompt", "embedding": "input"}[operation]
    value = bytes(getattr(read, name)).strip()
    if value in (b"", b"null"):
        raise Invalid(f"'{name}' is missing.", param=name)
    if value[:1] == b"[" and not value[1:-1].strip():
        raise Invalid(f"'{name}' must not be empty.", param=name)
    if name == "messages" and value[:1] != b"[":
        raise Invalid("'messages' must be a list of messages.", param="messages")


def _count_prompts(raw: bytes) -> int:
    """A list of strings or of token lists holds several prompts; a list of numbers is one prompt in tokens."""
    if raw[:1] != b"[":
        return 1
    prompts: Any = msgspec.json.decode(raw)
    return len(prompts) if _is_list_of_prompts(prompts) else 1


def _is_list_of_prompts(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)  # pyright: ignore[reportUnknownArgumentType]


# --- several choices, whole answer: one call per choice, so that usage is exact


def split_request(body: bytes) -> Iterator[bytes]:
    """Yield one request body per prompt and choice (n = 1 each), in the order of the choices' indexes."""
    members: dict[str, Any] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    count: int = msgspec.json.decode(members.pop("n", b"1")) or 1
    prompt: Any = msgspec.json.decode(members["prompt"]) if "prompt" in members else None
    prompts: list[Any] = prompt if _is_list_of_prompts(prompt) else [prompt]
    seed: Any = msgspec.json.decode(members["seed"]) if "seed" in members else None
    for one in prompts:
        for index in range(count):
            own = dict(members)
            if one is not None:
                own["prompt"] = one
            if isinstance(seed, int) and seed >= 0:
                own["seed"] = seed + index  # else all choices would be the same
            yield msgspec.json.encode(own)


def join_answers(answers: list[bytes], choices_per_prompt: int) -> bytes:
    """Return one answer that holds the choices of all, with usage summed; a prompt counts once for its choices."""
    read: list[dict[str, Any]] = [msgspec.json.decode(answer) for answer in answers]
    whole = read[0]
    usage: dict[str, Any] = {**whole["usage"], "prompt_tokens": 0, "completion_tokens": 0}
    choices: list[dict[str, Any]] = []
    for number, answer in enumerate(read):
        choices += [{**choice, "index": number} for choice in answer["choices"]]
        usage["completion_tokens"] += answer["usage"]["completion_tokens"]
        if number % choices_per_prompt == 0:
            usage["prompt_tokens"] += answer["usage"]["prompt_tokens"]
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    whole["choices"], whole["usage"] = choices, usage
    return msgspec.json.encode(whole)


def choices_per_prompt(body: bytes) -> int:
    """Return `n` of a request body that was checked before."""
    return _decode(body).n or 1


# --- answers


def completion_id(data: bytes) -> bytes:
    """Give a text completion (or a run of its chunks) the id prefix of its kind."""
    return data.replace(b'"id":"chatcmpl-', b'"id":"cmpl-')


# --- /tokenize and /detokenize in vLLM's form


class _Tokenize(msgspec.Struct):
    prompt: str | None = None
    messages: list[msgspec.Raw] | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT


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
