"""The worker's end of the feed: the table comes in, acknowledgements and the usage journal go out.

One connection to control's feed.sock. Silence of a second means it is dead: reconnect. The table goes on being used
meanwhile. A full snapshot is built beside the current table, a few hundred rows per message, and swapped in at its
commit; a delta is applied at its commit in one go, and is small.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mooring.core.snapshot import (
    FEED_LAYOUT,
    SILENCE_S,
    Ack,
    Beat,
    Begin,
    Commit,
    FrameReader,
    FromControl,
    Hello,
    JournalAck,
    JournalPush,
    Lesson,
    Row,
    Rows,
    decode_from_control,
    decode_service,
    encode_entry,
    pack_frame,
)
from mooring.gateway.snapshot import Table

if TYPE_CHECKING:
    from mooring.gateway.parts import Parts

_log = logging.getLogger("mooring.gateway.feed")
_RECONNECT_S = 0.1
_PUSH_S = 0.25  # how often new journal records are pushed
_PUSH_MORE_S = 0.02
_SAVE_S = 5.0  # how often a changed table is saved for a start without control
_PUSH_BYTES = 256 << 10
_SAVE_FRAME_ROWS = 500


class Feed:
    """Keeps the worker's table up to date and its journal drained. `run` ends only by cancellation."""

    def __init__(self, parts: Parts, path: str, saved: Path | None) -> None:
        self._parts = parts
        self._path = path
        self._saved = saved  # where to keep the snapshot; None: another worker does
        self._writer: asyncio.StreamWriter | None = None
        self._begin: Begin | None = None
        self._building: Table | None = None
        self._rows: list[Row] = []
        self._kept: dict[tuple[str, str], Row] = {}  # what `saved` holds, secrets left out
        self._keeping: dict[tuple[str, str], Row] = {}  # the same of a full set under way
        self._changed = asyncio.Event()
        self.synced = asyncio.Event()  # a first set has been applied since this worker started

    async def run(self) -> None:
        """Connect, follow, reconnect."""
        while True:
            try:
                await self._follow()
            except (OSError, TimeoutError, EOFError, ValueError, msgspec.DecodeError) as error:
                _log.debug("feed: %s", error)
            await asyncio.sleep(_RECONNECT_S)

    async def _follow(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        self._writer = writer
        self._begin = self._building = None
        try:
            table = self._parts.table
            self._parts.journal.rewind()
            self._send(Hello(FEED_LAYOUT, self._parts.journal.writer, os.getpid(), table.epoch, table.version))
            frames = FrameReader()
            while True:
                if self._parts.lessons.fresh:
                    self._tell_lessons()
                async with asyncio.timeout(SILENCE_S):
                    data = await reader.read(1 << 18)
                if not data:
                    raise EOFError("control closed the feed")
                for body in frames.feed(data):
                    self._take(decode_from_control(body))
        finally:
            self._writer = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _send(self, message: Hello | Ack | Lesson) -> None:
        if self._writer is not None:
            self._writer.write(pack_frame(message))

    def _take(self, message: FromControl) -> None:
        if isinstance(message, Beat):
            self._parts.table.updated_at = self._parts.timers.now
        elif isinstance(message, Begin):
            self._start_set(message)
        elif isinstance(message, Rows):
            self._take_rows(message)
        elif isinstance(message, Commit):
            self._commit(message)
        elif isinstance(message, JournalAck):  # pyright: ignore[reportUnnecessaryIsInstance]
            self._parts.journal.acknowledged(message.writer, message.segment, message.offset)

    def _start_set(self, begin: Begin) -> None:
        table = self._parts.table
        if not begin.full and (begin.epoch, begin.base) != (table.epoch, table.version):
            raise ValueError(f"delta on {begin.base}, have {table.version}")  # reconnect: a fresh Hello heals it
        self._begin = begin
        self._rows = []
        if begin.full:
            self._building = Table(self._parts.loop, begin.epoch, -1, begin.pepper)
            self._keeping = {}

    def _take_rows(self, message: Rows) -> None:
        if self._building is not None:
            self._building.apply(message.rows, self._parts.table)
            self._keep(self._keeping, message.rows)
        else:
            self._rows += message.rows

    def _commit(self, message: Commit) -> None:
        begin, self._begin = self._begin, None
        if begin is None or begin.version != message.version:
            raise ValueError("commit without its begin")
        parts = self._parts
        if self._building is not None:
            old, parts.table = parts.table, self._building
            self._building = None
            self._kept, self._keeping = self._keeping, {}
            parts.table.retire(old)
        else:
            parts.table.apply(self._rows)
            self._keep(self._kept, self._rows)
            self._rows = []
        parts.table.version = message.version
        parts.table.updated_at = parts.timers.now
        self._changed.set()
        self.synced.set()
        parts.waiting.release_all()
        self._send(Ack(message.version))
        self._tell_lessons()

    def _tell_lessons(self) -> None:
        """Tell control what the services' answers needed, as long as its table does not say so itself."""
        for lesson in self._parts.lessons.untold(self._parts.table.services):
            self._send(lesson)

    # --- the journal

    async def push_journal(self) -> None:
        """Push new journal records again and again; runs beside `run`. While there are more, it hardly pauses."""
        pushes: list[JournalPush] = []
        while True:
            await asyncio.sleep(_PUSH_MORE_S if pushes else _PUSH_S)
            writer = self._writer
            if writer is None or writer.is_closing():
                continue
            try:
                pushes = self._parts.journal.unsent(_PUSH_BYTES)
                for push in pushes:
                    writer.write(pack_frame(push))
                async with asyncio.timeout(SILENCE_S * 5):
                    await writer.drain()
            except (OSError, TimeoutError) as error:
                _log.debug("feed: %s", error)
                writer.close()

    # --- the saved snapshot

    def _keep(self, kept: dict[tuple[str, str], Row], rows: tuple[Row, ...] | list[Row]) -> None:
        if self._saved is None:
            return
        for row in rows:
            if row.data is None:
                kept.pop((row.table, row.id), None)
            else:
                kept[row.table, row.id] = _without_secrets(row)

    async def save_snapshots(self) -> None:
        """Save a changed table every few seconds, so that a worker can start while control is down."""
        while self._saved is not None:
            await self._changed.wait()
            self._changed.clear()
            table = self._parts.table
            rows = list(self._kept.values())
            head = Begin(table.epoch, -1, table.version, True, table.pepper)
            await asyncio.to_thread(_write_snapshot, self._saved, head, rows)
            await asyncio.sleep(_SAVE_S)


def _without_secrets(row: Row) -> Row:
    """Leave upstream credentials out; a service that needs one is not ready until control is back."""
    if row.table != "service" or row.data is None:
        return row
    entry = decode_service(row.data)
    if not entry.external or not any(replica.key for replica in entry.replicas):
        return row
    replicas = tuple(
        msgspec.structs.replace(replica, key=None, ready=replica.ready and not replica.key)
        for replica in entry.replicas
    )
    return Row(row.table, row.id, encode_entry(msgspec.structs.replace(entry, replicas=replicas)), row.digests)


def _write_snapshot(path: Path, head: Begin, rows: list[Row]) -> None:
    parts = [pack_frame(head)]
    for start in range(0, len(rows), _SAVE_FRAME_ROWS):
        parts.append(pack_frame(Rows(tuple(rows[start : start + _SAVE_FRAME_ROWS]))))
    parts.append(pack_frame(Commit(head.version)))
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(parts))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        _log.warning("the snapshot could not be saved to %s: %s", path, error)
        with suppress(OSError):
            temporary.unlink()


def load_snapshot(path: Path, loop: asyncio.AbstractEventLoop) -> Table | None:
    """Return the saved table, None when there is none or it can't be read. Control sends it a full snapshot."""
    try:
        messages = [decode_from_control(body) for body in FrameReader().feed(path.read_bytes())]
        if not messages or not isinstance(messages[0], Begin) or not isinstance(messages[-1], Commit):
            return None
        table = Table(loop, "", messages[0].version, messages[0].pepper)  # no epoch: it asks for everything
        for message in messages:
            if isinstance(message, Rows):
                table.apply(message.rows)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        if not isinstance(error, FileNotFoundError):
            _log.warning("the saved snapshot %s can't be read: %s", path, error)
        return None
    return table
