import asyncio
import os
import stat
import time
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from mooring.core.external_services import ExternalService, ExternalServiceSpec
from mooring.core.ids import key_digest
from mooring.core.objects import Metadata
from mooring.core.repairs import REPAIRS
from mooring.core.snapshot import Ack, Beat, Begin, Hello, Lesson, Rows, decode_key, decode_service, pack_frame
from mooring.core.usage import UsageRecord
from mooring.reconcile.feed import Feed
from mooring.store import changes, tables, usage
from mooring.store.database import Database
from mooring.store.services import get_service, insert_service
from mooring.testing.feed_client import FeedClient

PEPPER = b"p" * 32
NOW = datetime(2026, 11, 21, tzinfo=UTC)


class Bench:
    """A store, a feed over it, and the socket."""

    def __init__(self, url, folder):
        self.path = folder / "feed.sock"
        self.db = Database(url)
        self.feed = Feed(self.path, url, pepper=PEPPER, unseal=lambda sealed: sealed)
        self.clients = []

    async def dial(self, worker="w0", **options):
        client = await FeedClient.dial(self.path, worker, **options)
        self.clients.append(client)
        return client

    async def add_keys(self, *names):
        async with self.db.transaction() as tx:
            await insert_keys(tx, names)
            return await changes.record(tx, "key", names)

    async def remove_key(self, name):
        async with self.db.transaction() as tx:
            await tx.execute(sa.delete(tables.api_keys).where(tables.api_keys.c.id == name))
            return await changes.record(tx, "key", [name])


async def insert_keys(tx, names):
    rows = [
        {
            "id": name,
            "project": "default",
            "label": name,
            "owner": "usr-1",
            "digest": key_digest(name, PEPPER),
            "access_digest": key_digest(f"access-{name}", PEPPER),
            "created_at": NOW,
        }
        for name in names
    ]
    await tx.execute(sa.insert(tables.api_keys), rows)


@pytest.fixture(params=["sqlite", "postgres"])
async def bench(request, tmp_path, make_database):
    url = make_database(request.param, tmp_path)
    bench = Bench(url, tmp_path)
    async with bench.db.transaction() as tx:
        await tx.execute(
            sa.insert(tables.users).values(id="usr-1", name="a", role="administrator", enabled=True, created_at=NOW)
        )
    bench.feed.start()
    bench.db.on_commit.append(bench.feed.wake)
    yield bench
    for client in bench.clients:
        await client.close()
    await asyncio.to_thread(bench.feed.stop)
    await bench.db.close()


async def test_a_new_worker_gets_everything_and_the_pepper(bench):
    version = await bench.add_keys("key-a", "key-b")
    client = await bench.dial()
    await client.until(lambda: client.version == version)
    (begin,) = client.seen(Begin)
    assert (begin.full, begin.pepper) == (True, PEPPER)
    assert set(client.rows) == {("key", "key-a"), ("key", "key-b")}
    row = client.rows["key", "key-a"]
    assert row.digests == (key_digest("key-a", PEPPER), key_digest("access-key-a", PEPPER))
    assert decode_key(row.data).enabled


async def test_a_change_comes_as_a_delta_and_a_deleted_row_goes(bench):
    await bench.add_keys("key-a")
    client = await bench.dial()
    await client.until(lambda: client.version >= 0)
    await bench.add_keys("key-b")
    version = await bench.remove_key("key-a")
    await client.until(lambda: client.version == version)
    assert set(client.rows) == {("key", "key-b")}
    assert client.seen(Begin)[0].full
    assert not any(begin.full for begin in client.seen(Begin)[1:])


async def test_a_worker_that_was_away_gets_only_what_it_missed(bench):
    await bench.add_keys("key-a")
    first = await bench.dial()
    await first.until(lambda: first.version >= 0)
    epoch, version, rows = first.epoch, first.version, first.rows
    await first.close()
    newest = await bench.add_keys("key-b")
    again = await bench.dial(epoch=epoch, version=version)
    again.rows = rows
    await again.until(lambda: again.version == newest)
    (begin,) = again.seen(Begin)
    assert (begin.full, begin.base) == (False, version)
    assert len(again.rows) == 2


