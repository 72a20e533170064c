"""One inference request from its Ticket to its last byte.

States and transitions (any state → DONE when the client leaves or the worker drains):

    ROUTING ──all places taken──► WAITING ──a place is free──► ROUTING
    ROUTING ──replica──► CONNECTING ──connection──► SENT ──first body byte──► STREAMING ──► DONE
       ▲                     │ failed                │                └─────► WHOLE ──────► DONE
       └─────────────────────┴── lost, nothing received ┘      REFUSED is an answer of our own: → DONE
    ROUTING ──several calls or steps──► CALLING ──► DONE
    WHOLE ──our include_usage was refused──► ROUTING       WHOLE ──it is a stream after all──► STREAMING
    STREAMING, WHOLE ──its tokens must be counted──► COUNTING ──► DONE

The exchange does no I/O of its own: it speaks to a client port (`ClientConnection`) and an `UpstreamConnection`.
Awaited things come back as events that carry the attempt's number; late ones are dropped. The half that is about the
answer and its end is in `answering`.
"""

from __future__ import annotations

import logging
import time

from mooring.core.errors import MooringError, UpstreamFailed, UpstreamTimeout
from mooring.core.repairs import USAGE_REFUSED
from mooring.gateway.answers.answering import (
    CALLING,
    CONNECTING,
    COUNTING,
    DONE,
    ROUTING,
    SENT,
    STREAMING,
    WAITING,
    WHOLE,
    Answering,
)
from mooring.gateway.answers.relay import (
    ended_by,
    is_event_stream,
    is_openai_error,
    names_stream_options,
    read_whole,
    shape_of,
    upstream_error,
)
from mooring.gateway.dialects.operations import METERED, STREAMED, TRANSLATED, UPSTREAM_PATHS
from mooring.gateway.outgoing import API_REPAIRS, ask_without_usage, translate
from mooring.gateway.quirks import Steps
from mooring.gateway.routing import Replica, Service, choose_replica, not_ready
from mooring.gateway.streams.whole import begins_stream, healthy_usage
from mooring.gateway.upstream import UpstreamConnection
from mooring.gateway.usage.slots import SlotHead

_log = logging.getLogger("mooring.gateway.exchange")
_ATTEMPTS = 3  # replicas tried for one request
_CLIENT_LEFT = 499
_MAX_JUDGED = 1 << 20  # bytes of a line after which it is no stream
_MAX_WHOLE = 256 << 20  # bytes of one JSON answer
_monotonic = time.monotonic


