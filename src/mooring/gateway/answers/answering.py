"""An answer on its way to the caller, and the end of an exchange whatever it is.

The half of `exchange` that is about answers: streams, whole answers, counting what the service did not, and giving
everything back. `_to` is the only writer of `state`; `_finish` is the only releaser of what was taken (replica place,
upstream connection, journal slot) and may be called twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Final, Protocol

from mooring.core.errors import MooringError, OutputFiltered, UpstreamFailed
from mooring.core.repairs import NO_TOKENIZER, USAGE_ABSENT
from mooring.core.usage import Ended, UsageRecord
from mooring.gateway.admission import Ticket
from mooring.gateway.answers.counting import count_tokens
from mooring.gateway.answers.moderation import FLAGGED, checked_answer
from mooring.gateway.answers.relay import (
    Relay,
    ended_by,
    error_event,
    event_relay,
    said_in_its_api,
)
from mooring.gateway.dialects.operations import STREAMED
from mooring.gateway.routing import Replica
from mooring.gateway.streams.repairs import Shape
from mooring.gateway.streams.usage import Usage, bounded
from mooring.gateway.streams.whole import Whole, streamed, text_of, with_usage
from mooring.gateway.upstream import UpstreamConnection

if TYPE_CHECKING:
    from mooring.gateway.parts import Parts

ROUTING: Final = 0
CONNECTING: Final = 1
SENT: Final = 2
STREAMING: Final = 3
WHOLE: Final = 4
CALLING: Final = 5
REFUSED: Final = 6
DONE: Final = 7
WAITING: Final = 8
COUNTING: Final = 9

TRANSITIONS: Final[dict[int, tuple[int, ...]]] = {
    ROUTING: (CONNECTING, SENT, CALLING, WAITING, REFUSED, DONE),
    WAITING: (ROUTING, REFUSED, DONE),
    CONNECTING: (ROUTING, SENT, REFUSED, DONE),
    SENT: (ROUTING, STREAMING, WHOLE, REFUSED, DONE),
    STREAMING: (COUNTING, DONE),
    WHOLE: (ROUTING, STREAMING, COUNTING, REFUSED, DONE),
    COUNTING: (REFUSED, DONE),
    CALLING: (REFUSED, DONE),
    REFUSED: (DONE,),
    DONE: (),
}
_log = logging.getLogger("mooring.gateway.exchange")
BYTES_PER_TOKEN = 3  # where nobody counts
_monotonic = time.monotonic
_now = time.time


class ClientPort(Protocol):
    """What an exchange needs of the connection it answers on. `deadline` (coarse monotonic seconds) is the exchange's
    to move: when it passes, the connection calls `on_deadline`."""

    deadline: float

    def answer(self, status: int, body: bytes, retry_after_s: float | None = None) -> None: ...
    def refuse(self, error: MooringError) -> None: ...
    def start_stream(self, first: bytes, last: bool) -> None: ...
    def stream(self, piece: bytes, last: bool) -> None: ...
    def exchange_done(self) -> None: ...


class Answering:
    """See the module."""

    # Defaults are class attributes: an exchange is made for every call, and most of them change once or never.
    state = ROUTING
    _first_byte = 0.0
    _attempt: int = 0
    _tried: tuple[str, ...] = ()
    _replica: Replica | None = None
    _upstream: UpstreamConnection | None = None
    _relay: Relay | None = None
    _whole: list[bytes] | None = None
    _size = 0
    _slot = -1
    _call: asyncio.Task[None] | None = None
    _error: MooringError | None = None
    _head_due = False  # a stream's head has not left yet
    _tried_otherwise = ""  # the repair with which it was asked once more
    _untold = False  # the answer tells no usage
    _judged = False  # whether it is a stream after all
    _answer = b""  # a whole answer whose tokens are counted

    def __init__(self, parts: Parts, client: ClientPort, ticket: Ticket, request_id: str) -> None:
        self._parts = parts
        self._client = client
        self._ticket = ticket
        self.request_id = request_id
        self._started = _monotonic()
        self._started_at = _now()

    def _to(self, state: int) -> None:
        assert state in TRANSITIONS[self.state], f"no transition {self.state} → {state}"
        self.state = state

    def _start(self, work: Coroutine[None, None, None]) -> None:
        """Run what must wait; its results come back as events, and so does a bug in it."""
        self._call = self._parts.loop.create_task(work)
        self._call.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("request %s failed", self.request_id, exc_info=error)
            if self.state != DONE and self._relay is not None:
                self._break_stream(MooringError())
            elif self.state != DONE:
                self._refuse(MooringError())

    def released(self) -> None:
        """A place is free for which this waits: `exchange` looks for a replica again."""
        raise NotImplementedError

    # --- streams

    def _stream_on(self, upstream: UpstreamConnection) -> None:
        """Pass on what came. The slot's count rises before bytes leave; the record is written before the last."""
        pieces = upstream.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        relay = self._relay
        if relay is None:
            relay = self._begin_relay()
        out = relay.feed(data)
        if relay.failed is not None:
            self._stream_failed(relay, out)
        elif upstream.complete:
            self._stream_over(relay, out, clean=not upstream.unframed)
        elif self._head_due:
            self._parts.journal.progress(self._slot, relay.events)
            self._pass(out, False)
        elif out:  # for every token: no call more than needed
            self._parts.journal.progress(self._slot, relay.events)
            self._client.stream(out, False)

    def _begin_relay(self) -> Relay:
        ticket = self._ticket
        if USAGE_ABSENT not in ticket.known:
            ticket.asked = b""
        self._head_due = True
        relay = self._relay = event_relay(ticket, self.request_id, self._started_at, self._parts.checker)
        ticket.original = b""
        return relay

    def _pass(self, out: bytes, last: bool) -> None:
        """Send the next bytes of the stream; its head goes before the first."""
        if self._head_due:
            self._head_due = False
            self._client.start_stream(out, last)
        elif out or last:
            self._client.stream(out, last)

    def _stream_failed(self, relay: Relay, out: bytes) -> None:
        """End a stream that its service ended with an error, or in which something was found that must not pass."""
        failed = relay.failed
        if failed is FLAGGED:
            self._settle("complete", 200, relay.usage, relay.events)
            self._pass(out, True)
            self._finish()
            return
        assert failed is not None
        self._pass(out, False)
        self._break_stream(ended_by(failed, self._ticket.service.entry))

    def _stream_over(self, relay: Relay, out: bytes, *, clean: bool) -> None:
        """The upstream has ended: complete the stream, or say that it is not complete."""
        out += relay.end(clean)
        if relay.failed is not None:
            self._stream_failed(relay, out)
            return
        if relay.broken:
            self._pass(out, False)
            name = self._ticket.service.entry.name
            self._break_stream(UpstreamFailed(f"The service {name} broke off in the middle of the answer."))
            return
        if relay.found:
            self._parts.lessons.learn(self._ticket.service.entry, relay.found)
        if relay.said is not None and self._can_count():
            self._pass(out, False)
            self._count(relay.said, self._end_stream)
        else:
            self._end_stream(relay.usage, out)

    def _end_stream(self, usage: Usage | None, out: bytes = b"") -> None:
        """Send the last bytes: the usage if that is due, and the end."""
        relay = self._relay
        assert relay is not None
        told = usage if usage is not None else Usage(self._ticket.prompt_estimate, relay.events)
        out += relay.tail(told, estimated=usage is None)
        self._settle("complete", 200, usage, relay.events)
        self._pass(out, True)
        self._finish()

    # --- whole answers

    def _answer_whole(self, whole: Whole, shape: Shape) -> None:
        ticket = self._ticket
        if ticket.stream and ticket.service.quirks is None and ticket.operation in STREAMED:
            self._stream_whole(whole, shape)
            return
        if whole.found:
            self._parts.lessons.learn(ticket.service.entry, whole.found)
        self._answer = whole.body
        self._untold = USAGE_ABSENT in whole.found
        if not self._untold:
            self._end_whole(whole.usage)
        elif ticket.asked and self._can_count():
            self._count(text_of(whole.body), self._end_whole)
        else:
            self._end_whole(None)

    def _stream_whole(self, whole: Whole, shape: Shape) -> None:
        """A stream was asked for: say the same as one."""
        whole = streamed(whole, shape)
        self._to(STREAMING)
        relay = self._begin_relay()
        out = relay.feed(whole.body) + relay.end(True)
        if relay.failed is not None:
            self._stream_failed(relay, out)
            return
        if relay.broken:
            self._pass(out, False)
            self._break_stream(UpstreamFailed(f"The answer of {self._ticket.service.entry.name} can't be read."))
            return
        self._parts.lessons.learn(self._ticket.service.entry, whole.found)
        self._end_stream(whole.usage, out)

    def _end_whole(self, usage: Usage | None) -> None:
        """Send the answer, with the tokens that were counted or estimated where the service told none."""
        body, ticket, told = self._answer, self._ticket, 0
        if self._untold:
            told = len(text_of(body).encode(errors="replace")) // BYTES_PER_TOKEN
            counted = usage if usage is not None else Usage(ticket.prompt_estimate, told)
            body = with_usage(body, counted, estimated=usage is None)
        if ticket.checked and self._parts.checker is not None:
            try:
                body = checked_answer(ticket, self._parts.checker, body)
            except OutputFiltered as error:
                self._refuse_answer(error, usage)
                return
        try:
            body = said_in_its_api(ticket, body, self.request_id)
        except MooringError as error:
            self._refuse_answer(error, usage)
            return
        self._settle("complete", 200, usage, told)
        self._client.answer(200, body)
        self._finish()

    def _refuse_answer(self, error: MooringError, usage: Usage | None) -> None:
        """The service has answered, and the caller can't have it: its tokens count all the same."""
        self._settle("complete", self._ticket.route.dialect.status(error), usage, 0)
        self._client.refuse(error)
        self._finish()

    # --- counting

    def _can_count(self) -> bool:
        known = self._parts.lessons.of(self._ticket.service.entry)
        return self._replica is not None and NO_TOKENIZER not in known

    def _count(self, said: str, then: Callable[[Usage | None], None]) -> None:
        """Ask the service's tokenizer; go on with what it says, or with None."""
        self._to(COUNTING)
        assert self._replica is not None
        self._client.deadline = float("inf")  # the question has a limit of its own
        self._start(self._counted(self._replica, said, then))

    async def _counted(self, replica: Replica, said: str, then: Callable[[Usage | None], None]) -> None:
        usage = await count_tokens(self._parts, self._ticket, replica, said)
        if self.state == COUNTING:
            self._call = None
            then(usage)

    # --- ending

    def _refuse(self, error: MooringError) -> None:
        if self.state in (REFUSED, DONE):  # refusing failed half-way: end it all the same
            self._finish()
            return
        if self.state == WAITING:
            self._parts.waiting.leave(self._ticket.service.entry.id, self)
        self._to(REFUSED)
        self._settle("error", self._ticket.route.dialect.status(error), None, 0)
        self._client.refuse(error)
        self._finish()

    def _break_stream(self, error: MooringError) -> None:
        """End a stream that can't go on: never a silent cut."""
        relay = self._relay
        assert relay is not None
        self._settle("error", 200, relay.usage, relay.events)
        self._pass(error_event(relay, self._ticket, error, self.request_id), True)
        self._finish()

    def _settle(self, ended: Ended, status: int, usage: Usage | None, events: int) -> None:
        """Write the journal's record. Called before the last bytes leave."""
        slot, self._slot = self._slot, -1
        if slot < 0:
            return
        ticket = self._ticket
        entry = ticket.service.entry
        now = _monotonic()
        replica = self._replica
        delivered = usage is None and (ended == "complete" or events > 0)
        self._parts.journal.finish(
            slot,
            UsageRecord(
                self.request_id,
                ticket.target.endpoint_id,
                entry.id,
                replica.entry.id if replica is not None else "",
                ticket.key.id,
                entry.project,
                ticket.route.dialect.NAME,
                ticket.route.operation,
                status,
                ended,
                delivered,
                bounded(usage.prompt_tokens) if usage is not None else ticket.prompt_estimate if delivered else 0,
                bounded(usage.completion_tokens) if usage is not None else events,
                usage.cached_tokens if usage is not None else 0,
                usage.reasoning_tokens if usage is not None else 0,
                self._started_at,
                (self._first_byte - self._started) * 1000 if self._first_byte else 0.0,
                (now - self._started) * 1000,
            ),
        )

    def _give_back_replica(self) -> None:
        if self._replica is not None:
            self._replica.in_flight -= 1
            self._replica = None
            service = self._ticket.service.entry.id
            if self._parts.waiting.occupied(service):
                self._parts.loop.call_soon(self._parts.waiting.release_next, service)

    def _finish(self, notify: bool = True) -> None:
        """Release everything that was taken. Idempotent."""
        if self.state == DONE:
            return
        if self.state == WAITING:
            self._parts.waiting.leave(self._ticket.service.entry.id, self)
        self.state = DONE
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.release()
        call, self._call = self._call, None
        if call is not None and not call.done():
            call.cancel()
        self._give_back_replica()
        if notify:
            self._client.exchange_done()
