import asyncio
import random
import time

import msgspec
import pytest

from mooring.core.errors import Unavailable
from mooring.core.snapshot import JournalPush
from mooring.core.usage import UsageRecord, encode_record
from mooring.reconcile.loop import Loop
from mooring.reconcile.usage import Ingestion, Upkeep, read_records
from mooring.store import usage
from mooring.store.database import Database, migrate
from mooring.testing.clock import ManualClock
from mooring.testing.journals import usage_record


def made(number, **values):
    record = UsageRecord(
        request_id=f"req-{number:06}", endpoint_id="ep-1", service_id="svc-1", replica_id="rep-1", key_id="key-1",
        project="default", dialect="openai", operation="chat", status=200, ended="complete", estimated=False,
        prompt_tokens=10, completion_tokens=20, cached_tokens=1, reasoning_tokens=2,
        started_at=1_000_000.0 + number, ttft_ms=5.0, latency_ms=250.0,
    )  # fmt: skip
    return msgspec.structs.replace(record, **values)


def framed(records):
    return b"".join(len(body).to_bytes(4, "big") + body for body in map(encode_record, records))


def push(records, start=0, segment=1, writer="w0"):
    data = framed(records)
    return JournalPush(writer, segment, start + len(data), start, data)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path, make_database):
    return make_database(request.param, tmp_path)


@pytest.fixture
async def db(url):
    db = Database(url)
    yield db
    await db.close()


class Writer:
    """What a gateway worker knows of its journal: what it pushed and what was acknowledged."""

    def __init__(self, db):
        self.ingestion = Ingestion(db, lambda: None)
        self.acks = []

    async def give(self, *pushes):
        for one in pushes:
            self.ingestion.put(one, self.acks.append)
        while await self.ingestion.step() is not None:
            pass
        return [(ack.segment, ack.offset) for ack in self.acks]


async def stored(db, **filters):
    async with db.read() as tx:
        return await usage.list_requests(tx, limit=10_000, **filters)


async def test_records_arrive_as_they_were_written_and_the_end_is_acknowledged(db):
    first = push([made(1), made(2)])
    acks = await Writer(db).give(first)
    assert acks == [(1, first.offset)]
    assert await stored(db) == [made(2), made(1)]


async def test_a_run_pushed_twice_is_taken_in_once_and_acknowledged_twice(db):
    first = push([made(1), made(2)])
    assert await Writer(db).give(first, first) == [(1, first.offset)] * 2
    assert len(await stored(db)) == 2


async def test_after_a_crash_between_commit_and_acknowledgement_the_repeated_push_adds_nothing(db):
    first = push([made(1), made(2)])
    await Writer(db).give(first)  # this answer was lost
    longer = push([made(1), made(2), made(3)])
    assert await Writer(db).give(longer) == [(1, longer.offset)]
    assert len(await stored(db)) == 3


async def test_a_gap_is_not_acknowledged_and_the_writer_is_told_where_to_go_on(db):
    first = push([made(1)])
    third = push([made(3)], start=first.offset + 100)
    writer = Writer(db)
    assert await writer.give(first, third) == [(1, first.offset), (1, first.offset)]
    assert await stored(db) == [made(1)]


async def test_an_older_segment_that_comes_late_is_taken_in_and_does_not_move_the_cursor_back(db):
    new = push([made(2)], segment=5)
    late = push([made(1)], segment=4)
    assert await Writer(db).give(new, late) == [(5, new.offset), (4, late.offset)]
    assert len(await stored(db)) == 2
    async with db.read() as tx:
        assert await usage.cursors(tx, ["w0"]) == {"w0": usage.Cursor(5, new.offset)}


async def test_runs_pushed_in_any_order_and_any_number_of_times_lose_and_double_nothing(db):
    numbers = random.Random(7)
    runs, offset = [], 0
    for index in range(12):
        runs.append(push([made(index * 10 + item) for item in range(10)], start=offset))
        offset = runs[-1].offset
    writer, cursor = Writer(db), 0
    while cursor < offset:
        writer.acks.clear()
        await writer.give(
            *numbers.choices(runs, k=5) if cursor else (), *(run for run in runs if run.start <= cursor < run.offset)
        )
        cursor = max(ack.offset for ack in writer.acks)
    assert {record.request_id for record in await stored(db)} == {f"req-{number:06}" for number in range(120)}


async def test_the_same_request_from_two_writers_is_one(db):
    await Writer(db).give(push([made(1)]), push([made(1, ended="aborted")], writer="w1"))
    assert await stored(db) == [made(1)]


async def test_many_pushes_share_a_transaction(db):
    commits = []
    db.on_commit.append(lambda: commits.append(1))
    runs, offset = [], 0
    for number in range(50):
        runs.append(push([made(number)], start=offset))
        offset = runs[-1].offset
    writer = Writer(db)
    await writer.give(*runs)
    assert len(commits) == 1
    assert len(writer.acks) == 50


async def test_a_record_nobody_can_read_is_left_out_and_named_and_the_rest_goes_on(db, caplog):
    data = framed([made(1)]) + b"\x00\x00\x00\x02\x93\xff" + framed([made(2)])
    await Writer(db).give(JournalPush("w0", 1, len(data), 0, data))
    assert [record.request_id for record in await stored(db)] == ["req-000002", "req-000001"]
    assert "a record can't be read" in caplog.text


