"""Everything that is not inference goes to control: console, management API, WebSocket upgrades.

One connection to control per request (a Unix socket costs microseconds), so nothing of one caller can leak into
another's answer. Hop-by-hop and forwarding headers are dropped and ours set; after control's 101 both sides are
opaque bytes.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, cast

import httptools

from mooring.core.errors import Invalid, Unavailable, UpstreamFailed
from mooring.gateway.http1.heads import CLOSE, status_line
from mooring.gateway.http1.request import Request

if TYPE_CHECKING:
    from mooring.gateway.parts import Parts
    from mooring.gateway.server import ClientConnection

_DROPPED = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"forwarded",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-real-ip",
        b"x-request-id",
    }
)
_BAD_TARGET = re.compile(rb"^[^/]|//|(^|/)\.\.(/|$|\?)|%2f|%5c|\\|%2e%2e|%00", re.IGNORECASE)


def check_target(target: bytes) -> None:
    """Refuse targets that could mean another path to control than to us.

    Raises:
        Invalid: absolute form, `//`, `..`, encoded slashes or NUL in the path.
    """
    if _BAD_TARGET.search(target.partition(b"?")[0]):
        raise Invalid(
            "The request target is not a plain path.", next_step="Ask for a path such as /manage/v1.", code="bad_target"
        )


def _named_in_connection(request: Request) -> set[bytes]:
    """Headers that the caller means for this connection only (RFC 9110 §7.6.1); never what decides who asks whom."""
    named = {
        token.strip().lower()
        for name, value in request.head.headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    return named - {b"host", b"authorization", b"cookie", b"content-type"}


class Tunnel(asyncio.Protocol):
    """One relayed request."""

    __slots__ = (
        "_client",
        "_done",
        "_head_sent",
        "_headers",
        "_length",
        "_parser",
        "_parts",
        "_pieces",
        "_request",
        "_request_id",
        "_switching",
        "_task",
        "_transport",
        "_unframed",
        "opaque",
    )

    def __init__(self, parts: Parts, client: ClientConnection, request: Request, request_id: str) -> None:
        check_target(request.head.target)
        self._parts = parts
        self._client: ClientConnection | None = client
        self._request = request
        self._request_id = request_id
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._length = -1
        self._head_sent = False
        self._done = False
        self._switching = False
        self._unframed = True
        self._task: asyncio.Task[None] | None = None
        self.opaque = False

    @property
    def endless(self) -> bool:
        """True for what may go on as long as somebody listens: a followed log, a WebSocket."""
        return self.opaque or (self._head_sent and self._length < 0)

    def begin(self) -> None:
        """Dial control."""
        self._task = self._parts.loop.create_task(self._dial())

    async def _dial(self) -> None:
        loop = self._parts.loop
        try:
            async with asyncio.timeout(self._parts.settings.connect_timeout_s):
                await loop.create_unix_connection(lambda: self, self._parts.public_socket)
        except (OSError, TimeoutError):
            self._fail(Unavailable("The control process does not answer; it may be restarting.", retry_after_s=1.0))

    # --- control's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass of it
        client = self._client
        if client is None:
            transport.abort()
            return
        self._transport = transport
        transport.writelines([self._head(client), bytes(self._request.body)])

    def _head(self, client: ClientConnection) -> bytes:
        request = self._request
        lines = [b"%b %b HTTP/1.1\r\n" % (request.head.method, request.head.target)]
        host = request.head.host or b""
        dropped = _DROPPED | _named_in_connection(request)
        for name, value in request.head.headers:
            lower = name.lower()
            if lower not in dropped and not lower.startswith(b"x-forwarded-"):
                lines.append(b"%b: %b\r\n" % (name, value))
        peer = client.transport.get_extra_info("peername") if client.transport is not None else None
        address = str(peer[0]).encode() if isinstance(peer, tuple) else b"unknown"  # pyright: ignore[reportUnknownArgumentType]
        scheme = b"https" if self._parts.settings.scheme == "https" else b"http"
        lines.append(
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n" % (address, scheme, host)
        )
        lines.append(b"X-Request-Id: %b\r\nContent-Length: %d\r\n" % (self._request_id.encode(), len(request.body)))
        if request.head.upgrade:
            lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % request.head.upgrade)
        else:
            lines.append(b"Connection: close\r\n\r\n")
        return b"".join(lines)

    def data_received(self, data: bytes) -> None:
        client = self._client
        if client is None:
            self._abort()
            return
        if self.opaque:
            client.write(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._fail(UpstreamFailed("The control process sent an answer that can't be read."))
            return
        if self._switching:
            self._switch(b"")
        elif self._head_sent:
            self._pass_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        client = self._client
        if client is None:
            return
        if self.opaque:
            self._client = None
            if client.transport is not None:
                client.transport.close()
        elif self._head_sent and self._unframed and exc is None:
            self._done = True  # an answer without length ends with its connection
            self._pass_on()
        else:
            self._fail(UpstreamFailed("The control process broke off before its answer was complete."))

    def pause_writing(self) -> None:
        if self.opaque and self._client is not None and self._client.transport is not None:
            self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.opaque and self._client is not None and self._client.transport is not None:
            self._client.transport.resume_reading()

    # --- the parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_sent:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            self._switching = True
        elif status < 200:
            self._headers.clear()
        else:
            self._head_sent = True
            self._send_head(status)

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._head_sent:
            self._done = True

    # --- passing on

    def _send_head(self, status: int) -> None:
        client = self._client
        assert client is not None
        lines = [status_line(status)]
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"content-length":
                self._length = int(value)
                self._unframed = False
            elif lower == b"transfer-encoding":
                self._unframed = False
            elif lower not in _DROPPED:
                lines.append(b"%b: %b\r\n" % (name, value))
        bodiless = status in (204, 304)
        if self._length >= 0:
            lines.append(b"Content-Length: %d\r\n" % self._length)
        elif not bodiless and not self._request.head.version_1_0:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        elif not bodiless:
            client.close_after()
        lines.append(b"X-Request-Id: %b\r\n" % self._request_id.encode())
        lines.append(CLOSE + b"\r\n" if client.closing else b"\r\n")
        client.write(b"".join(lines))
        if self._request.head.method == b"HEAD" or bodiless:
            self._length = 0
            self._done = True
            self._pieces.clear()

    def _pass_on(self) -> None:
        client = self._client
        if client is None:
            return
        data = b"".join(self._pieces)
        self._pieces.clear()
        chunked = self._length < 0 and not self._request.head.version_1_0
        if data:
            client.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if self._done:
            if chunked:
                client.write(b"0\r\n\r\n")
            self._finish()

    def _switch(self, rest: bytes) -> None:
        """Control agreed to the upgrade: pass its head on, then bytes both ways."""
        client = self._client
        assert client is not None
        self.opaque = True
        lines = [b"HTTP/1.1 101 Switching Protocols\r\n"]
        lines += [b"%b: %b\r\n" % pair for pair in self._headers]
        client.write(b"".join([*lines, b"\r\n", rest]))

    # --- the client's side

    def client_data(self, data: bytes) -> None:
        """Bytes after the upgrade."""
        if self._transport is not None:
            self._transport.write(data)

    def client_writable(self, writable: bool) -> None:
        if self._transport is not None:
            if writable:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def client_gone(self) -> None:
        self._client = None
        if self._task is not None and not self._task.done():
            self._task.cancel()
        self._abort()

    # --- ending

    def _fail(self, error: Unavailable | UpstreamFailed) -> None:
        client = self._client
        if client is None:
            return
        if self._head_sent:
            self._client = None
            client.reset()
        else:
            client.refuse(error)
            self._finish()

    def _finish(self) -> None:
        client, self._client = self._client, None
        self._abort()
        if client is not None:
            client.exchange_done()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