async def test_a_worker_that_has_all_gets_beats_and_no_rows(bench):
    await bench.add_keys("key-a")
    first = await bench.dial()
    await first.until(lambda: first.version >= 0)
    again = await bench.dial("w1", epoch=first.epoch, version=first.version)
    await again.until(lambda: again.seen(Beat))
    assert again.seen(Begin) == []
    assert await bench.feed.wait_acknowledged(first.version, 1) == []


@pytest.mark.parametrize("version", [0, 10_000])
async def test_a_worker_of_another_database_or_from_the_future_gets_everything(bench, version):
    await bench.add_keys("key-a")
    client = await bench.dial(epoch="another" if version == 0 else "", version=version)
    await client.until(lambda: client.seen(Begin))
    assert client.seen(Begin)[0].full


async def test_a_gap_too_old_to_be_known_is_healed_by_a_full_snapshot(bench, monkeypatch):
    monkeypatch.setattr(changes, "KEPT", 2)
    client = await bench.dial()
    await client.until(lambda: client.version >= 0)
    epoch, version = client.epoch, client.version
    await client.close()
    for number in range(5):
        await bench.add_keys(f"key-{number}")
    again = await bench.dial(epoch=epoch, version=version)
    await again.until(lambda: len(again.rows) == 5)
    assert again.seen(Begin)[0].full


async def test_two_workers_acknowledge_and_waiting_ends_with_the_second(bench):
    one, two = await bench.dial("w1"), await bench.dial("w2")
    version = await bench.add_keys("key-a")
    begun = time.monotonic()
    assert await bench.feed.wait_acknowledged(version, 5) == []
    assert time.monotonic() - begun < 2
    assert (one.version, two.version) == (version, version)


async def test_a_worker_that_does_not_acknowledge_is_named_and_the_wait_is_bounded(bench):
    one = await bench.dial("w1")
    lazy = await bench.dial("w2", acknowledges=False)
    await lazy.until(lambda: lazy.version >= 0)
    version = await bench.add_keys("key-a")
    begun = time.monotonic()
    assert await bench.feed.wait_acknowledged(version, 0.3) == ["w2"]
    assert time.monotonic() - begun < 1.5
    assert one.version == version


async def test_a_worker_that_hangs_up_is_not_waited_for(bench):
    lazy = await bench.dial("w1", acknowledges=False)
    await lazy.until(lambda: lazy.version >= 0)
    version = await bench.add_keys("key-a")
    waiting = asyncio.create_task(bench.feed.wait_acknowledged(version, 10))
    await lazy.until(lambda: lazy.version == version)
    await lazy.close()
    assert await asyncio.wait_for(waiting, 5) == []


async def test_acknowledging_twice_or_an_older_version_harms_nothing(bench):
    client = await bench.dial()
    version = await bench.add_keys("key-a")
    await client.until(lambda: client.version == version)
    for old in (version, version, 0):
        client.send(Ack(old))
    assert await bench.feed.wait_acknowledged(version, 2) == []


async def test_without_workers_nothing_is_waited_for(bench):
    assert await bench.feed.wait_acknowledged(999, 5) == []


async def test_a_worker_that_reads_nothing_is_cut_off_and_delays_nobody(bench, monkeypatch):
    monkeypatch.setattr("mooring.reconcile.feed.SLOW_S", 0.3)
    monkeypatch.setattr("mooring.reconcile.feed.BUFFER_BYTES", 1024)
    async with bench.db.transaction() as tx:
        names = [f"key-{number:05}" for number in range(20_000)]
        await insert_keys(tx, names)
        await changes.record(tx, "key", names[:1])
    reader, writer = await asyncio.open_unix_connection(str(bench.path), limit=1)
    slow = FeedClient(reader, writer, acknowledges=False)
    slow._task.cancel()
    writer.transport.pause_reading()
    slow.send(Hello(1, "slow", os.getpid(), "", -1))
    other = await bench.dial("w1")
    await other.until(lambda: len(other.rows) == 20_000, timeout_s=30)
    async with asyncio.timeout(20):
        while "slow" in await bench.feed.wait_acknowledged(10**9, 0.05):
            await asyncio.sleep(0.02)
    assert not other.closed
    writer.close()


