"""Connections to replicas: one protocol object each, kept in a pool per replica.

An upstream connection serves one exchange at a time. It reads the answer's framing by httptools and tells its
`sink` three things: the head is here, body pieces are here, the answer is over or lost. It enters the pool only
open, reading, wholly parsed and without residue; anything else is closed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from mooring.core.snapshot import ReplicaEntry

_MAX_HEAD = 65536
_HIGH_WATER = 262144
_METADATA = frozenset({"100.100.100.200", "168.63.129.16", "fd00:ec2::254"})  # besides the link-local ones


class Sink(Protocol):
    """Who wants the answer."""

    def upstream_ready(self) -> None:
        """New facts on the connection: `head_done`, `pieces`, `complete`. Called at most once per read."""
        ...

    def upstream_lost(self, received: bool) -> None:
        """The connection broke before the answer was complete. `received`: at least one byte of it came."""
        ...

    def upstream_writable(self, writable: bool) -> None:
        """Back-pressure of the replica's socket."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection to a replica."""

    __slots__ = (
        "_discard",
        "_informational",
        "_messages",
        "_parser",
        "_pool",
        "_residue",
        "complete",
        "content_type",
        "encoded",
        "head_bytes",
        "head_done",
        "keep_alive",
        "lost",
        "pieces",
        "received",
        "retry_after",
        "reused",
        "sink",
        "status",
        "transport",
        "unframed",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self.sink: Sink | None = None
        self.lost = False
        self.reused = False
        self.pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.content_type = b""
        self.retry_after = b""
        self.encoded = False
        self.head_done = False
        self.head_bytes = 0
        self.complete = False
        self.keep_alive = False
        self.received = False
        self.unframed = True
        self._informational = False
        self._messages = 0
        self._residue = False

    # --- the exchange's side

    def send(self, sink: Sink, head: bytes, parts: list[bytes]) -> None:
        """Send one request: `head` ends after `Content-Length: `; `parts` are the body."""
        self.sink = sink
        self._reset()
        transport = self.transport
        assert transport is not None
        if len(parts) == 1:
            body = parts[0]
            if len(body) < 65536:
                transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
                return
        total = sum(map(len, parts))
        if total < 65536:
            transport.write(b"%b%d\r\n\r\n%b" % (head, total, b"".join(parts)))
        else:
            transport.writelines([b"%b%d\r\n\r\n" % (head, total), *parts])

    def release(self) -> None:
        """Give the connection back: to the pool when it is clean, else close it."""
        self.sink = None
        self.pieces.clear()
        if self.lost:
            return
        unsent = self.transport.get_write_buffer_size() if self.transport is not None else 1
        if self.complete and self.keep_alive and not self._residue and not unsent:
            self._pool.give_back(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once: the engine sees that its caller left."""
        self.sink = None
        if self.transport is not None and not self.lost:
            self.transport.abort()

    def pause(self) -> None:
        if self.transport is not None and not self.lost:
            self.transport.pause_reading()
            self.keep_alive = False  # a paused connection never enters the pool

    def resume(self) -> None:
        if self.transport is not None and not self.lost:
            self.transport.resume_reading()

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass of it
        self.transport = transport
        transport.set_write_buffer_limits(_HIGH_WATER)
        self._pool.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._pool.open -= 1
        sink = self.sink
        if sink is None:
            self._pool.forget(self)
            return
        if self.head_done and self.unframed and not self.complete and exc is None:
            self.complete = True  # a body without length ends with the connection
            self.keep_alive = False
            sink.upstream_ready()
        else:  # also when complete: then its sink failed, and must hear that nothing more comes
            self.sink = None
            sink.upstream_lost(self.received)

    def pause_writing(self) -> None:
        if self.sink is not None:
            self.sink.upstream_writable(False)

    def resume_writing(self) -> None:
        if self.sink is not None:
            self.sink.upstream_writable(True)

    def data_received(self, data: bytes) -> None:
        sink = self.sink
        if sink is None or self.complete:
            self.abort()  # nobody asked: whatever it is, it must not become the next caller's answer
            return
        self.received = True
        if not self.head_done:
            self.head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # nobody asked for another protocol
            self._broken()
            return
        if not self.head_done and self.head_bytes > _MAX_HEAD:
            self._broken()
            return
        if self.complete or (self.head_done and self.pieces):
            sink.upstream_ready()

    def _broken(self) -> None:
        """The answer can't be parsed: end the exchange as if the connection had been lost."""
        sink, self.sink = self.sink, None
        if self.transport is not None:
            self.transport.abort()
        if sink is not None:
            sink.upstream_lost(True)

    # --- the parser's callbacks: they only store facts

    def on_message_begin(self) -> None:
        self._messages += 1
        if self.complete:
            self._residue = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return
        length = len(name)
        if length == 12 and name.lower() == b"content-type":
            self.content_type = value
        elif length in (14, 17) and name.lower() in (b"content-length", b"transfer-encoding"):
            self.unframed = False
        elif length == 16 and name.lower() == b"content-encoding":
            self.encoded = value.lower() != b"identity"
        elif length == 11 and name.lower() == b"retry-after":
            self.retry_after = value

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._informational = True
            self.unframed, self.encoded, self.content_type, self.retry_after = True, False, b"", b""
            return
        self.status = status
        self.head_done = True
        self.keep_alive = self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        if not self._residue:
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            return
        self.complete = True


class Pool:
    """The idle connections of one replica, newest first, and how to make another."""

    __slots__ = ("_heads", "_idle", "_loop", "closed", "entry", "host_header", "open", "path_prefix", "root_prefix")

    def __init__(self, entry: ReplicaEntry, loop: asyncio.AbstractEventLoop) -> None:
        self.entry = entry
        self._loop = loop
        self._idle: list[UpstreamConnection] = []
        self._heads: dict[tuple[bytes, bool], bytes] = {}
        self.closed = False
        self.open = 0
        if entry.address.startswith("unix:"):
            self.host_header = b"localhost"
            self.path_prefix, self.root_prefix = b"/v1", b""
        else:
            parts = urlsplit(entry.address)
            self.host_header = parts.netloc.encode()
            base = parts.path.rstrip("/")
            self.path_prefix = base.encode()
            self.root_prefix = base.removesuffix("/v1").encode()

    def request_head(self, path: bytes, *, from_root: bool = False) -> bytes:
        """Return the head of a POST to `path` up to and including `Content-Length: `."""
        head = self._heads.get((path, from_root))
        if head is None:
            head = self._heads[path, from_root] = self._build_head(path, from_root)
        return head

    def _build_head(self, path: bytes, from_root: bool) -> bytes:
        key = self.entry.key
        return b"POST %b%b HTTP/1.1\r\nHost: %b\r\n%bContent-Type: application/json\r\nContent-Length: " % (
            self.root_prefix if from_root else self.path_prefix,
            path,
            self.host_header,
            b"Authorization: Bearer %b\r\n" % key.encode() if key else b"",
        )

    def take(self) -> UpstreamConnection | None:
        """Return an idle connection, or None: dial."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.lost and connection.transport is not None and not connection.transport.is_closing():
                connection.reused = True
                return connection
        return None

    async def dial(self, timeout_s: float) -> UpstreamConnection:
        """Open a new connection.

        Raises:
            OSError: refused, unreachable, no descriptor left, TLS failure.
            TimeoutError: not connected within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            address = self.entry.address
            if address.startswith("unix:"):
                _, connection = await self._loop.create_unix_connection(lambda: UpstreamConnection(self), address[5:])
                return connection
            parts = urlsplit(address)
            tls = parts.scheme == "https"
            _, connection = await self._loop.create_connection(
                lambda: UpstreamConnection(self),
                parts.hostname or "",
                parts.port or (443 if tls else 80),
                ssl=True if tls else None,
            )
            check_peer(connection)
            keep_alive_probes(connection.transport)
            return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        if self.closed:
            connection.abort()
        else:
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close the idle connections; busy ones close when they are given back."""
        self.closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()


def check_peer(connection: UpstreamConnection) -> None:
    """Refuse a link-local peer (a cloud's metadata service): a name may have moved there since it was registered.

    Raises:
        OSError: the connection was closed before a byte was sent.
    """
    assert connection.transport is not None
    peer = connection.transport.get_extra_info("peername")
    if not peer:
        return
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_link_local or str(address) in _METADATA:
        connection.abort()
        raise OSError(f"{peer[0]} is an address of the machine's metadata service")


def keep_alive_probes(transport: asyncio.Transport | None) -> None:
    """Let the kernel notice a vanished peer: TCP keepalive after 60 s and a bound on unacknowledged data."""
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 60),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", 90_000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