class Exchange(Answering):
    """See the module; `answering` is what becomes of the answer."""

    # --- starting

    def begin(self) -> None:
        """Take a slot of the journal and go.

        Raises:
            StorageFull, Unavailable: no slot; nothing was taken.
        """
        ticket = self._ticket
        operation = ticket.route.operation
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
            assert self._replica is not None
            self._replica.answered()
            ticket = self._ticket
            if upstream.status == 200:
                ticket.body = []
                if self._tried_otherwise:
                    self._parts.lessons.learn(ticket.service.entry, [self._tried_otherwise])
                if ticket.stream and not upstream.encoded and is_event_stream(upstream.content_type):
                    self._to(STREAMING)
                    self._stream_on(upstream)
                    return
            self._to(WHOLE)
            self._collect(upstream)
        elif state == WHOLE:
            self._collect(upstream)

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
            elif upstream.status == 200 and self._ticket.stream and not self._judged:
                self._see_stream(upstream)
            return
        pieces = upstream.pieces if self._whole is None else self._whole + upstream.pieces
        self._whole_done(upstream, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _see_stream(self, upstream: UpstreamConnection) -> None:
        """Look whether an answer that does not call itself a stream is one, so that it need not be awaited whole."""
        assert self._whole is not None
        data = b"".join(self._whole)
        begins = begins_stream(data) if self._ticket.service.entry.external and not upstream.encoded else False
        if not begins:
            self._judged = begins is False or len(data) > _MAX_JUDGED
            self._whole = [data]
            return
        self._whole = None
        upstream.pieces[:] = [data]
        self._to(STREAMING)
        self._stream_on(upstream)

    def _whole_done(self, upstream: UpstreamConnection, body: bytes) -> None:
        ticket = self._ticket
        status = upstream.status
        if status != 200:
            self._error_answer(upstream, status, body)
            return
        entry = ticket.service.entry
        if ticket.stream and entry.external and begins_stream(body + b"\n") and not upstream.encoded:
            upstream.pieces[:] = [body]
            self._to(STREAMING)
            self._stream_on(upstream)
            return
        if entry.external and not (upstream.encoded or ticket.stream or ticket.checked or ticket.translation):
            usage = healthy_usage(ticket.operation, body)
            if usage is not None:  # the usual answer: no call more than needed
                self._settle("complete", 200, usage, 0)
                self._client.answer(200, body)
                self._finish()
                return
        shape = shape_of(ticket, self.request_id, self._started_at)
        whole = None if upstream.encoded else read_whole(ticket, body, upstream.content_type, shape)
        if whole is None:
            self._refuse(
                UpstreamFailed(f"The service {entry.name} sent an answer that is not JSON.", code="upstream_error")
            )
        elif whole.failed is not None:
            self._refuse(ended_by(whole.failed, entry))
        else:
            self._answer_whole(whole, shape)

    def _error_answer(self, upstream: UpstreamConnection, status: int, body: bytes) -> None:
        """Pass an upstream's error on: OpenAI-shaped ones of other people's services unchanged, the rest reshaped."""
        entry = self._ticket.service.entry
        if status in (400, 422) and self._asked_for_usage() and names_stream_options(body):
            self._ask_without_usage(upstream)
            return
        if status in (404, 405, 501) and self._ticket.operation in TRANSLATED:
            self._say_as_chat(upstream)
            return
        error = upstream_error(status, body, entry, upstream.retry_after)
        if (
            entry.external
            and self._ticket.route.dialect.NAME != "ark"
            and self._ticket.route.operation not in TRANSLATED
            and status not in (401, 403)
            and 400 <= status < 600
            and is_openai_error(body)
        ):
            self._settle("error", status, None, 0)
            key = self._replica.entry.key if self._replica is not None else None
            if key:
                body = body.replace(key.encode(), b"***")  # some services quote the credential they refuse
            self._client.answer(status, body, error.retry_after_s)
            self._finish()
        else:
            self._refuse(error)

    def _asked_for_usage(self) -> bool:
        """Whether our own question for usage was added to a stream's request."""
        ticket = self._ticket
        ours = not ticket.wants_usage or ticket.translation is not None
        added = ticket.stream and ticket.operation in STREAMED and USAGE_REFUSED not in ticket.known
        return bool(added and ticket.asked and ours)

    def _ask_without_usage(self, upstream: UpstreamConnection) -> None:
        """The service does not take what we added: ask once more without. Nothing was sent to the caller yet."""
        ask_without_usage(self._ticket)
        self._ask_again(upstream, USAGE_REFUSED)

    def _say_as_chat(self, upstream: UpstreamConnection) -> None:
        """The service may not have the path of the caller's API: say the same as a chat."""
        ticket = self._ticket
        repair = API_REPAIRS[ticket.operation]
        try:
            translate(ticket, ticket.asked)
        except MooringError as error:
            self._refuse(error)
            return
        self._ask_again(upstream, repair)

    def _ask_again(self, upstream: UpstreamConnection, repair: str) -> None:
        """Send the request in its other form; that the service needs this is learnt when it takes it."""
        self._tried_otherwise = repair
        self._upstream, self._whole, self._size = None, None, 0
        upstream.release()
        self._give_back_replica()
        self._to(ROUTING)
        self._route()

    def upstream_lost(self, received: bool) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        name = self._ticket.service.entry.name
        if self.state == COUNTING:
            return  # its answer is complete; only its connection is gone
        if self.state == STREAMING:
            assert self._relay is not None
            self._stream_over(self._relay, b"", clean=False)
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
            self._answer = answer.body
            self._end_whole(answer.usage)

    # --- the client's events

    def client_gone(self) -> None:
        """The caller left: the engine must stop working for it at once."""
        if self.state == DONE:
            return
        relay = self._relay
        status = 200 if relay is not None else _CLIENT_LEFT
        said_all = self.state == COUNTING or (relay is not None and relay.finished)
        ended = "complete" if said_all else "aborted"
        self._settle(ended, status, relay.usage if relay else None, relay.events if relay else 0)
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
        if self.state == STREAMING and self._relay is not None:
            if self._relay.finished:
                self._stream_over(self._relay, b"", clean=False)
            else:
                self._break_stream(error)
        elif self.state != COUNTING:
            self._refuse(error)
