"""The feed: brings every gateway worker on this machine the table it serves from, and takes its journal.

It has its own thread, event loop and database connections, so that neither a slow management call nor a big apply
delays it. Every worker's connection has its own sender: a worker that does not read is cut off, the others don't
notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path

import msgspec

from mooring.core.errors import MooringError
from mooring.core.snapshot import (
    BEAT_S,
    READ_LAYOUTS,
    Ack,
    Beat,
    FrameReader,
    Hello,
    JournalPush,
    Lesson,
    decode_from_worker,
    pack_frame,
)
from mooring.reconcile.lessons import note_lesson
from mooring.reconcile.loop import Loop
from mooring.reconcile.routes import Routes
from mooring.reconcile.usage import Ingestion, Upkeep
from mooring.store.database import Database
from mooring.store.snapshot_rows import Unseal

log = logging.getLogger(__name__)

POLL_S = 0.2  # other control processes commit without waking us
SQLITE_POLL_S = 1.0  # there, only an operator's command line does
UPKEEP_S = 600.0
STOP_S = 5.0  # for queries under way to end
SLOW_S = 10.0  # a worker that takes nothing for so long is cut off
BUFFER_BYTES = 256 * 1024  # unsent bytes at which a sender waits for its worker
MOST_UNSENT_BYTES = 4 << 20  # with that much unsent, even beats are too much: it is cut off
MOST_JOURNAL_BYTES = 64 << 20  # pushed and not yet committed, of all workers together
_PEER = struct.Struct("3i")  # pid, uid, gid


class Worker:
    """One connected gateway worker, as the feed sees it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.name = ""  # empty until it said hello
        self.epoch = ""
        self.sent = -1
        self.acknowledged = -1
        self.news = asyncio.Event()
        self.gone = False
        self.writer = writer

    def send(self, frame: bytes) -> None:
        """Write a frame; cut the worker off when it has left too many unread."""
        transport = self.writer.transport
        if transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            log.warning("gateway worker %s does not read: cut off", self.name)
            transport.abort()
            return
        self.writer.write(frame)

    def cut_off(self) -> None:
        """Close its connection; its sender ends by itself, outside of any query."""
        self.gone = True
        self.news.set()
        self.writer.transport.abort()


class Feed:
    """The feed server of this control process. `start` and `stop` block; the rest is safe from any thread."""

    def __init__(
        self, path: Path, database_url: str, *, pepper: bytes, unseal: Unseal, usage_retention_days: int = 90
    ) -> None:
        self._path = path
        self._database_url = database_url
        self._pepper = pepper
        self._unseal = unseal
        self._retention_days = usage_retention_days
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: _Serving | None = None

    def start(self) -> None:
        """Start the thread; return when the socket listens.

        Raises:
            OSError: the socket can't be made.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Close the socket and all connections, and end the thread."""
        serving = self._serving
        if serving is not None:
            self._call(serving.stopping.set)
        self._thread.join(timeout=3 * STOP_S)

    def wake(self) -> None:
        """Say that something was committed: workers hear of it now and not at the next poll."""
        serving = self._serving
        if serving is not None:
            self._call(serving.publisher.wake)

    async def wait_acknowledged(self, version: int, timeout_s: float) -> list[str]:
        """Wait until every connected worker has applied `version`; return the names of those that have not in time."""
        serving, loop = self._serving, self._loop
        if serving is None or loop is None or not self._thread.is_alive():
            return []
        waiting = asyncio.run_coroutine_threadsafe(serving.wait_acknowledged(version, timeout_s), loop)
        return await asyncio.wrap_future(waiting)

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended meanwhile
                self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except OSError as error:
            log.error("the feed ended: %s", error)
            self._failure = error
        finally:
            self._serving = None
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        db = Database(self._database_url)
        try:
            routes = Routes(db, pepper=self._pepper, unseal=self._unseal)
            poll_s = SQLITE_POLL_S if self._database_url.startswith("sqlite") else POLL_S
            serving = _Serving(db, routes, self._retention_days, poll_s)
            with _bound(self._path) as listener:
                async with serving.listening(listener):
                    self._serving = serving
                    self._ready.set()
                    await serving.stopping.wait()
                    self._serving = None
        finally:
            await db.close()