@pytest.mark.slow
@pytest.mark.parametrize("bench", ["sqlite"], indirect=True)
async def test_a_hundred_thousand_keys_come_in_messages_of_500_while_beats_go_on(bench):
    async with bench.db.transaction() as tx:
        names = [f"key-{number:06}" for number in range(100_000)]
        for start in range(0, len(names), 10_000):
            await insert_keys(tx, names[start : start + 10_000])
        await changes.record(tx, "key", names[:1])
    watcher = await bench.dial("w1")
    await watcher.until(lambda: len(watcher.rows) == 100_000, timeout_s=60)
    loading = await bench.dial("w2")
    gaps, last, seen = [], time.monotonic(), len(watcher.seen(Beat))
    while len(loading.rows) != 100_000:
        await watcher.until(lambda before=seen: len(watcher.seen(Beat)) > before)
        gaps.append(time.monotonic() - last)
        last, seen = time.monotonic(), len(watcher.seen(Beat))
    assert max(len(message.rows) for message in loading.seen(Rows)) <= 500
    assert max(gaps) < 0.9, f"a beat came {max(gaps):.2f} s after the one before; a worker gives up after 1 s"


async def test_usage_pushed_over_the_feed_is_in_the_store_when_it_is_acknowledged(bench):
    client = await bench.dial()
    record = UsageRecord(
        "req-1", "ep", "svc", "rep", "key", "default", "openai", "chat", 200, "complete", False, 1, 2, 0, 0, 5.0, 1, 2
    )
    end = client.push("w0", [record])
    await client.until(lambda: client.journal_acks)
    assert client.journal_acks[0].offset == end
    async with bench.db.read() as tx:
        assert await usage.list_requests(tx) == [record]


async def test_nonsense_on_the_socket_closes_that_connection_only(bench):
    good = await bench.dial("w1")
    reader, writer = await asyncio.open_unix_connection(str(bench.path))
    writer.write(b"\x00\x00\x00\x05hello")
    assert await reader.read() == b""
    writer.close()
    version = await bench.add_keys("key-a")
    await good.until(lambda: good.version == version)


async def test_another_layout_is_refused(bench):
    reader, writer = await asyncio.open_unix_connection(str(bench.path))
    writer.write(pack_frame(Hello(99, "w9", 1, "", -1)))
    assert await reader.read() == b""
    writer.close()


async def test_the_socket_is_for_its_owner_only(bench):
    assert stat.S_IMODE(os.stat(bench.path).st_mode) == 0o600


async def test_what_a_worker_learns_about_a_service_is_shown_on_it_and_told_to_all(bench):
    spec = ExternalServiceSpec(urls=["http://127.0.0.1:9/v1"])
    async with bench.db.transaction() as tx:
        named = Metadata(name="ext", project="default")
        await insert_service(tx, ExternalService(id="svc-ext", metadata=named, spec=spec))
        await changes.record(tx, "service", ["svc-ext"])
    teller, other = await bench.dial(), await bench.dial("w1")
    await other.until(lambda: ("service", "svc-ext") in other.rows)
    for repairs in (("no_done",), ("no_done", "unheard_of"), ("envelope", "no_done")):
        teller.send(Lesson("svc-ext", repairs))
    teller.send(Lesson("svc-gone", ("no_done",)))
    await other.until(lambda: decode_service(other.rows["service", "svc-ext"].data).repairs == ("no_done", "envelope"))
    async with bench.db.read() as tx:
        shown = (await get_service(tx, "svc-ext")).status.detail["repairs"]
    assert shown == {name: REPAIRS[name] for name in ("no_done", "envelope")}
