"""One inference request from its Ticket to its last byte.

States and transitions (any state → DONE when the client leaves or the worker drains):

    ROUTING ──all places taken──► WAITING ──a place is free──► ROUTING
    ROUTING ──replica──► CONNECTING ──connection──► SENT ──first body byte──► STREAMING ──► DONE
       ▲                     │ failed                │                └─────► WHOLE ──────► DONE
       └─────────────────────┴── lost, nothing received ┘      REFUSED is an answer of our own: → DONE
    ROUTING ──several calls or steps──► CALLING ──► DONE

`_to` is the only writer of `state`; `_finish` is the only releaser of what was taken (replica place, upstream
connection, journal slot) and may be called twice. The exchange does no I/O of its own: it speaks to a client port
(`ClientConnection`) and an `UpstreamConnection`. Awaited things come back as events that carry the attempt's number;
late ones are dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Final, Protocol

from mooring.core.errors import MooringError, UpstreamFailed, UpstreamTimeout
from mooring.core.usage import Ended, UsageRecord
from mooring.gateway.admission import Ticket
from mooring.gateway.dialects.operations import METERED, UPSTREAM_PATHS
from mooring.gateway.quirks import Steps
from mooring.gateway.relay import event_relay, is_openai_error, upstream_error, whole_answer
from mooring.gateway.routing import Replica, Service, choose_replica, not_ready
from mooring.gateway.streams.sse import EventRelay
from mooring.gateway.streams.usage import Usage, bounded, usage_of
from mooring.gateway.upstream import UpstreamConnection
from mooring.gateway.usage.slots import SlotHead

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

TRANSITIONS: Final[dict[int, tuple[int, ...]]] = {
    ROUTING: (CONNECTING, SENT, CALLING, WAITING, REFUSED, DONE),
    WAITING: (ROUTING, REFUSED, DONE),
    CONNECTING: (ROUTING, SENT, REFUSED, DONE),
    SENT: (ROUTING, STREAMING, WHOLE, REFUSED, DONE),
    STREAMING: (DONE,),
    WHOLE: (REFUSED, DONE),
    CALLING: (REFUSED, DONE),
    REFUSED: (DONE,),
    DONE: (),
}
_log = logging.getLogger("mooring.gateway.exchange")
_ATTEMPTS = 3  # replicas tried for one request
_CLIENT_LEFT = 499
_MAX_WHOLE = 256 << 20  # bytes of one JSON answer
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


class Exchange:
    """See the module."""

    # Defaults are class attributes: an exchange is made for every call, and most of them change once or never.
    state = ROUTING
    _first_byte = 0.0
    _attempt = 0
    _tried: tuple[str, ...] = ()
    _replica: Replica | None = None
    _upstream: UpstreamConnection | None = None
    _relay: EventRelay | None = None
    _whole: list[bytes] | None = None
    _size = 0
    _slot = -1
    _call: asyncio.Task[None] | None = None
    _error: MooringError | None = None

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

    # --- starting

    def begin(self) -> None:
        """Take a slot of the journal and go.

        Raises:
            StorageFull, Unavailable: no slot; nothing was taken.
        """
        ticket = self._ticket
        operation = ticket.operation
        if operation in METERED:
            entry = ticket.service.entry
            self._slot = self._parts.journal.open_slot(
                SlotHead(
                    self.request_id,
                    ticket.target.endpoint_id,
                    entry.id,
                    "",
                    ticket.key.id,
                    entry.project,
                    ticket.route.dialect.NAME,
                    operation,
                    self._started_at,
                    ticket.prompt_estimate,
                )
            )
        self._route()

    def _route(self, *, waited: bool = False) -> None:
        ticket = self._ticket
        try:
            passed = self._tried if not ticket.target.adapter else {*self._tried, *ticket.service.unlike}
            replica = choose_replica(ticket.service, passed, self._parts.timers.now)
            if replica.entry.slots and self._must_wait(replica, waited):
                return
        except MooringError as error:
            self._refuse(self._error or error)
            return
        self._replica = replica
        replica.in_flight += 1
        self._attempt += 1
        if ticket.steps is not None:
            self._to(CALLING)
            self._start(self._run_steps(ticket.steps, replica))
            return
        upstream = replica.pool.take()
        if upstream is not None:
            self._send(upstream)
        else:
            self._to(CONNECTING)
            self._start(self._dialled(replica, self._attempt))

    def _must_wait(self, replica: Replica, waited: bool) -> bool:
        """Enter the line when the engines are full or others wait; the first in line goes before newcomers.

        Raises:
            Unavailable: the line is full.
        """
        waiting = self._parts.waiting
        service = self._ticket.service.entry.id
        if not replica.full(self._parts.settings.gateway_workers) and (waited or not waiting.occupied(service)):
            return False
        waiting.enter(service, self, first=waited)
        self._to(WAITING)
        self._client.deadline = self._parts.timers.now + self._parts.settings.first_byte_timeout_s
        return True

    def released(self) -> None:
        """A place may be free: look for a replica again, among those of the current table."""
        if self.state != WAITING:
            return
        service = self._ticket.service.entry.id
        self._to(ROUTING)
        fresh = self._parts.table.services.get(service)
        if fresh is None or not self._fits(fresh):
            self._refuse(not_ready(self._ticket.service.entry))
        else:
            self._ticket.service = fresh
            self._route(waited=True)
        if self.state != WAITING and self._parts.waiting.occupied(service):
            self._parts.loop.call_soon(self._parts.waiting.release_next, service)

    def _fits(self, fresh: Service) -> bool:
        """Return whether the prepared body still fits: an adapter may have another number by now, or be gone."""
        return not self._ticket.target.adapter or fresh.entry.adapters == self._ticket.service.entry.adapters

    def _start(self, work: Coroutine[None, None, None]) -> None:
        """Run what must wait; its results come back as events, and so does a bug in it."""
        self._call = self._parts.loop.create_task(work)
        self._call.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("request %s failed", self.request_id, exc_info=error)
            if self.state == STREAMING:
                self._break_stream(MooringError())
            elif self.state != DONE:
                self._refuse(MooringError())

    async def _dialled(self, replica: Replica, attempt: int) -> None:
        """Dial, then hand the result in as an event."""
        try:
            upstream = await replica.pool.dial(self._parts.settings.connect_timeout_s)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a host name that IDNA can't encode
            if self.state == CONNECTING and attempt == self._attempt:
                self._connect_failed(error)
            return
        if self.state == CONNECTING and attempt == self._attempt:
            if upstream.lost:
                self._connect_failed(ConnectionResetError())
            else:
                self._send(upstream)
        else:
            upstream.keep_alive = upstream.complete = True  # unused: fit for the pool
            upstream.release()

    def _connect_failed(self, error: OSError | TimeoutError | ValueError) -> None:
        kind = "did not answer in time" if isinstance(error, TimeoutError) else "could not be reached"
        self._retry_elsewhere(UpstreamFailed(f"The service {self._ticket.service.entry.name} {kind}."))

    def _retry_elsewhere(self, error: MooringError) -> None:
        """Nothing of this request was received: try another replica, else refuse with `error`."""
        replica = self._replica
        assert replica is not None
        replica.failed(self._parts.timers.now)
        self._give_back_replica()
        self._tried = (*self._tried, replica.entry.id)
        self._error = error
        if len(self._tried) >= _ATTEMPTS:
            self._refuse(error)
            return
        self._to(ROUTING)
        self._route()

    def _send(self, upstream: UpstreamConnection) -> None:
        ticket = self._ticket
        replica = self._replica
        assert replica is not None
        self._to(SENT)
        self._call = None
        self._upstream = upstream
        self._client.deadline = self._parts.timers.now + self._parts.settings.first_byte_timeout_s
        path, from_root = UPSTREAM_PATHS[ticket.operation]
        upstream.send(self, replica.pool.request_head(path, from_root=from_root), ticket.body)

    # --- the upstream's events

    def upstream_ready(self) -> None:
        upstream = self._upstream
        if upstream is None:
            return
        state = self.state
        self._client.deadline = self._parts.timers.now + self._parts.settings.between_bytes_timeout_s
        if state == STREAMING:
            self._stream_on(upstream)
        elif state == SENT:
            if not upstream.pieces and not upstream.complete:
                return
            self._first_byte = _monotonic()
            self._ticket.body = []
            assert self._replica is not None
            self._replica.answered()
            kind = upstream.content_type
            if (
                upstream.status == 200
                and self._ticket.stream
                and not upstream.encoded
                and kind[:17].lower() == b"text/event-stream"
            ):
                self._to(STREAMING)
                self._stream_on(upstream)
            else:
                self._to(WHOLE)
                self._collect(upstream)
        elif state == WHOLE:
            self._collect(upstream)

    def _stream_on(self, upstream: UpstreamConnection) -> None:
        """Pass on what came. The slot's count rises before bytes leave; the record is written before the last."""
        pieces = upstream.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        relay = self._relay
        first = relay is None
        if relay is None:
            relay = self._relay = event_relay(self._ticket)
        out = relay.feed(data)
        last = upstream.complete
        if last:
            rest = relay.end()
            if rest and upstream.unframed:
                self._cut_off(first, out)
                return
            out += rest
            self._settle("complete", 200, relay.usage, relay.events)
        elif out:
            self._parts.journal.progress(self._slot, relay.events)
        if first:
            self._client.start_stream(out, last)
        elif out or last:
            self._client.stream(out, last)
        if last:
            self._finish()

    def _cut_off(self, first: bool, out: bytes) -> None:
        """A stream without framing ended inside an event: its connection broke, though it looks like an end."""
        if first:
            self._client.start_stream(out, False)
        elif out:
            self._client.stream(out, False)
        name = self._ticket.service.entry.name
        self._break_stream(UpstreamFailed(f"The service {name} broke off in the middle of the answer."))

    def _collect(self, upstream: UpstreamConnection) -> None:
        if not upstream.complete:
            if self._whole is None:
                self._whole = []
            for piece in upstream.pieces:
                self._size += len(piece)
            self._whole += upstream.pieces
            upstream.pieces.clear()
            if self._size > _MAX_WHOLE:
                self._refuse(UpstreamFailed(f"The answer is longer than {_MAX_WHOLE} bytes."))
            return
        pieces = upstream.pieces if self._whole is None else self._whole + upstream.pieces
        self._whole_done(upstream, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _whole_done(self, upstream: UpstreamConnection, body: bytes) -> None:
        ticket = self._ticket
        status = upstream.status
        if status != 200:
            self._error_answer(upstream, status, body)
            return
        if upstream.encoded or (body[:1] != b"{" and body.lstrip()[:1] not in (b"{", b"[")):
            self._refuse(
                UpstreamFailed(
                    f"The service {ticket.service.entry.name} sent an answer that is not JSON.", code="upstream_error"
                )
            )
            return
        self._settle("complete", 200, usage_of(body), 0)
        self._client.answer(200, whole_answer(ticket, body))
        self._finish()

    def _error_answer(self, upstream: UpstreamConnection, status: int, body: bytes) -> None:
        """Pass an upstream's error on: OpenAI-shaped ones of other people's services unchanged, the rest reshaped."""
        entry = self._ticket.service.entry
        error = upstream_error(status, body, entry, upstream.retry_after)
        if entry.external and status not in (401, 403) and 400 <= status < 600 and is_openai_error(body):
            self._settle("error", status, None, 0)
            key = self._replica.entry.key if self._replica is not None else None
            if key:
                body = body.replace(key.encode(), b"***")  # some services quote the credential they refuse
            self._client.answer(status, body, error.retry_after_s)
            self._finish()
        else:
            self._refuse(error)

    def upstream_lost(self, received: bool) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        name = self._ticket.service.entry.name
        if self.state == STREAMING and self._relay is not None and self._relay.finished:
            self._settle("complete", 200, self._relay.usage, self._relay.events)
            self._client.stream(b"", True)
            self._finish()
        elif self.state == STREAMING:
            self._break_stream(UpstreamFailed(f"The service {name} broke off in the middle of the answer."))
        elif received or self.state != SENT:
            self._refuse(UpstreamFailed(f"The service {name} broke off before its answer was complete."))
        elif upstream.reused:
            # The keep-alive race: the idle connection was closed while we wrote. Nothing was received: once more.
            self._give_back_replica()
            self._to(ROUTING)
            self._route()
        else:
            self._retry_elsewhere(UpstreamFailed(f"The service {name} closed the connection without an answer."))

    def upstream_writable(self, writable: bool) -> None:
        """The request's body is in one buffer already: the kernel takes it as the engine reads. Nothing to do."""

    # --- several steps (tokenize, several choices on llama.cpp)

    async def _run_steps(self, steps: Steps, replica: Replica) -> None:
        try:
            answer = await steps(self._parts, self._ticket, replica)
        except MooringError as error:
            if self.state == CALLING:
                self._refuse(error)
            return
        if self.state == CALLING:
            self._first_byte = _monotonic()
            self._settle("complete", 200, answer.usage, 0)
            self._client.answer(200, answer.body)
            self._finish()

    # --- the client's events

    def client_gone(self) -> None:
        """The caller left: the engine must stop working for it at once."""
        if self.state == DONE:
            return
        relay = self._relay
        status = 200 if self.state == STREAMING else _CLIENT_LEFT
        self._settle("aborted", status, relay.usage if relay else None, relay.events if relay else 0)
        self._finish(notify=False)

    def client_writable(self, writable: bool) -> None:
        upstream = self._upstream
        if upstream is not None:
            if writable:
                upstream.resume()
            else:
                upstream.pause()

    def on_deadline(self) -> None:
        """The upstream said nothing for too long."""
        if self.state == DONE:
            return
        name = self._ticket.service.entry.name
        error = UpstreamTimeout(f"The service {name} sent nothing for too long.")
        if self.state == STREAMING:
            self._break_stream(error)
        else:
            self._refuse(error)

    # --- ending

    def _refuse(self, error: MooringError) -> None:
        if self.state in (REFUSED, DONE):  # refusing failed half-way: end it all the same
            self._finish()
            return
        if self.state == WAITING:
            self._parts.waiting.leave(self._ticket.service.entry.id, self)
        self._to(REFUSED)
        self._settle("error", error.status, None, 0)
        self._client.refuse(error)
        self._finish()

    def _break_stream(self, error: MooringError) -> None:
        """End a stream that can't go on: never a silent cut."""
        relay = self._relay
        assert relay is not None
        self._settle("error", 200, relay.usage, relay.events)
        self._client.stream(self._ticket.route.dialect.error_event(error), True)
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
                ticket.operation,
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
