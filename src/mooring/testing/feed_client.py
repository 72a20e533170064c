"""A plain gateway's end of the feed, for tests: keeps the rows it was sent and every message."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from mooring.core.snapshot import (
    FEED_LAYOUT,
    Ack,
    Begin,
    Commit,
    FrameReader,
    FromControl,
    FromWorker,
    Hello,
    JournalAck,
    JournalPush,
    Row,
    Rows,
    decode_from_control,
    pack_frame,
)
from mooring.core.usage import UsageRecord, encode_record


class FeedClient:
    """Connect with `await FeedClient.dial(path, "w0")`; then `await client.until(lambda: client.version == 3)`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, acknowledges: bool) -> None:
        self.messages: list[FromControl] = []
        self.rows: dict[tuple[str, str], Row] = {}
        self.epoch = ""
        self.version = -1
        self.acknowledges = acknowledges
        self.closed = False
        self._reader = reader
        self._writer = writer
        self._begin: Begin | None = None
        self._building: dict[tuple[str, str], Row] = {}
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._follow())

    @classmethod
    async def dial(
        cls, path: Path, worker: str, *, epoch: str = "", version: int = -1, acknowledges: bool = True
    ) -> FeedClient:
        """Connect and say hello as `worker`, standing at `(epoch, version)`."""
        reader, writer = await asyncio.open_unix_connection(str(path))
        client = cls(reader, writer, acknowledges)
        client.epoch, client.version = epoch, version
        client.send(Hello(FEED_LAYOUT, worker, os.getpid(), epoch, version))
        return client

    def send(self, message: FromWorker) -> None:
        """Send one message."""
        self._writer.write(pack_frame(message))

    def push(self, writer: str, records: list[UsageRecord], *, segment: int = 1, start: int = 0) -> int:
        """Push records as one run and return the offset behind them."""
        data = b"".join(len(body).to_bytes(4, "big") + body for body in map(encode_record, records))
        self.send(JournalPush(writer, segment, start + len(data), start, data))
        return start + len(data)

    async def until(self, true: Callable[[], object], timeout_s: float = 10) -> None:
        """Wait until `true()` holds; looked at after each message.

        Raises:
            TimeoutError: it does not come true in time.
        """
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: bool(true()))

    def seen(self, kind: type[FromControl]) -> list[FromControl]:
        """Return the messages of one kind, in order."""
        return [message for message in self.messages if isinstance(message, kind)]

    @property
    def journal_acks(self) -> list[JournalAck]:
        """The journal positions acknowledged so far."""
        return [message for message in self.messages if isinstance(message, JournalAck)]

    async def close(self) -> None:
        """Hang up."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()

    async def _follow(self) -> None:
        frames = FrameReader()
        try:
            while data := await self._reader.read(1 << 18):
                for body in frames.feed(data):
                    self._take(decode_from_control(body))
                async with self._news:
                    self._news.notify_all()
        except ConnectionError:
            pass
        finally:
            self.closed = True
        async with self._news:
            self._news.notify_all()

    def _take(self, message: FromControl) -> None:
        self.messages.append(message)
        if isinstance(message, Begin):
            self._begin = message
            self._building = {} if message.full else dict(self.rows)
        elif isinstance(message, Rows):
            for row in message.rows:
                self._building[row.table, row.id] = row
                if row.data is None:
                    del self._building[row.table, row.id]
        elif isinstance(message, Commit):
            assert self._begin is not None, "a commit without a begin"
            assert self._begin.full or self._begin.base == self.version, "a delta on something else"
            self.rows, self.epoch, self.version = self._building, self._begin.epoch, message.version
            if self.acknowledges:
                self.send(Ack(message.version))
