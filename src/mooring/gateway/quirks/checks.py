"""What is refused before any deployed engine sees it, so that all of them answer alike.

Left alone, vLLM refuses a temperature of -1 and takes a message without content; llama.cpp does the opposite.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mooring.core.errors import Invalid, InvalidJson, Missing
from mooring.gateway.http1.body import Edit, find_members

ABSENT = msgspec.Raw()
_MAX_CHOICES = 512

_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Count = Annotated[int, Meta(ge=1)]


class Checked(msgspec.Struct):
    """The members whose values are checked, or that engines differ in. Null counts as absent."""

    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: int | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    dimensions: int | None = None
    seed: int | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    stop: str | list[str] | None = None
    response_format: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    ignore_eos: bool | None = None
    id_slot: int | None = None
    stream: bool | None = None
    stream_options: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT
    lora: msgspec.Raw = ABSENT
    cache_prompt: msgspec.Raw = ABSENT
    priority: msgspec.Raw = ABSENT
    cache_salt: msgspec.Raw = ABSENT


class _Message(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = ABSENT


class _Thinking(msgspec.Struct):
    type: Literal["enabled", "disabled", "auto"]


class CheckedChat(Checked):
    """The same of a chat."""

    messages: Annotated[list[_Message], Meta(min_length=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, msgspec.Raw] | None = None
    thinking: _Thinking | None = None


_DECODERS = {
    "chat": msgspec.json.Decoder(CheckedChat),
    "completion": msgspec.json.Decoder(Checked),
    "embedding": msgspec.json.Decoder(Checked),
}
CHECKED = frozenset(_DECODERS)
_PROBLEM = re.compile(r"(.*) - at `\$\.?([^`]*)`", re.DOTALL)


def read_request(operation: str, body: bytes) -> Checked:
    """Read the body of a metered operation. A chat's is a CheckedChat.

    Raises:
        InvalidJson: the body is not UTF-8.
        Invalid: a member is missing, has the wrong type or is out of range; `param` names it.
    """
    check_text(body)
    try:
        read = _DECODERS[operation].decode(body)
    except RecursionError:
        raise Invalid("The body is nested too deeply.") from None
    except msgspec.DecodeError as error:
        raise _refused(str(error)) from None
    if isinstance(read, CheckedChat):
        _check_messages(read)
    else:
        _check_input(read, "prompt" if operation == "completion" else "input")
    if given(read.stream_options) and not read.stream:
        raise Invalid(
            "stream_options is only allowed when stream is true.",
            param="stream_options",
            next_step="Set stream to true or leave stream_options out.",
        )
    return read


def check_text(body: bytes) -> None:
    """Refuse a body that is not UTF-8: an engine answers it with a 500, or not at all.

    Raises:
        InvalidJson: it is not.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        raise InvalidJson("The body is not valid UTF-8.") from None


def given(value: msgspec.Raw) -> bool:
    """Return whether a member is there and not null."""
    return value is not ABSENT and bytes(value) != b"null"


def _refused(problem: str) -> Invalid:
    """Turn the decoder's sentence into a refusal that names the member."""
    match = _PROBLEM.fullmatch(problem)
    if match is None:
        return Invalid(f"The body can't be read: {problem}.")
    what, param = match.groups()
    return Invalid(f"'{param}' is not accepted: {what[:1].lower()}{what[1:]}.", param=param)


def _check_messages(read: CheckedChat) -> None:
    if read.messages is None:
        raise Missing("'messages' is missing.", param="messages")
    for number, message in enumerate(read.messages):
        if message.role != "assistant" and not given(message.content):
            param = f"messages[{number}].content"
            raise Missing(f"'{param}' is missing.", param=param)


def _check_input(read: Checked, name: str) -> None:
    value = bytes(getattr(read, name)).strip()
    if value in (b"", b"null"):
        raise Missing(f"'{name}' is missing.", param=name)
    if value[:1] == b"[" and not value[1:-1].strip():
        raise Invalid(f"'{name}' must not be empty.", param=name)


def count_choices(read: Checked) -> int:
    """Return how many choices are asked for, over all prompts.

    Raises:
        Invalid: more than one request may ask for.
    """
    choices = read.n or 1
    if read.prompt is not ABSENT:
        choices *= _count_prompts(bytes(read.prompt))
    if choices > _MAX_CHOICES:
        raise Invalid(f"{choices} choices in one request are too many; {_MAX_CHOICES} are allowed.", param="n")
    return choices


def _count_prompts(raw: bytes) -> int:
    """A list of strings or of token lists holds several prompts; a list of numbers is one prompt in tokens."""
    if raw[:1] != b"[":
        return 1
    prompts: Any = msgspec.json.decode(raw)
    return len(prompts) if is_list_of_prompts(prompts) else 1


def is_list_of_prompts(prompt: Any) -> bool:
    """Return whether a decoded `prompt` holds several prompts."""
    return isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)  # pyright: ignore[reportUnknownArgumentType]


def map_thinking(body: bytes, read: CheckedChat, edits: list[Edit]) -> None:
    """Say `thinking` in the words of the chat template, unless the caller has given the template's own."""
    thinking = read.thinking
    if thinking is None or thinking.type == "auto" or read.chat_template_kwargs is not None:
        return
    wanted = b'{"enable_thinking":%b}' % (b"true" if thinking.type == "enabled" else b"false")
    nulls = find_members(body, "chat_template_kwargs")
    if nulls:
        edits += [Edit(member.start, member.end, wanted) for member in nulls]
        return
    text = b'"chat_template_kwargs":%b' % wanted
    edits += [Edit(member.key_start, member.end, text) for member in find_members(body, "thinking")]