def test_a_run_cut_in_a_record_gives_the_whole_ones(caplog):
    data = framed([made(1), made(2)])[:-3]
    assert read_records(JournalPush("w0", 1, len(data), 0, data)) == [made(1)]
    assert "ends in the middle" in caplog.text


async def test_a_locked_database_is_tried_again_and_nothing_is_acknowledged_before(tmp_path, monkeypatch):
    monkeypatch.setattr("mooring.store.database.BUSY_TIMEOUT_MS", 20)
    url = f"sqlite:///{tmp_path}/m.db"
    migrate(url)
    mine, other = Database(url), Database(url)
    acks = []
    ingestion = Ingestion(mine, lambda: None)
    loop = Loop("usage", ingestion.step, beat_s=60, clock=(clock := ManualClock()))
    ingestion.put(push([made(1)]), acks.append)
    async with other.transaction():
        with pytest.raises(Unavailable):
            await ingestion.step()
        task = asyncio.create_task(loop.run())
        async with asyncio.timeout(5):
            while not loop.failures:
                await asyncio.sleep(0.005)
        assert acks == []
    async with asyncio.timeout(5):
        while not acks:
            await clock.advance(30)
            await asyncio.sleep(0.005)
    assert len(await stored(mine)) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await mine.close()
    await other.close()


async def test_a_page_ends_where_the_next_one_begins_and_filters_hold(db):
    await Writer(db).give(push([made(number, project="b" if number % 2 else "a") for number in range(10)]))
    async with db.read() as tx:
        first = await usage.list_requests(tx, limit=6)
        last = first[-1]
        second = await usage.list_requests(tx, limit=6, after=(last.started_at, last.request_id))
        assert [record.request_id for record in first + second] == [f"req-{n:06}" for n in range(9, -1, -1)]
        assert len(await usage.list_requests(tx, project="a")) == 5
        assert [r.request_id for r in await usage.list_requests(tx, request_id="req-000003")] == ["req-000003"]
        assert len(await usage.list_requests(tx, since=1_000_005.0)) == 5
        assert await usage.list_requests(tx, key_id="nobody") == []


async def test_sums_by_project_and_by_bucket(db):
    records = [made(0, project="a"), made(1, project="b", ended="aborted"), made(61, project="a")]
    records = [msgspec.structs.replace(record, started_at=record.started_at - 40) for record in records]
    await Writer(db).give(push(records))
    async with db.read() as tx:
        whole = await usage.sums(tx, by="project", since=0, until=2_000_000)
        assert [(one.name, one.requests, one.errors, one.prompt_tokens) for one in whole] == [
            ("a", 2, 0, 20),
            ("b", 1, 1, 10),
        ]
        minutes = await usage.sums(tx, by="key", since=0, until=2_000_000, bucket_s=60)
        assert [(one.bucket, one.name, one.requests) for one in minutes] == [
            (999_960.0, "key-1", 2),
            (1_000_020.0, "key-1", 1),
        ]
        only = await usage.sums(tx, by="service", since=0, until=2_000_000, project="b")
        assert [(one.name, one.requests) for one in only] == [("svc-1", 1)]


async def test_old_usage_is_forgotten_in_small_batches_and_young_usage_stays(db, monkeypatch):
    monkeypatch.setattr("mooring.reconcile.usage.FORGET_ROWS", 4)
    clock = ManualClock()
    now = clock.now().timestamp()
    old = [made(number, started_at=now - 91 * 86_400) for number in range(6)]
    await Writer(db).give(push([*old, made(7, started_at=now - 89 * 86_400)]))
    upkeep = Upkeep(db, 90, clock)
    assert await upkeep.step() == 0.1
    assert len(await stored(db)) == 3
    assert await upkeep.step() is None
    assert [record.request_id for record in await stored(db)] == ["req-000007"]


async def test_a_record_costs_little_cpu(tmp_path):
    url = f"sqlite:///{tmp_path}/m.db"
    await asyncio.to_thread(migrate, url)
    db = Database(url)
    writer, best = Writer(db), 1e9
    for batch in range(4):
        one = push([made(batch * 4000 + number) for number in range(4000)], segment=batch)
        begun = time.process_time()
        await writer.give(one)
        best = min(best, (time.process_time() - begun) / 4000 * 1e6)
    await db.close()
    assert best < 25, f"{best:.1f} µs per record; measured 7 to 8 on an idle machine"


def test_an_impossible_count_is_stored_as_nothing_so_that_it_stops_no_other() -> None:
    one = usage_record("r")
    records = [msgspec.structs.replace(one, prompt_tokens=count) for count in (2**64 - 1, -5, 7)]
    data = b"".join(len(one).to_bytes(4, "big") + one for one in map(encode_record, records))
    read = read_records(JournalPush("w", 1, len(data), 0, data))
    assert [(record.prompt_tokens, record.estimated) for record in read][:2] == [(0, True), (0, True)]
    assert read[2].prompt_tokens == 7
