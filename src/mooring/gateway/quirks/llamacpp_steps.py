"""Requests that take several calls to one replica: tokenising on llama.cpp, several choices on llama.cpp.

The only coroutines of the data plane besides dialling. Each returns an `Answer` or raises what `relay` makes of the
replica's error.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from mooring.core.errors import Invalid, UpstreamFailed, UpstreamTimeout
from mooring.gateway.admission import Ticket
from mooring.gateway.quirks import Answer, llamacpp_choices, llamacpp_tokens
from mooring.gateway.quirks.llamacpp_stream import completion_id
from mooring.gateway.relay import upstream_error
from mooring.gateway.routing import Replica
from mooring.gateway.streams.usage import usage_of
from mooring.gateway.upstream import UpstreamConnection

if TYPE_CHECKING:
    from mooring.gateway.parts import Parts


class _Collector:
    """A sink that gathers one whole answer and resolves a future with the connection's status and body."""

    def __init__(self, loop: asyncio.AbstractEventLoop, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        self._pieces: list[bytes] = []
        self.result: asyncio.Future[tuple[int, bytes, bytes]] = loop.create_future()

    def upstream_ready(self) -> None:
        upstream = self._upstream
        self._pieces += upstream.pieces
        upstream.pieces.clear()
        if upstream.complete and not self.result.done():
            self.result.set_result((upstream.status, b"".join(self._pieces), upstream.retry_after))

    def upstream_lost(self, received: bool) -> None:
        if not self.result.done():
            self.result.set_exception(ConnectionResetError(received))

    def upstream_writable(self, writable: bool) -> None:
        """Small bodies: nothing to do."""


async def _call(parts: Parts, ticket: Ticket, replica: Replica, path: bytes, from_root: bool, body: bytes) -> bytes:
    """POST `body` and return the answer's body; a stale pooled connection is replaced once.

    Raises:
        UpstreamFailed, UpstreamTimeout, or the replica's own refusal.
    """
    entry = ticket.service.entry
    while True:
        try:
            upstream = replica.pool.take() or await replica.pool.dial(parts.settings.connect_timeout_s)
        except (OSError, TimeoutError, ValueError):
            raise UpstreamFailed(f"The service {entry.name} could not be reached.") from None
        sink = _Collector(parts.loop, upstream)
        upstream.send(sink, replica.pool.request_head(path, from_root=from_root), [body])
        try:
            async with asyncio.timeout(parts.settings.first_byte_timeout_s):
                status, answer, retry_after = await sink.result
        except ConnectionResetError as error:
            if upstream.reused and not error.args[0]:
                continue
            raise UpstreamFailed(f"The service {entry.name} broke off before its answer was complete.") from None
        except TimeoutError:
            raise UpstreamTimeout(f"The service {entry.name} sent nothing for too long.") from None
        finally:
            upstream.release()
        if status != 200:
            raise upstream_error(status, answer, entry, retry_after)
        return answer


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
                answer = await _call(parts, ticket, replica, b"/detokenize", True, sent)
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
        templated = await _call(parts, ticket, replica, b"/apply-template", True, llamacpp_tokens.template_body(read))
        prompt = msgspec.json.decode(templated)["prompt"]
    # A chat template writes its own special tokens; a bare prompt gets them as the engine would give it.
    special = read.add_special_tokens if read.add_special_tokens is not None else read.prompt is not None
    answer = await _call(parts, ticket, replica, b"/tokenize", True, llamacpp_tokens.tokenize_body(prompt, special))
    length = ticket.service.entry.context_length
    return Answer(llamacpp_tokens.tokenize_answer(answer, length, bool(read.return_token_strs)), None)


async def _several(parts: Parts, ticket: Ticket, replica: Replica, body: bytes) -> Answer:
    """One call per choice, as many at once as the replica has slots: more would only wait inside the engine."""
    path = b"/chat/completions" if ticket.operation == "chat" else b"/completions"
    todo = enumerate(llamacpp_choices.split_request(body))
    answers: dict[int, bytes] = {}

    async def work_on() -> None:
        for number, one in todo:
            answers[number] = await _call(parts, ticket, replica, path, False, one)

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