class _Serving:
    """What lives in the feed's own loop."""

    def __init__(self, db: Database, routes: Routes, retention_days: int, poll_s: float) -> None:
        self.stopping = asyncio.Event()
        self._db = db
        self.publisher = Loop("feed", self._publish, beat_s=poll_s)
        self._routes = routes
        self._epoch, self._version = "", -1
        self._workers: set[Worker] = set()  # those that said hello
        self._connections: set[Worker] = set()
        self._acknowledged = asyncio.Condition()
        self._journal = Loop("usage", lambda: self._ingestion.step(), beat_s=60.0)
        self._ingestion = Ingestion(db, self._journal.wake)
        self._upkeep = Loop("upkeep", Upkeep(db, retention_days).step, beat_s=UPKEEP_S)

    @contextlib.asynccontextmanager
    async def listening(self, listener: socket.socket) -> AsyncGenerator[None]:
        """Serve on `listener` inside the block."""
        server = await asyncio.start_unix_server(self._accept, sock=listener)
        loops = [self.publisher, self._journal, self._upkeep]
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        beat = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            server.close()
            beat.cancel()
            for worker in [*self._connections]:
                worker.cut_off()
            for loop in loops:
                loop.stop()
            await asyncio.wait([beat, *tasks], timeout=STOP_S)
            await self._until_closed()

    async def _until_closed(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S), self._acknowledged:
                await self._acknowledged.wait_for(lambda: not self._connections)

    async def wait_acknowledged(self, version: int, timeout_s: float) -> list[str]:
        """See `Feed.wait_acknowledged`."""
        self.publisher.wake()

        def laggards() -> list[str]:
            return sorted(w.name for w in self._workers if w.name and w.acknowledged < version)

        try:
            async with asyncio.timeout(timeout_s), self._acknowledged:
                await self._acknowledged.wait_for(lambda: not laggards())
        except TimeoutError:
            return laggards()
        return []

    async def _publish(self) -> None:
        self._epoch, self._version = await self._routes.current()
        for worker in self._workers:
            if (worker.epoch, worker.sent) != (self._epoch, self._version):
                worker.news.set()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            if self._version < 0:
                continue  # the store has not been read yet
            beat = pack_frame(Beat(self._version))
            for worker in self._workers:
                if worker.name:
                    worker.send(beat)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker = Worker(writer)
        writer.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self._connections.add(worker)
        sender = asyncio.create_task(self._send(worker))
        try:
            _check_peer(writer)
            await self._receive(worker, reader)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("feed connection of %s closed: %s", worker.name or "a stranger", error)
        finally:
            self._workers.discard(worker)
            worker.cut_off()
            await asyncio.gather(sender, return_exceptions=True)
            self._connections.discard(worker)
            async with self._acknowledged:
                self._acknowledged.notify_all()

    async def _receive(self, worker: Worker, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        while data := await reader.read(256 * 1024):
            for body in frames.feed(data):
                await self._take(worker, decode_from_worker(body))

    async def _take(self, worker: Worker, message: Hello | Ack | JournalPush | Lesson) -> None:
        match message:
            case Hello():
                self._greet(worker, message)
            case Ack(version):
                worker.acknowledged = max(worker.acknowledged, version)
                async with self._acknowledged:
                    self._acknowledged.notify_all()
            case Lesson():
                await self._note(message)
            case JournalPush():
                if self._ingestion.waiting_bytes > MOST_JOURNAL_BYTES:
                    raise ValueError("it pushes more of its journal than can be committed")
                self._ingestion.put(message, lambda answer: worker.send(pack_frame(answer)))

    async def _note(self, lesson: Lesson) -> None:
        """Remember for everybody what a worker found out. When that fails, the worker tells it again."""
        try:
            if await note_lesson(self._db, lesson):
                self.publisher.wake()
        except MooringError as error:
            log.warning("what %s needs could not be noted: %s", lesson.service, error)

    def _greet(self, worker: Worker, hello: Hello) -> None:
        if hello.layout not in READ_LAYOUTS:
            raise ValueError(f"it speaks feed layout {hello.layout}, not {READ_LAYOUTS}")
        worker.name = hello.worker
        worker.epoch, worker.sent = hello.epoch, hello.version
        worker.acknowledged = hello.version if hello.epoch == self._epoch else -1
        self._workers.add(worker)
        log.info("gateway worker %s (pid %d) connected at version %d", hello.worker, hello.pid, hello.version)
        worker.news.set()

    async def _send(self, worker: Worker) -> None:
        """Send what is new whenever there is news. When that fails, the worker dials again and says where it stands."""
        try:
            while not worker.gone:
                await worker.news.wait()
                worker.news.clear()
                await self._bring_up_to_date(worker)
        except (OSError, MooringError) as error:
            log.warning("feed of gateway worker %s broke off: %s", worker.name, error or "it does not read")
        finally:
            worker.cut_off()

    async def _bring_up_to_date(self, worker: Worker) -> None:
        if worker.gone:
            return
        async with self._routes.update(worker.epoch, worker.sent) as update:
            async for frame in update.frames:
                if worker.gone:
                    return
                worker.writer.write(frame)
                async with asyncio.timeout(SLOW_S):
                    await worker.writer.drain()
        worker.epoch, worker.sent = update.epoch, update.version


@contextlib.contextmanager
def _bound(path: Path) -> Generator[socket.socket]:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def _check_peer(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    _, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid != os.getuid():
        raise PermissionError(f"user {uid} may not read the feed")
