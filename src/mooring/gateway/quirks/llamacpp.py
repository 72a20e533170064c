"""What llama.cpp's server does differently from the OpenAI API and from vLLM, made good at the gateway.

Requests: it ignores beams and length_penalty, calls repetition_penalty repeat_penalty, takes an adapter by its number.
Answers: completions carry a `chatcmpl-` id and put usage into the last choices chunk; with several choices every
choice reports its own usage; errors have a shape of their own. (Seen with xllamacpp 2026.10.)
"""

from __future__ import annotations

from typing import Any

from mooring.core.errors import ContextTooLong, Invalid, MooringError, UnsupportedType
from mooring.core.snapshot import ServiceEntry
from mooring.gateway.admission import Ticket
from mooring.gateway.http1.body import Edit, add_member, rename_member, replace_value
from mooring.gateway.quirks import llamacpp_steps, reasoning
from mooring.gateway.quirks.checks import (
    CHECKED,
    Checked,
    CheckedChat,
    check_text,
    count_choices,
    given,
    map_thinking,
    read_request,
)
from mooring.gateway.quirks.llamacpp_stream import LlamaCppRelay, completion_id
from mooring.gateway.streams.sse import EventRelay


def fit(ticket: Ticket, body: bytes, edits: list[Edit]) -> bytes:
    """Check what the engine would let pass, add the renames to `edits`; return the value of `model` to send.

    It counts only one of several choices and has its own /tokenize: those take several calls.

    Raises:
        Invalid, InvalidJson: see `checks.read_request`; also what this engine can't do.
    """
    operation = ticket.operation
    if operation not in CHECKED:
        check_text(body)
        if operation == "score":
            raise UnsupportedType("llama.cpp has no score.", param="model", next_step="Use /v1/rerank.")
        if operation != "rerank":
            ticket.steps = llamacpp_steps.start
        return ticket.service.served_model_json
    read = read_request(operation, body)
    _check_abilities(operation, read, ticket)
    if read.repetition_penalty is not None:
        edits += rename_member(body, "repetition_penalty", "repeat_penalty")
    if isinstance(read, CheckedChat):
        map_thinking(body, read, edits)
        reasoning.name_in_messages(body, "reasoning_content", edits)
    if ticket.service.entry.adapters:
        _keep_adapters_apart(body, read, edits)
    if ticket.target.adapter:
        _ask_for_adapter(ticket, body, read, edits)
    if count_choices(read) > 1 and operation != "embedding":
        ticket.choices_per_prompt = read.n or 1
        if not ticket.stream:
            ticket.steps = llamacpp_steps.start
    return ticket.service.served_model_json


def _check_abilities(operation: str, read: Checked, ticket: Ticket) -> None:
    name = ticket.service.entry.name
    wanted = "Leave it out, or use a service that runs on vLLM."
    if read.use_beam_search:
        raise Invalid(f"{name} runs on llama.cpp, which has no beam search.", param="use_beam_search", next_step=wanted)
    if read.best_of is not None and read.best_of > (read.n or 1):
        raise Invalid(f"{name} runs on llama.cpp, which has no best_of.", param="best_of", next_step=wanted)
    if read.length_penalty is not None and read.length_penalty != 1:
        raise Invalid(
            f"{name} runs on llama.cpp, which has no length_penalty.", param="length_penalty", next_step=wanted
        )
    if read.dimensions is not None:
        raise Invalid(f"{name} can't shorten its embeddings.", param="dimensions", next_step="Leave it out.")
    if isinstance(read, CheckedChat) and any(not isinstance(tool.get("type"), str) for tool in read.tools or ()):
        raise Invalid("Every tool needs a 'type'.", param="tools")
    if ticket.target.adapter and operation == "embedding":
        raise Invalid(f"{name} runs on llama.cpp, which embeds without adapters.", param="model", next_step=wanted)
    _check_shared(read)


def _check_shared(read: Checked) -> None:
    """Slots and adapters are everybody's: which are used follows from `model` alone."""
    if read.id_slot is not None:
        raise Invalid("id_slot is not yours to choose: slots are shared.", param="id_slot", next_step="Leave it out.")
    if given(read.lora):
        raise Invalid(
            "lora is not yours to choose.",
            param="lora",
            next_step="Leave it out and ask for '<model>:<adapter>' in 'model'; GET /v1/models lists them.",
        )


def _keep_adapters_apart(body: bytes, read: Checked, edits: list[Edit]) -> None:
    """Let nobody switch the prompt cache on again: the engine would reuse what it computed with another adapter."""
    if bytes(read.cache_prompt) not in (b"", b"null", b"false"):
        edits += replace_value(body, "cache_prompt", bytes(read.cache_prompt), b"false")


def _ask_for_adapter(ticket: Ticket, body: bytes, read: Checked, edits: list[Edit]) -> None:
    number = ticket.service.entry.adapters.index(ticket.target.adapter)
    wanted = b'[{"id":%d,"scale":1}]' % number
    if bytes(read.lora):  # a null: what is given is refused
        edits += replace_value(body, "lora", bytes(read.lora), wanted)
    else:
        edits.append(add_member(body, b'"lora":%b' % wanted))


def event_relay(ticket: Ticket) -> EventRelay:
    """Return the relay for one streamed answer."""
    return LlamaCppRelay(ticket)


def whole_answer(ticket: Ticket, body: bytes) -> bytes:
    """Return a complete JSON answer as the caller shall see it."""
    if ticket.operation == "completion":
        return completion_id(body)
    return reasoning.both_names_of_content(body) if b'"reasoning_content"' in body else body


def refusal(status: int, error: dict[str, Any], message: str, entry: ServiceEntry) -> MooringError | None:
    """Return what an error answer means, None where its status says enough."""
    if error.get("type") == "exceed_context_size_error":
        return ContextTooLong(message.replace(", try increasing it", "") + ".", param="messages")
    if status == 501:  # embeddings, where the model was not started for them
        return UnsupportedType(f"The service {entry.name} does not offer this kind of call.", param="model")
    return None
