"""The door of a worker that speaks HTTPS: whoever comes with plain HTTP is told so, in a sentence it can read.

Each connection's first byte is looked at without taking it: 0x16 opens every TLS handshake (RFC 8446 §5.1), and no
HTTP request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import cast

import msgspec

from mooring.core.errors import Invalid
from mooring.gateway.dialects import openai
from mooring.gateway.http1.heads import json_answer

_log = logging.getLogger("mooring.gateway.tls")
_HANDSHAKE = 0x16
_AT_ONCE = 128  # accepted in one turn of the loop
_REST_S = 0.5  # after no descriptor was left
_LINGER_S = 1.0  # how long the rest of a refused request is read, so that the refusal reaches its sender


class TlsDoor:
    """Accepts on `listener` from `open` to `close`. `make` makes the protocol of a connection."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        *,
        first_byte_s: float,
        max_waiting: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._context = context
        self._make = make
        self._first_byte_s = first_byte_s
        self._max_waiting = max_waiting
        self._waiting: set[asyncio.Task[None]] = set()
        self._closed = False

    def open(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept nobody any more. Who was let in stays, also in the middle of his handshake."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:  # no descriptor left
                _log.warning("can't accept: %s", error)
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_REST_S, self._again)
                return
            if len(self._waiting) >= self._max_waiting:
                connection.close()
                continue
            task = self._loop.create_task(self._let_in(connection))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    def _again(self) -> None:
        if not self._closed:
            self.open()

    async def _let_in(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        taken = False
        try:
            async with asyncio.timeout(self._first_byte_s):
                first = await self._first_byte(connection)
            if first is not None:
                taken = True  # the loop closes it from here on
                tls = first == _HANDSHAKE
                make = self._make if tls else PlainCaller
                limit_s = self._first_byte_s if tls else None
                await self._loop.connect_accepted_socket(
                    make, connection, ssl=self._context if tls else None, ssl_handshake_timeout=limit_s
                )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is one: another protocol version, a stranger
            _log.debug("a connection was given up: %s", error)
        finally:
            if not taken:
                connection.close()

    async def _first_byte(self, connection: socket.socket) -> int | None:
        """Return the first byte that the peer sends, still to be read; None when it has left."""
        while True:
            readable: asyncio.Future[None] = self._loop.create_future()
            self._loop.add_reader(connection.fileno(), _set, readable)
            try:
                await readable
            finally:
                self._loop.remove_reader(connection.fileno())
            try:
                peeked = connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            return peeked[0] if peeked else None


def _set(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


class PlainCaller(asyncio.Protocol):
    """Somebody who speaks plain HTTP to the HTTPS port: gets one answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._told = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if self._told or transport is None:
            return
        self._told = True
        error = Invalid(
            "This is plain HTTP, and this port speaks HTTPS.",
            next_step="Put https:// in front of the address.",
            code="https_required",
        )
        body = msgspec.json.encode(openai.error_object(error))
        transport.write(json_answer(error.status, body, b"x-should-retry: false\r\n", close=True))
        transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)
