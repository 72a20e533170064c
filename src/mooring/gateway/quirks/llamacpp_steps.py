"""Requests that take several calls to one replica: tokenising on llama.cpp, several choices on llama.cpp.

Each returns an `Answer` or raises what `relay` makes of the replica's error.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from mooring.core.errors import Invalid, UpstreamFailed
from mooring.gateway.admission import Ticket
from mooring.gateway.answers.calls import call
from mooring.gateway.quirks import Answer, llamacpp_choices, llamacpp_tokens
from mooring.gateway.quirks.llamacpp_stream import completion_id
from mooring.gateway.routing import Replica
from mooring.gateway.streams.usage import usage_of

if TYPE_CHECKING:
    from mooring.gateway.parts import Parts


async def start(parts: Parts, ticket: Ticket, replica: Replica) -> Answer:
    """Run the steps that `ticket` needs on `replica`.

    Raises:
        MooringError: the refusal to show the caller.
    """
    body = b"".join(ticket.body)
    try:
        if ticket.operation == "tokenize":
            return await _tokenize(parts, ticket, replica, body)
        if ticket.operation == "detokenize":
            sent = llamacpp_tokens.detokenize_body(body)
            try:
                answer = await call(parts, ticket, replica, b"/detokenize", True, sent)
            except UpstreamFailed as error:
                if "range_check" in error.message:  # how it says that a token is not in the vocabulary
                    raise Invalid("A token is not in this model's vocabulary.", param="tokens") from None
                raise
            return Answer(llamacpp_tokens.detokenize_answer(answer), None)
        return await _several(parts, ticket, replica, body)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError):
        raise UpstreamFailed(f"The service {ticket.service.entry.name} sent an answer that can't be read.") from None


async def _tokenize(parts: Parts, ticket: Ticket, replica: Replica, body: bytes) -> Answer:
    read = llamacpp_tokens.read_tokenize(body)
    prompt = read.prompt
    if prompt is None:
        templated = await call(parts, ticket, replica, b"/apply-template", True, llamacpp_tokens.template_body(read))
        prompt = msgspec.json.decode(templated)["prompt"]
    # A chat template writes its own special tokens; a bare prompt gets them as the engine would give it.
    special = read.add_special_tokens if read.add_special_tokens is not None else read.prompt is not None
    answer = await call(parts, ticket, replica, b"/tokenize", True, llamacpp_tokens.tokenize_body(prompt, special))
    length = ticket.service.entry.context_length
    return Answer(llamacpp_tokens.tokenize_answer(answer, length, bool(read.return_token_strs)), None)


async def _several(parts: Parts, ticket: Ticket, replica: Replica, body: bytes) -> Answer:
    """One call per choice, as many at once as the replica has slots: more would only wait inside the engine."""
    path = b"/chat/completions" if ticket.operation == "chat" else b"/completions"
    todo = enumerate(llamacpp_choices.split_request(body))
    answers: dict[int, bytes] = {}

    async def work_on() -> None:
        for number, one in todo:
            answers[number] = await call(parts, ticket, replica, path, False, one)

    tasks = [asyncio.ensure_future(work_on()) for _ in range(replica.entry.slots or 4)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    joined = llamacpp_choices.join_answers([answers[number] for number in sorted(answers)], ticket.choices_per_prompt)
    if ticket.operation == "completion":
        joined = completion_id(joined)
    return Answer(joined, usage_of(joined))
