"""Usage: the journal's records taken in exactly once, and what is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from mooring.core.usage import UsageRecord
from mooring.store.database import Transaction
from mooring.store.tables import journal_cursors, usage_requests

COLUMNS = (*UsageRecord.__struct_fields__, "ended_at")
_RECORD_COLUMNS = [usage_requests.c[name] for name in UsageRecord.__struct_fields__]
_INSERT = "INSERT INTO usage_requests ({}) VALUES ({}) ON CONFLICT (request_id) DO NOTHING"

By = Literal["project", "endpoint", "key", "service"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run of records as one gateway worker pushed it: they stand at `start`…`offset` of its segment."""

    writer: str
    segment: int
    start: int
    offset: int
    records: Sequence[UsageRecord]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything of this writer's segment before `offset` is in the store."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Sums over the requests of one group in one bucket of time."""

    bucket: float  # start of the bucket, Unix seconds; 0 when everything is one bucket
    name: str  # the project, or the id of the endpoint, key or service
    requests: int
    errors: int  # requests that ended otherwise than complete
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int


async def cursors(tx: Transaction, writers: Sequence[str]) -> dict[str, Cursor]:
    """Return how far the journals of these writers are taken in; unknown writers are left out."""
    found = await tx.execute(sa.select(journal_cursors).where(journal_cursors.c.writer.in_(writers)))
    return {row.writer: Cursor(row.segment, row.offset) for row in found}


async def ingest(tx: Transaction, runs: Sequence[Run]) -> list[Cursor]:
    """Take in runs and return, for each, the place of its writer that is now committed with `tx`.

    A run that was taken in before adds nothing. A run that leaves a gap in its segment is left alone: its
    answer is the old cursor, from which the writer continues. An older segment, recovered late, is taken in
    without moving the cursor.
    """
    known = await cursors(tx, sorted({run.writer for run in runs}))
    moved: set[str] = set()
    rows: list[tuple[Any, ...]] = []
    answers: list[Cursor] = []
    for run in runs:
        answer, fresh = _place(known.get(run.writer), run)
        answers.append(answer)
        if fresh:
            rows.extend(_row(record) for record in run.records)
        old = known.get(run.writer)
        if old is None or (answer.segment, answer.offset) > (old.segment, old.offset):
            known[run.writer] = answer
            moved.add(run.writer)
    await _insert(tx, rows)
    await _move(tx, {writer: known[writer] for writer in sorted(moved)})
    return answers


def _place(old: Cursor | None, run: Run) -> tuple[Cursor, bool]:
    """Return the cursor to answer with and whether the run's records are to be written."""
    end = Cursor(run.segment, run.offset)
    if old is None or old.segment != run.segment:
        return end, True
    if run.offset <= old.offset or run.start > old.offset:
        return old, False
    return end, True


def _row(record: UsageRecord) -> tuple[Any, ...]:
    return (*msgspec.structs.astuple(record), record.started_at + record.latency_ms / 1000)


async def _insert(tx: Transaction, rows: list[tuple[Any, ...]]) -> None:
    if not rows:
        return
    mark = "?" if tx.dialect.name == "sqlite" else "%s"
    statement = _INSERT.format(", ".join(COLUMNS), ", ".join([mark] * len(COLUMNS)))
    await tx.exec_driver_sql(statement, rows)


async def _move(tx: Transaction, places: dict[str, Cursor]) -> None:
    if not places:
        return
    await tx.execute(sa.delete(journal_cursors).where(journal_cursors.c.writer.in_(places)))
    await tx.execute(
        sa.insert(journal_cursors),
        [{"writer": writer, "segment": place.segment, "offset": place.offset} for writer, place in places.items()],
    )


async def list_requests(
    tx: Transaction,
    *,
    since: float = 0,
    request_id: str = "",
    project: str = "",
    endpoint_id: str = "",
    key_id: str = "",
    service_id: str = "",
    limit: int = 100,
    after: tuple[float, str] | None = None,
) -> list[UsageRecord]:
    """Return records, newest start first. "" and 0 do not filter.

    `since` is in Unix seconds; `after` is `(started_at, request_id)` of the last record of the page before.
    """
    table = usage_requests.c
    query = sa.select(*_RECORD_COLUMNS).order_by(table.started_at.desc(), table.request_id.desc()).limit(limit)
    equal = {"request_id": request_id, "project": project, "endpoint_id": endpoint_id, "key_id": key_id}
    for name, value in {**equal, "service_id": service_id}.items():
        if value:
            query = query.where(table[name] == value)
    if since:
        query = query.where(table.started_at >= since)
    if after is not None:
        query = query.where(sa.tuple_(table.started_at, table.request_id) < sa.tuple_(*map(sa.literal, after)))
    return [UsageRecord(*row) for row in await tx.execute(query)]


async def sums(
    tx: Transaction,
    *,
    by: By,
    since: float,
    until: float,
    bucket_s: int = 0,
    project: str = "",
) -> list[UsageSum]:
    """Return sums by group and time of start, in `since` ≤ start < `until` (Unix seconds), oldest first.

    `bucket_s` is the width of a bucket in seconds, counted from the epoch; 0 = one bucket over all.
    """
    table = usage_requests.c
    group = table["project" if by == "project" else f"{by}_id"]
    bucket = sa.func.floor(table.started_at / bucket_s) * bucket_s if bucket_s else sa.literal(0.0)
    bucket = bucket.label("bucket")
    totals = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    query = (
        sa.select(
            bucket,
            group,
            sa.func.count(),
            sa.func.sum(sa.case((table.ended == "complete", 0), else_=1)),
            *(sa.func.sum(table[name]) for name in totals),
        )
        .where(table.started_at >= since, table.started_at < until)
        .group_by(bucket, group)
        .order_by(bucket, group)
    )
    if project:
        query = query.where(table.project == project)
    rows: Any = await tx.execute(query)
    return [UsageSum(float(row[0]), row[1], *(int(value) for value in row[2:])) for row in rows]


async def forget_before(tx: Transaction, moment: float, limit: int = 1000) -> int:
    """Delete up to `limit` records that started before `moment` (Unix seconds); return how many went."""
    old = (
        sa.select(usage_requests.c.request_id)
        .where(usage_requests.c.started_at < moment)
        .order_by(usage_requests.c.started_at)
        .limit(limit)
    )
    gone = await tx.execute(sa.delete(usage_requests).where(usage_requests.c.request_id.in_(old)))
    return gone.rowcount
