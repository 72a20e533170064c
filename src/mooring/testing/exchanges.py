"""An exchange without sockets: fake client port, journal, transports; dials that a test decides by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from mooring.core.errors import MooringError
from mooring.core.snapshot import KeyEntry, Limits, ReplicaEntry, ServiceEntry
from mooring.core.usage import UsageRecord
from mooring.gateway.admission import Ticket
from mooring.gateway.dialects import openai
from mooring.gateway.dialects.route import Route
from mooring.gateway.exchange import Exchange
from mooring.gateway.http1.timers import TimerWheel
from mooring.gateway.parts import Parts
from mooring.gateway.quirks import llamacpp_steps
from mooring.gateway.routing import Replica, Service, Target
from mooring.gateway.snapshot import Table
from mooring.gateway.upstream import Pool, UpstreamConnection
from mooring.gateway.usage.journal import Journal
from mooring.gateway.usage.slots import SlotHead
from mooring.settings import Settings

NO_LIMITS = Limits()
KEY_ENTRY = KeyEntry("key-1", "default", "user-1", None, None, True, NO_LIMITS)


class FakeTransport:
    """The replica's end of a connection: keeps what was written, loses the connection when aborted."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: UpstreamConnection) -> None:
        self._loop = loop
        self._connection = connection
        self.written = b""
        self.closing = False
        self.paused = False

    def write(self, data: bytes) -> None:
        if self._connection.lost:
            raise RuntimeError("the handler is closed")  # as uvloop does
        if not self.closing:
            self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.break_off(None)

    def break_off(self, error: Exception | None) -> None:
        """Lose the connection in the loop's next turn."""
        if not self.closing:
            self.closing = True
            self._loop.call_soon(self._connection.connection_lost, error)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is ever buffered here."""


class FakePool(Pool):
    """A pool whose dials end when the test says so."""

    def __init__(self, entry: ReplicaEntry, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(entry, loop)
        self.loop = loop
        self.dials: list[asyncio.Future[UpstreamConnection]] = []
        self.connections: list[UpstreamConnection] = []

    async def dial(self, timeout_s: float) -> UpstreamConnection:
        waiting: asyncio.Future[UpstreamConnection] = self.loop.create_future()
        self.dials.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                waiting.result().abort()  # as the loop does with a connection that nobody waits for any more
            raise
        finally:
            self.dials.remove(waiting)

    @property
    def idle(self) -> list[UpstreamConnection]:
        """The connections that wait in the pool."""
        return list(self._idle)

    @property
    def open_dials(self) -> list[asyncio.Future[UpstreamConnection]]:
        return [dial for dial in self.dials if not dial.done()]

    def connected(self) -> UpstreamConnection:
        """Let the oldest dial succeed; return the connection."""
        connection = UpstreamConnection(self)
        connection.connection_made(cast("asyncio.BaseTransport", FakeTransport(self.loop, connection)))
        self.connections.append(connection)
        self.open_dials[0].set_result(connection)
        return connection

    def refused(self, error: Exception) -> None:
        """Let the oldest dial fail."""
        self.open_dials[0].set_exception(error)


def transport_of(connection: UpstreamConnection) -> FakeTransport:
    """Return the fake behind a connection."""
    return cast("FakeTransport", connection.transport)


@dataclass
class FakeJournal:
    """Slots and records in memory. `told` is the story that the client port writes too."""

    told: list[tuple[str, str]] = field(default_factory=list)
    open: dict[int, str] = field(default_factory=dict)
    records: list[UsageRecord] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    _next: int = 1

    def open_slot(self, head: SlotHead) -> int:
        slot = self._next
        self._next += 1
        self.open[slot] = head.request_id
        return slot

    def progress(self, slot: int, completion_tokens: int) -> None:
        if slot >= 0:
            assert slot in self.open, "progress of a request that has ended"
            self.counts[slot] = completion_tokens

    def finish(self, slot: int, record: UsageRecord) -> None:
        assert self.open.pop(slot) == record.request_id
        self.records.append(record)
        self.told.append((record.request_id, "record"))


class FakeClient:
    """The caller's end: tells what was written, in the journal's story. A write may find the caller slow."""

    def __init__(self, request_id: str, journal: FakeJournal) -> None:
        self.deadline = float("inf")
        self.exchange: Exchange | None = None
        self.slow = False
        self.done = 0
        self.status = 0
        self.refused: MooringError | None = None
        self.body = b""
        self._request_id = request_id
        self._journal = journal

    def _tell(self, what: str) -> None:
        self._journal.told.append((self._request_id, what))
        if self.slow and self.exchange is not None:
            self.exchange.client_writable(False)  # a transport pauses its writer while it is written to

    def answer(self, status: int, body: bytes, retry_after_s: float | None = None) -> None:
        self.status, self.body = status, body
        self._tell("last")

    def refuse(self, error: MooringError) -> None:
        self.status, self.refused = error.status, error
        self._tell("last")

    def start_stream(self, first: bytes, last: bool) -> None:
        self.status = 200
        self._tell("head")
        self.stream(first, last)

    def stream(self, piece: bytes, last: bool) -> None:
        self.body += piece
        self._tell("last" if last else "piece")

    def exchange_done(self) -> None:
        self.done += 1
        self._tell("done")


class Stage:
    """One service with replicas, and the exchanges on it. Call `turn` to let the loop run; `close` at the end."""

    def __init__(self, *slots: int, engine: str = "external") -> None:
        self.loop = asyncio.new_event_loop()
        self.problems: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.journal = FakeJournal()
        entries = [ReplicaEntry(f"rep-{n}", f"http://rep-{n}/v1", None, True, count) for n, count in enumerate(slots)]
        self.pools = [FakePool(entry, self.loop) for entry in entries]
        self.replicas = [Replica(entry, pool) for entry, pool in zip(entries, self.pools, strict=True)]
        self.entry = _service(engine, tuple(entries))
        self.service = Service(self.entry, self.replicas)
        table = Table(self.loop, "epoch", 1)
        table.services[self.entry.id] = self.service
        timers = TimerWheel(self.loop)
        self.parts = Parts(Settings(), self.loop, table, cast("Journal", self.journal), timers, "nowhere")
        self.exchanges: list[Exchange] = []
        self.clients: list[FakeClient] = []

    def start(self, operation: str = "chat", *, stream: bool = True, stepwise: bool = False) -> Exchange:
        """Begin one request."""
        exchange = self.prepare(operation, stream=stream, stepwise=stepwise)
        exchange.begin()
        return exchange

    def prepare(self, operation: str = "chat", *, stream: bool = True, stepwise: bool = False) -> Exchange:
        """Make one request that has not begun."""
        ticket = Ticket(KEY_ENTRY, Route(operation, openai), Target(None, [(self.service, 1)]), self.service, 5)
        ticket.stream = stream
        ticket.steps = llamacpp_steps.start if stepwise else None
        ticket.body = [b'{"model":"up","prompt":"x"}']
        request_id = f"req-{len(self.exchanges)}"
        client = FakeClient(request_id, self.journal)
        exchange = client.exchange = Exchange(self.parts, client, ticket, request_id)
        self.exchanges.append(exchange)
        self.clients.append(client)
        return exchange

    def change(self, *ready: bool) -> None:
        """Take a new row of the service as the feed does: which replicas are ready; without any, it is deleted."""
        services = self.parts.table.services
        services.pop(self.entry.id, None)
        if ready:
            for replica, one in zip(self.replicas, ready, strict=True):
                replica.entry = msgspec.structs.replace(replica.entry, ready=one, adapters=self.entry.adapters)
            self.service = services[self.entry.id] = Service(self.entry, list(self.replicas))
        self.parts.waiting.release_all()

    def story(self, exchange: Exchange) -> list[str]:
        """Return what happened to a request, in order: record, head, piece, last, done."""
        return [what for request_id, what in self.journal.told if request_id == exchange.request_id]

    def turn(self, times: int = 6) -> None:
        """Let the loop run some turns."""
        for _ in range(times):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def until(self, true: Callable[[], bool]) -> None:
        """Turn until something is true."""
        for _ in range(100):
            if true():
                return
            self.turn(1)
        raise AssertionError("it does not come true")

    def close(self) -> None:
        self.turn()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def _service(engine: str, replicas: tuple[ReplicaEntry, ...]) -> ServiceEntry:
    return ServiceEntry(
        "svc-1",
        "elsewhere",
        "default",
        engine == "external",
        engine,
        "up",
        "cpu",
        ("chat", "completion", "embedding"),
        "healthy",
        "",
        True,
        True,
        replicas,
        2048,
        NO_LIMITS,
    )
