"""A scripted control's end of the feed: a test says which frames a gateway worker gets, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from mooring.core.snapshot import (
    BEAT_S,
    Ack,
    Beat,
    Begin,
    Commit,
    FrameReader,
    FromControl,
    FromWorker,
    Hello,
    JournalPush,
    Lesson,
    Row,
    Rows,
    decode_from_worker,
    pack_frame,
)
from mooring.testing.gateway import PEPPER
from mooring.testing.journals import FakeUsageStore


class FakeFeed:
    """Listens on `path`. `hellos`, `acks`, `pushes` and `lessons` keep what workers said, over all connections.

    Attributes:
        beating: send a beat each 0.3 s, as control does.
        store: takes pushes in and acknowledges them while `ingesting`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hellos: list[Hello] = []
        self.acks: list[int] = []
        self.pushes: list[JournalPush] = []
        self.lessons: list[Lesson] = []
        self.beating = True
        self.ingesting = True
        self.store = FakeUsageStore()
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._beats: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        self._beats = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Go away as a killed control does."""
        if self._server is None or self._beats is None:
            return
        self._server.close()
        self._server = None
        self._beats.cancel()
        await asyncio.gather(self._beats, return_exceptions=True)
        self.hang_up()
        await until(lambda: not self._writers)

    def hang_up(self) -> None:
        """Break every connection off; workers may dial again."""
        for writer in self._writers:
            writer.transport.abort()
        self._writer = None

    def send(self, *messages: FromControl) -> None:
        """Send frames to the worker that connected last."""
        assert self._writer is not None, "no worker is connected"
        self._writer.write(b"".join(pack_frame(message) for message in messages))

    def full(self, version: int, *messages: Iterable[Row], epoch: str = "epoch", pepper: bytes = PEPPER) -> None:
        """Send a full snapshot, one Rows message per argument."""
        rows = [Rows(tuple(part)) for part in messages]
        self.send(Begin(epoch, -1, version, True, pepper), *rows, Commit(version))

    def delta(self, base: int, version: int, *rows: Row, epoch: str = "epoch") -> None:
        """Send one set of changes on top of `base`."""
        self.send(Begin(epoch, base, version, False, PEPPER), Rows(rows), Commit(version))

    async def dialled(self, times: int = 1) -> Hello:
        """Wait until workers said hello so many times in all, return the last one."""
        await until(lambda: len(self.hellos) >= times)
        return self.hellos[-1]

    async def acknowledged(self, version: int) -> None:
        """Wait until `version` was the last one acknowledged."""
        await until(lambda: bool(self.acks) and self.acks[-1] == version)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        frames = FrameReader()
        try:
            while data := await reader.read(1 << 18):
                for body in frames.feed(data):
                    self._take(decode_from_worker(body), writer)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            if self._writer is writer:
                self._writer = None
            writer.close()

    def _take(self, message: FromWorker, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, Hello):
            self._writer = writer
            self.hellos.append(message)
        elif isinstance(message, Ack):
            self.acks.append(message.version)
        elif isinstance(message, Lesson):
            self.lessons.append(message)
        else:
            self.pushes.append(message)
            if self.ingesting:
                writer.write(pack_frame(self.store.take(message)))

    async def _beat(self) -> None:
        while True:
            if self.beating and self._writer is not None:
                with suppress(ConnectionError):
                    self.send(Beat(0))
            await asyncio.sleep(BEAT_S)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait, bounded, until something is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
