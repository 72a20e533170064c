"""The usage journal of one gateway worker: no request that a client saw is lost or counted twice, whoever dies.

A request opens a slot when it is admitted, raises the slot's counter before each write to the client, and writes its
record before the last bytes leave. The files lie in `root/<writer>/` (slots.py, segments.py) and are pushed to control
over the feed; a segment is removed when the store holds all of it. A dead worker's folder is taken over by a sibling
or the next start (recovery.py).

Everything but the `_blocking` methods and `adopt_dead` belongs to the event loop's thread; those three run in
threads, one at a time, and hand over what they made through deques. Room for a request's record is reserved
when its slot is opened: on a full disk new requests are refused and running ones finish.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import secrets
import threading
import time
from collections import deque
from pathlib import Path
from zlib import crc32

from mooring.core.errors import StorageFull
from mooring.core.snapshot import JournalPush
from mooring.core.usage import UsageRecord, encode_record
from mooring.gateway.usage.recovery import adopt_writers, make_folder, sync_folder
from mooring.gateway.usage.segments import (
    COMMIT,
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    READ_BYTES,
    RECORD_ROOM,
    Backlog,
    LiveSegment,
    StoredSegment,
)
from mooring.gateway.usage.slots import SlotHead, SlotTable

MIN_SEGMENT_BYTES = 8192
IN_FLIGHT_BYTES = 1 << 20  # pushed and not acknowledged: a stalled control isn't flooded
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_pack_frame_into = FRAME.pack_into
_log = logging.getLogger("mooring.gateway.usage.journal")


class Journal:
    """In-flight slots and record segments of this worker, and the segments taken over from dead ones."""

    def __init__(self, root: Path, *, segment_bytes: int, slots: int, writer: str | None = None) -> None:
        """Make the writer's folder with `slots` slots and two segments of `segment_bytes`.

        A full disk is no error: `full` is set and `prepare_blocking` tries again.

        Raises:
            OSError: the folder can't be used.
            ValueError: `segment_bytes` is below 8192 or not a multiple of 8.
        """
        if segment_bytes < MIN_SEGMENT_BYTES or segment_bytes % 8:
            raise ValueError(f"segment_bytes is {segment_bytes}: a multiple of 8 from {MIN_SEGMENT_BYTES} on")
        self.writer = writer or f"{os.getpid()}-{secrets.token_hex(6)}"
        self._root = root
        self._segment_bytes = segment_bytes
        # a segment's tail may be too short for the next record, so that much of each isn't counted on
        self._capacity = segment_bytes - HEADER_BYTES - RECORD_ROOM
        self._slot_count = slots
        self._slots: SlotTable | None = None
        self._words = memoryview(bytearray(16)).cast("q")
        self._free: list[int] = []
        self._own = Backlog(self.writer, root / self.writer, -1)
        self._current: LiveSegment | None = None
        self._ready: deque[LiveSegment] = deque()
        self._room = 0  # bytes sure to be had in current and ready segments, less what open slots have reserved
        self._refused = False  # the disk had no room when last asked
        self._numbers = itertools.count(1)
        self._prepared: deque[LiveSegment] = deque()  # made by the thread, not yet counted by the loop
        self._retired: deque[LiveSegment] = deque()  # sealed; the thread syncs and closes them
        self._folder_changed = False
        self._synced: tuple[int, int] | None = None
        self._thread = threading.Lock()  # held by the blocking methods and by `close`, never for a request
        self._closed = False
        self._adopted: list[Backlog] = []
        self._arrived: deque[Backlog] = deque()  # adopted by the thread, not yet seen by the loop
        self._taken: set[str] = {self.writer}
        self._failed: set[str] = set()  # writers that can't be taken over; told once
        try:
            self._prepare()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._note_refused(error)
        self._count_prepared()

    # --- one request

    @property
    def full(self) -> bool:
        """Whether the disk has no room for the record of one more request."""
        return self._refused and not self._prepared and self._room < RECORD_ROOM

    def open_slot(self, head: SlotHead) -> int:
        """Take a slot for an admitted request, and reserve the room of its record.

        Raises:
            StorageFull: the disk is full.
            Unavailable: every slot is taken.
            Invalid: the head's strings are too long for a slot.
        """
        slots = self._slots
        if slots is None or self._room < RECORD_ROOM:
            slots = self._make_room()
        slot = slots.open(head)
        self._room -= RECORD_ROOM
        return slot

    def progress(self, slot: int, completion_tokens: int) -> None:
        """Note how many tokens the client will have got; call it before each write to the client."""
        self._words[slot] = completion_tokens

    def finish(self, slot: int, record: UsageRecord) -> None:
        """Write the request's record and give back its slot; the last bytes leave after this.

        Raises:
            ValueError: the slot is not open.
        """
        words = self._words
        if not words[slot - 1]:
            raise ValueError(f"journal slot {slot} is not open")
        payload = encode_record(record)
        length = len(payload)
        size = (FRAME_BYTES + length + 7) & ~7
        segment = self._current
        if segment is None or segment.position + size > segment.size or size > RECORD_ROOM:
            segment = self._rotate(size)
            if segment is None:
                return
        start = segment.position
        body = start + FRAME_BYTES
        area = segment.area
        _pack_frame_into(area, start + 4, length, crc32(payload))
        area[body : body + length] = payload
        segment.commits[start >> 2] = COMMIT
        words[slot - 1] = 0
        segment.position = start + size
        self._room += RECORD_ROOM - size
        self._free.append(slot)

    def _make_room(self) -> SlotTable:
        """Count what the thread prepared; when that isn't enough, make a segment here and now."""
        self._count_prepared()
        if self._slots is not None and self._room < RECORD_ROOM and not self._refused:
            self._grow()
        if self._slots is None or self._room < RECORD_ROOM:
            raise StorageFull(retry_after_s=1.0)
        return self._slots

    def _rotate(self, size: int) -> LiveSegment | None:
        """Seal the current segment and go on in the next; None when the record can't be written."""
        self._count_prepared()
        if not self._ready:
            self._grow()
        if size > RECORD_ROOM or not self._ready:
            # its slot stays taken and becomes a record when this worker has ended
            _log.error("journal: no room for a record of %d bytes; its request will count as aborted", size)
            return None
        old = self._current
        if old is not None:
            self._room -= self._capacity - (old.position - HEADER_BYTES)
            self._show_end()
            self._own.segments[-1].sealed = True
            self._retired.append(old)
        new = self._ready.popleft()
        self._own.segments.append(StoredSegment(new.path, new.number, new.position, sealed=False))
        self._current = new
        return new

    def _grow(self) -> None:
        try:
            self._prepared.append(self._new_segment())
        except OSError as error:
            self._note_refused(error)
        self._count_prepared()

    def _count_prepared(self) -> None:
        while self._prepared:
            self._ready.append(self._prepared.popleft())
            self._room += self._capacity

    def _note_refused(self, error: OSError) -> None:
        if not self._refused:
            _log.error("journal: no room for new requests: %s", error)
        self._refused = True

    # --- each second, in a thread

    def prepare_blocking(self) -> None:
        """Reserve the next segments on the disk, so that the loop never has to. Failures are logged and retried."""
        with self._thread:
            if self._closed:
                return
            try:
                self._prepare()
            except OSError as error:
                self._note_refused(error)
                return
        if self._refused:
            _log.warning("journal: there is room again")
            self._refused = False

    def _prepare(self) -> None:
        folder = self._own.folder
        if self._own.lock < 0:
            self._own.lock = make_folder(folder)
        if self._slots is None:
            slots = SlotTable(folder / "slots", self._slot_count)
            self._words, self._free, self._slots = slots.words, slots.free, slots
        for _ in range(self._wanted()):
            self._prepared.append(self._new_segment())

    def _wanted(self) -> int:
        """How many segments to make: one in reserve, and room for a whole segment beyond what is reserved."""
        prepared = len(self._prepared)
        spare = (1 if self._current is not None else 2) - len(self._ready) - prepared
        short = self._capacity - self._room - prepared * self._capacity
        return max(0, spare, -(-short // self._capacity))

    def _new_segment(self) -> LiveSegment:
        segment = LiveSegment(self._own.folder, next(self._numbers), self._segment_bytes)
        self._folder_changed = True
        return segment

    def sync_blocking(self) -> None:
        """Put slots and records on the disk, so that a power loss loses a second. Failures are logged."""
        with self._thread:
            if not self._closed:
                self._sync()

    def _sync(self) -> None:
        slots = self._slots
        if slots is None:
            return
        try:
            self._sync_files(slots)
        except OSError as error:
            _log.error("journal: the disk did not take the journal: %s", error)

    def _sync_files(self, slots: SlotTable) -> None:
        if self._folder_changed:
            self._folder_changed = False
            sync_folder(self._own.folder)
        while self._retired:
            segment = self._retired.popleft()
            try:
                os.fdatasync(segment.descriptor)
            finally:
                segment.close()
        current = self._current
        place = (current.number, current.position) if current is not None else None
        if slots.open_count or place != self._synced:
            slots.show_alive(time.time())
            if current is not None:
                os.fdatasync(current.descriptor)
            os.fdatasync(slots.descriptor)
            self._synced = place

    def adopt_dead(self) -> int:
        """Take over the folders of dead writers; return how many. Their records come with `unsent`.

        Writers that can't be taken over now are logged and tried again by the next call.
        """
        with self._thread:
            if self._closed:
                return 0
            try:
                found, failed = adopt_writers(self._root, self._taken)
            except OSError as error:
                _log.error("journal: %s can't be searched: %s", self._root, error)
                return 0
            for writer in failed.keys() - self._failed:
                _log.error("journal: %s can't be taken over now: %s", self._root / writer, failed[writer])
            self._failed.update(failed)
            self._taken.update(backlog.writer for backlog in found)
            self._arrived.extend(found)
            return len(found)

    # --- the way into the store

    @property
    def unacknowledged(self) -> bool:
        """Whether there are records the store hasn't confirmed."""
        return any(backlog.unacknowledged for backlog in self._backlogs())

    def unsent(self, max_bytes: int = 256 << 10) -> list[JournalPush]:
        """Return committed records not yet pushed, adopted ones first, each writer's in order, about `max_bytes`.

        At most IN_FLIGHT_BYTES are under way: behind them the list is empty until some are acknowledged.
        """
        backlogs = self._backlogs()
        budget = min(max_bytes, IN_FLIGHT_BYTES - sum(backlog.flying for backlog in backlogs))
        pushes: list[JournalPush] = []
        for backlog in backlogs:
            for segment in backlog.segments:
                if budget <= 0:
                    break
                push = segment.next_push(backlog.writer, max(budget, READ_BYTES))
                if push is not None:
                    pushes.append(push)
                    budget -= push.offset - push.start
        self._drop_finished()
        return pushes

    def acknowledged(self, writer: str, segment: int, offset: int) -> None:
        """Note that the store holds everything of `segment` before `offset`; remove what it holds wholly."""
        for backlog in self._backlogs():
            if backlog.writer == writer:
                backlog.acknowledged(segment, offset)
        self._drop_finished()

    def rewind(self) -> None:
        """The feed was connected anew: push again everything that is not acknowledged."""
        for backlog in self._backlogs():
            backlog.rewind()

    def _backlogs(self) -> list[Backlog]:
        while self._arrived:
            self._adopted.append(self._arrived.popleft())
        self._show_end()
        return [*self._adopted, self._own]

    def _show_end(self) -> None:
        """Show the reading side of the current segment how far it goes."""
        current = self._current
        if current is not None:
            self._own.segments[-1].end = current.position

    def _drop_finished(self) -> None:
        self._own.drop_finished()
        for backlog in self._adopted:
            backlog.drop_finished()
        done = [backlog for backlog in self._adopted if not backlog.segments]
        if done:
            self._adopted = [backlog for backlog in self._adopted if backlog.segments]
            for backlog in done:
                backlog.remove_folder()

    # --- the end

    def close(self) -> None:
        """End in order; waits for a `_blocking` method that runs. What the store lacks stays for the next to adopt."""
        with self._thread:
            if not self._closed:
                self._closed = True
                self._end()

    def _end(self) -> None:
        backlogs = self._backlogs()
        keep = self._own.unacknowledged or (self._slots is not None and self._slots.open_count > 0)
        if keep:
            self._sync()
        self._let_go()
        if not keep and self._own.lock >= 0:
            self._own.remove_folder()
        for backlog in backlogs:
            backlog.release()

    def _let_go(self) -> None:
        """Unmap everything and remove the segments that hold nothing."""
        for segment in (*self._ready, *self._prepared):
            segment.close()
            segment.path.unlink(missing_ok=True)
        for segment in (*self._retired, *([self._current] if self._current is not None else [])):
            segment.close()
        if self._slots is not None:
            self._slots.close()
