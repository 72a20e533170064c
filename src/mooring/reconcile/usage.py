"""Takes the gateways' journals into the store, exactly once, and forgets what is old.

An answer (JournalAck) goes out only after the commit. What fails stays at the head of the queue and is tried again;
what a worker pushes twice adds nothing.
"""

from __future__ import annotations

import logging
import struct
from collections import deque
from collections.abc import Callable
from itertools import islice

import msgspec

from mooring.core.snapshot import JournalAck, JournalPush
from mooring.core.usage import UsageRecord, decode_record
from mooring.reconcile.loop import Clock, SystemClock
from mooring.store import changes, events
from mooring.store import usage as store
from mooring.store.database import Database

log = logging.getLogger(__name__)

BATCH_PUSHES = 64  # in one transaction
BATCH_BYTES = 1 << 20  # ≈ 6,000 records: some 50 ms of writing
FORGET_ROWS = 500  # in one transaction, so that nobody waits for it
_LENGTH = struct.Struct(">I")
_MOST_TOKENS = 2**40  # of one request; sums of millions still fit a database integer

Answer = Callable[[JournalAck], None]


class Ingestion:
    """The queue of pushed runs and the step that commits them."""

    def __init__(self, db: Database, wake: Callable[[], None]) -> None:
        self._db = db
        self._wake = wake
        self._waiting: deque[tuple[JournalPush, Answer]] = deque()

    def put(self, push: JournalPush, answer: Answer) -> None:
        """Queue a run of records; `answer` is called once it is committed."""
        self._waiting.append((push, answer))
        self._wake()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of records that are not committed yet."""
        return sum(len(push.data) for push, _ in self._waiting)

    async def step(self) -> float | None:
        """Commit the oldest waiting runs together; return 0 when more wait.

        Raises:
            Unavailable: the database is locked or gone; nothing was taken in.
        """
        batch = self._batch()
        if not batch:
            return None
        runs = [store.Run(push.writer, push.segment, push.start, push.offset, read_records(push)) for push, _ in batch]
        async with self._db.transaction(serial=False) as tx:
            places = await store.ingest(tx, runs)
        for _ in batch:
            self._waiting.popleft()
        for (push, answer), place in zip(batch, places, strict=True):
            answer(JournalAck(push.writer, place.segment, place.offset))
        return 0.0 if self._waiting else None

    def _batch(self) -> list[tuple[JournalPush, Answer]]:
        batch: list[tuple[JournalPush, Answer]] = []
        size = 0
        for entry in islice(self._waiting, BATCH_PUSHES):
            size += len(entry[0].data)
            if batch and size > BATCH_BYTES:
                break
            batch.append(entry)
        return batch


def _storable(record: UsageRecord) -> UsageRecord:
    """Return the record with counts the database can hold and sum: one impossible count must not stop all others."""
    counts = (record.prompt_tokens, record.completion_tokens, record.cached_tokens, record.reasoning_tokens)
    if all(0 <= count <= _MOST_TOKENS for count in counts):
        return record
    log.warning("usage of request %s is impossible and counts as nothing: %s", record.request_id, counts)
    return msgspec.structs.replace(
        record, prompt_tokens=0, completion_tokens=0, cached_tokens=0, reasoning_tokens=0, estimated=True
    )


def read_records(push: JournalPush) -> list[UsageRecord]:
    """Return the records of a push. One that can't be read is logged and left out, for it never will be readable."""
    data, position, records = push.data, 0, list[UsageRecord]()
    while position + 4 <= len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += 4 + length
        if position > len(data):
            break
        try:
            records.append(_storable(decode_record(data[position - length : position])))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("journal %s/%d: a record can't be read: %s", push.writer, push.segment, error)
    if position != len(data):
        log.error("journal %s/%d: a run ends in the middle of a record", push.writer, push.segment)
    return records


class Upkeep:
    """Keeps the store small: old usage, old changes, events of deleted services."""

    def __init__(self, db: Database, retention_days: int, clock: Clock | None = None) -> None:
        self._db = db
        self._retention_days = retention_days
        self._clock = clock or SystemClock()

    async def step(self) -> float | None:
        """Delete one small batch; return the seconds to the next when more is left."""
        before = self._clock.now().timestamp() - self._retention_days * 86_400
        async with self._db.transaction(serial=False) as tx:
            gone = await store.forget_before(tx, before, FORGET_ROWS)
            await changes.prune(tx)
            await events.forget_deleted(tx)
        return 0.1 if gone >= FORGET_ROWS else None
