"""One whole call to a replica, awaited: what takes several of them, and what is asked beside a caller's request.

With dialling the only coroutines of the data plane.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mooring.core.errors import UpstreamFailed, UpstreamTimeout
from mooring.gateway.admission import Ticket
from mooring.gateway.answers.relay import upstream_error
from mooring.gateway.routing import Replica
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


async def call(parts: Parts, ticket: Ticket, replica: Replica, path: bytes, from_root: bool, body: bytes) -> bytes:
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
        if upstream.lost:
            raise UpstreamFailed(f"The service {entry.name} could not be reached.")
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
