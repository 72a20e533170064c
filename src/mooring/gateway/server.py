"""The client's side: bytes to requests, one exchange at a time, answers in order.

Parse, then act: the parser's callbacks only store facts; `data_received` acts once afterwards. A request's head is
judged as soon as it is complete (key before 100-continue, before the body); a whole request in one read is judged in
one go. While an exchange runs, later requests on the connection queue up; the connection is never paused, because a
paused one would not report that its client left.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from mooring.core.errors import HeadTooLarge, Invalid, MooringError, RequestTimeout, Unavailable
from mooring.core.snapshot import KeyEntry
from mooring.gateway.admission import Ticket, admit, authenticate, check_body_head, too_large
from mooring.gateway.answers.moderation import input_found, input_refusal
from mooring.gateway.dialects import RELAYED, find_route, local, messages
from mooring.gateway.dialects.route import Route
from mooring.gateway.exchange import Exchange
from mooring.gateway.http1.heads import CONTINUE, json_answer, printable, stream_head
from mooring.gateway.http1.request import Head, Request
from mooring.gateway.tunnel import Tunnel
from mooring.gateway.upstream import keep_alive_probes

if TYPE_CHECKING:
    from mooring.gateway.parts import Parts

_log = logging.getLogger("mooring.gateway.server")
_HIGH_WATER = 262144
_MAX_PIPELINED = 16
_MAX_PIPELINED_BYTES = 65536
_LINGER_S = 2.0  # how long a refused body is read and thrown away, so that the refusal reaches its sender
_MAX_RELAYED_BYTES = 8 << 20  # what the management API takes
_QUIET_S = 1.0  # how long a draining worker keeps an idle connection open
_ENDLESS_S = 2.0  # how long it keeps a relayed answer that has no end of its own
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close with RST
_NEVER = float("inf")


class ClientConnection(asyncio.Protocol):
    """One connection of a caller."""

    __slots__ = (
        "_closing",
        "_current",
        "_head_only",
        "_key",
        "_known_header",
        "_known_key",
        "_known_version",
        "_lingering",
        "_overhead",
        "_parser",
        "_parts",
        "_queue",
        "_reading",
        "_request",
        "_request_id",
        "_route",
        "_tunnel",
        "_version_1_0",
        "_write_paused",
        "closed",
        "deadline",
        "exchange",
        "transport",
    )

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self._tunnel: Tunnel | None = None
        self._request: Request | None = None  # being read
        self._current: Request | None = None  # being answered
        self._queue: deque[Request] | None = None
        self._reading = 0  # bytes of the read that is being parsed
        self._key: KeyEntry | None = None
        self._known_header: bytes | None = None
        self._known_key: KeyEntry | None = None
        self._known_version: tuple[str, int] | None = None
        self._route = RELAYED  # of the last request that was judged
        self._request_id = ""
        self._overhead = 0
        self._head_only = False
        self._version_1_0 = False
        self._closing = False
        self._lingering = False
        self._write_paused = False
        self.closed = False
        self.deadline = _NEVER

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass of it
        self.transport = transport
        parts = self._parts
        if len(parts.connections) >= parts.max_connections:
            self._lingering = True
            self._request_id = parts.new_request_id()
            error = Unavailable("This gateway worker has no room for another connection.", retry_after_s=1.0)
            transport.write(self._error_bytes(error, close=True))
            transport.close()
            return
        transport.set_write_buffer_limits(_HIGH_WATER)
        keep_alive_probes(transport)
        parts.connections.add(self)
        self.deadline = parts.timers.now + parts.settings.head_timeout_s
        parts.timers.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._parts.connections.discard(self)
        for request in (self._request, self._current, *(self._queue or ())):
            if request is not None:
                self._parts.body_bytes -= request.body_bytes
                request.body_bytes = 0
        self._request = self._current = None
        self._queue = None
        if self.exchange is not None:
            self.exchange.client_gone()
            self.exchange = None
        if self._tunnel is not None:
            self._tunnel.client_gone()
            self._tunnel = None

    def pause_writing(self) -> None:
        self._write_paused = True
        self.deadline = self._parts.timers.now + self._parts.settings.send_timeout_s
        self._client_writable(False)

    def resume_writing(self) -> None:
        self._write_paused = False
        self._client_writable(True)
        if self._busy:
            self.deadline = self._parts.timers.now + self._parts.settings.between_bytes_timeout_s
        elif not self._lingering:
            self._set_idle_deadline()
            self._proceed()

    def _client_writable(self, writable: bool) -> None:
        if self.exchange is not None:
            self.exchange.client_writable(writable)
        elif self._tunnel is not None:
            self._tunnel.client_writable(writable)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self._tunnel is not None and self._tunnel.opaque:
            self._tunnel.client_data(data)
            return
        request = self._request
        if request is None and self._current is None and not self._write_paused and self._take_known(data):
            return
        known = request.body_bytes if request is not None else 0
        self._reading = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._closing = True  # only relayed paths may switch protocols; whatever comes next is not HTTP
        except httptools.HttpParserError as error:
            self._refuse_framing(Invalid(f"The request is not valid HTTP/1.1: {error}.", code="bad_framing"))
            return
        if request is None and self._request is None and self._queue is None:
            self._learn(data)
        self._parsed(known)

    def _take_known(self, data: bytes) -> bool:
        """Answer a whole request whose head was parsed before; False when the parser has to look."""
        match = self._parts.heads.match(data)
        if match is None or len(match[1]) > self._parts.settings.max_body_bytes:
            return False
        request = self._current = Request(match[0])
        request.body = match[1]
        self._proceed()
        return True

    def _learn(self, data: bytes) -> None:
        """Remember the head of a request that came whole in one read, unless it is too large to be let in."""
        request = self._current
        if request is not None and request.head.content_length <= self._parts.settings.max_body_bytes:
            self._parts.heads.learn(data, request.head)

    def _parsed(self, known: int) -> None:
        """Act on what the parser found in one read; `known` bytes of the unfinished body were there before it."""
        request = self._request
        if request is not None and not self._within_limits(request, self._reading, known):
            return
        if self.exchange is None and self._tunnel is None:
            self._proceed()
        elif self._queue is not None and self._overfull(self._queue):
            self._abort()

    def _within_limits(self, request: Request, received: int, known: int) -> bool:
        """Bound what the parser swallows silently: unfinished heads, chunk extensions, trailers; and the body."""
        settings = self._parts.settings
        grown = request.body_bytes - known
        self._overhead = self._overhead + received if grown <= 0 else 0
        relayed = request.judged and self._route is RELAYED
        largest = min(settings.max_body_bytes, _MAX_RELAYED_BYTES) if relayed else settings.max_body_bytes
        # Relayed bodies are read before anybody's credential is known: they may take an eighth of the room.
        budget = settings.body_budget_bytes // (8 if relayed else 1)
        if self._overhead > settings.max_head_bytes:
            self._refuse_framing(HeadTooLarge(f"More than {settings.max_head_bytes} bytes of head or chunk framing."))
            return False
        if request.body_bytes > largest:
            self._refuse_framing(too_large(largest))
            return False
        if self._parts.body_bytes > budget:
            self._refuse_framing(Unavailable("This gateway worker holds too many request bodies.", retry_after_s=1.0))
            return False
        if not self._busy:
            if request.done:
                self.deadline = self._parts.timers.now + settings.body_timeout_s
            elif not request.timed:  # one limit for the whole head: a byte now and then buys no time
                request.timed = True
                self.deadline = self._parts.timers.now + settings.head_timeout_s
        return True

    def _overfull(self, queue: deque[Request]) -> bool:
        return len(queue) > _MAX_PIPELINED or sum(request.body_bytes for request in queue) > _MAX_PIPELINED_BYTES

    # --- the parser's callbacks: they only store facts

    def on_message_begin(self) -> None:
        self._request = Request(Head())
        self._overhead = 0

    def on_url(self, url: bytes) -> None:
        assert self._request is not None
        self._request.head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        assert request is not None
        if not request.done:
            request.head.add_header(name, value)

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        parser = self._parser
        request.done = True
        head = request.head
        head.method = parser.get_method()
        version = parser.get_http_version()
        if version != "1.1":
            head.version_1_0 = True
            if version != "1.0":
                head.problem = Invalid(f"HTTP/{version} is not spoken here.", next_step="Send HTTP/1.1.")
        if not parser.should_keep_alive():
            head.keep_alive = False
        if head.host is None and not head.version_1_0:
            head.problem = Invalid("The Host header is missing.", next_step="Send a Host header.", code="missing_host")
        limit = self._parts.settings.max_head_bytes
        if self._overhead + self._reading > limit and head.size() > limit:
            head.problem = HeadTooLarge(f"The request head is larger than {limit} bytes.")

    def on_body(self, piece: bytes) -> None:
        request = self._request
        assert request is not None
        if request.head.problem is None and request.body_bytes <= self._parts.settings.max_body_bytes:
            request.add_body(piece)
            self._parts.body_bytes += len(piece)

    def on_message_complete(self) -> None:
        request = self._request
        assert request is not None
        self._overhead = 0
        self._request = None
        if self._current is None:
            self._current = request
        else:
            if self._queue is None:
                self._queue = deque()
            self._queue.append(request)

    # --- acting

    def _proceed(self) -> None:
        """Answer what is complete, in order; then judge the head that is being read."""
        if self._queue is not None and self._overfull(self._queue):
            self._abort()
            return
        while (
            self._current is not None
            and self.exchange is None
            and self._tunnel is None
            and not self._write_paused
            and not self._lingering
            and not self.closed
        ):
            self._handle(self._current)
        request = self._request
        if request is not None and request.done and not request.judged and not self._busy and not self.closed:
            self._judge_early(request)

    def _judge_early(self, request: Request) -> None:
        """Judge a head whose body is still coming: the key before 100-continue, before the body."""
        try:
            self._judge_head(request)
        except MooringError as error:
            self._refuse_framing(error)
            return
        if request.head.expect_continue and self.transport is not None:
            self.transport.write(CONTINUE)

    @property
    def _busy(self) -> bool:
        return self.exchange is not None or self._tunnel is not None

    def _judge_head(self, request: Request) -> None:
        """Find out what is asked and by whom. Raises the refusal."""
        request.judged = True
        head = request.head
        if not self._request_id:
            self._request_id = self._parts.new_request_id()
        self._head_only = head.method == b"HEAD"
        self._version_1_0 = head.version_1_0
        route = self._route = find_route(head.method, head.target)
        if head.problem is not None:
            raise head.problem
        if not route.keyed:
            if route.refusal is not None:
                raise route.refusal
            if route is RELAYED and head.content_length > _MAX_RELAYED_BYTES:
                raise too_large(_MAX_RELAYED_BYTES)
            return
        if head.upgrade:
            raise Invalid("This path offers no protocol upgrade.", next_step="Send plain HTTP/1.1.", code="no_upgrade")
        local.check_table(self._parts)
        self._key = self._authenticate(head)
        if head.method == b"POST":
            check_body_head(head, self._parts.settings.max_body_bytes)

    def _authenticate(self, head: Head) -> KeyEntry:
        """Return the caller's key; the same header under the same table needs no second look-up."""
        header = head.authorization
        table = self._parts.table
        if header is not None and header == self._known_header and self._known_version == (table.epoch, table.version):
            key = self._known_key
            if key is not None and key.expires_at is None:
                return key
        key = authenticate(head, table, bare=self._route.dialect is messages)
        self._known_header, self._known_version, self._known_key = header, (table.epoch, table.version), key
        return key

    def _handle(self, request: Request) -> None:
        """Start answering one complete request."""
        self.deadline = _NEVER
        if not request.head.keep_alive or self._parts.draining:
            self._closing = True
        self._request_id = self._request_id or self._parts.new_request_id()
        try:
            if not request.judged:
                self._judge_head(request)
            self._dispatch(request)
        except MooringError as error:
            self.refuse(error)
            self.exchange_done()
        except Exception:  # noqa: BLE001 - the gateway's last line of defence: a bug costs one request, not the worker
            _log.exception("request %s failed", self._request_id)
            self._closing = True
            self.refuse(MooringError())
            self.exchange_done()

    def _dispatch(self, request: Request) -> None:
        route = self._route
        if route is RELAYED:
            self._tunnel = Tunnel(self._parts, self, request, self._request_id)
            self._tunnel.begin()
        elif request.head.method == b"POST":
            self._infer(request, route)
        else:
            body = local.answer(route, request.head.target, self._key, self._parts)
            self.answer(200, body)
            self.exchange_done()

    def _infer(self, request: Request, route: Route) -> None:
        key = self._key
        assert key is not None
        body = request.body if isinstance(request.body, bytes) else bytes(request.body)
        parts = self._parts
        ticket = admit(body, key, route, parts.table, parts.lessons, checking=parts.checker is not None)
        if ticket.checked and parts.checker is not None and input_found(parts.checker, body):
            self._refuse_input(ticket)
            return
        exchange = self.exchange = Exchange(self._parts, self, ticket, self._request_id)
        try:
            exchange.begin()
        except MooringError:
            self.exchange = None
            raise
        if request.body_bytes:
            self._forget_body(request)
        else:
            request.body = b""

    def _refuse_input(self, ticket: Ticket) -> None:
        """Answer a caller whose text is not let through, by the signal of the dialect."""
        refusal = input_refusal(ticket, self._request_id, int(time.time()))
        if isinstance(refusal, MooringError):
            raise refusal
        if ticket.stream:
            self.start_stream(refusal, True)
        else:
            self.answer(200, refusal)
        self.exchange_done()

    def _forget_body(self, request: Request) -> None:
        """The exchange holds the pieces now; the budget counts what waits to be read, not what is being sent."""
        self._parts.body_bytes -= request.body_bytes
        request.body_bytes = 0
        request.body = b""

    # --- the client port: what exchanges and tunnels call

    def answer(self, status: int, body: bytes, retry_after_s: float | None = None) -> None:
        """Send a whole JSON answer."""
        extra = self._extra_headers()
        if retry_after_s is not None:
            extra += b"Retry-After: %d\r\n" % max(1, round(retry_after_s))
        self.write(json_answer(status, body, extra, close=self._closing, head_only=self._head_only))

    def refuse(self, error: MooringError) -> None:
        """Send a refusal in the caller's dialect."""
        self.write(self._error_bytes(error, close=self._closing))

    def start_stream(self, first: bytes, last: bool) -> None:
        """Send the head of an event stream with its first bytes."""
        chunked = not self._version_1_0
        if not chunked:
            self._closing = True
        head = stream_head(self._extra_headers(), close=self._closing, chunked=chunked)
        self.write(head + self._frame(first, last))

    def stream(self, piece: bytes, last: bool) -> None:
        """Send the next bytes of an event stream. The usual chunk is framed here: this runs for every token."""
        if last or not piece or self._version_1_0:
            self.write(self._frame(piece, last))
        elif self.transport is not None and not self.closed:
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _frame(self, piece: bytes, last: bool) -> bytes:
        if self._version_1_0:
            return piece
        if last:
            return b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece) if piece else b"0\r\n\r\n"
        return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""

    def write(self, data: bytes) -> None:
        transport = self.transport
        if transport is not None and not self.closed:
            transport.write(data)

    @property
    def closing(self) -> bool:
        return self._closing

    def close_after(self) -> None:
        """Close once the current answer is out."""
        self._closing = True

    def exchange_done(self) -> None:
        """The current answer is on its way: go on with the next request, or close."""
        self.exchange = None
        self._tunnel = None
        request, self._current = self._current, None
        if request is not None and request.body_bytes:
            self._forget_body(request)
        self._key = None
        self._request_id = ""
        if self.closed or self.transport is None:
            return
        if self._closing:
            self._close()
            return
        if self._queue:
            self._current = self._queue.popleft()
            self._parts.loop.call_soon(self._proceed)
        elif self._request is not None:
            self._parts.loop.call_soon(self._proceed)
            self._set_idle_deadline()
        else:
            settings = self._parts.settings
            wait = settings.send_timeout_s if self._write_paused else settings.idle_timeout_s
            self.deadline = self._parts.timers.now + wait

    # --- timing out and closing

    def _set_idle_deadline(self) -> None:
        if not self._busy:
            settings = self._parts.settings
            wait = settings.idle_timeout_s if self._request is None else settings.head_timeout_s
            if self._write_paused:
                wait = settings.send_timeout_s
            self.deadline = self._parts.timers.now + wait

    def on_deadline(self, now: float) -> None:
        if self._write_paused or self._lingering:
            self._abort()
        elif self.exchange is not None:
            self.exchange.on_deadline()
        elif self._tunnel is not None:
            self.deadline = _NEVER  # a followed log may be silent for hours; TCP keepalive finds the dead
        elif self._request is not None:
            self._refuse_framing(RequestTimeout())
        else:
            self._close()

    def _close(self) -> None:
        """Close after what was written; a client that does not read it is aborted in the end."""
        self._lingering = True
        self.deadline = self._parts.timers.now + self._parts.settings.send_timeout_s
        if self.transport is not None:
            self.transport.close()

    def drain(self, now: float, drained_s: float) -> None:
        """Close once quiet for a moment (`now`: monotonic seconds); a request that comes meanwhile is answered.

        An idle connection is not closed at once: its caller's next request may be under way already, and the last
        answer did not say that it was the last. Answers are waited for, but not those that never end.
        """
        if drained_s > _ENDLESS_S and self._tunnel is not None and self._tunnel.endless:
            self._abort()
            return
        if self._busy or self._current is not None or self._request is not None or self._lingering:
            return
        self.deadline = min(self.deadline, now + _QUIET_S)
        if self.deadline <= now:
            self._close()

    def _refuse_framing(self, error: MooringError) -> None:
        """Refuse what can't be read to its end: answer, stop reading requests, close a little later."""
        if self._busy or self._current is not None:
            self._abort()  # an answer is under way: another one must not be mixed in
            return
        self._request_id = self._request_id or self._parts.new_request_id()
        request = self._request
        if request is not None and not request.judged:
            self._head_only = request.head.method == b"HEAD"
            self._route = find_route(request.head.method, request.head.target)
        self.write(self._error_bytes(error, close=True))
        self._lingering = True
        self.deadline = self._parts.timers.now + _LINGER_S
        if request is not None:
            self._forget_body(request)
            self._request = None
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()

    def eof_received(self) -> bool:
        """The client closed its side: it is gone, also when it only meant to stop sending."""
        return False

    def reset(self) -> None:
        """Break the connection off so that it looks broken: an HTTP/1.0 answer without length would look whole."""
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # --- heads

    def _extra_headers(self) -> bytes:
        extra = b"X-Request-Id: %b\r\n" % self._request_id.encode()
        request = self._current or self._request
        if request is not None and request.head.client_request_id:
            extra += b"X-Client-Request-Id: %b\r\n" % printable(request.head.client_request_id)
        return extra

    def _error_bytes(self, error: MooringError, *, close: bool) -> bytes:
        extra, dialect = self._extra_headers(), self._route.dialect
        status = dialect.status(error)
        if status == 401:
            extra += b'WWW-Authenticate: Bearer realm="mooring"\r\n'
        elif status == 405 and error.param:
            extra += b"Allow: %b\r\n" % error.param.encode()
        if error.retry_after_s is not None:
            extra += b"Retry-After: %d\r\n" % max(1, round(error.retry_after_s))
        if status >= 400:
            extra += b"x-should-retry: true\r\n" if error.retryable else b"x-should-retry: false\r\n"
        body = dialect.error_body(error, self._request_id)
        return json_answer(status, body, extra, close=close, head_only=self._head_only)
