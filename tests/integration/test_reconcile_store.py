import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from mooring.core.replicas import Replica
from mooring.store import changes, events, leases, replicas
from mooring.store.database import Database

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
async def db(request, tmp_path, make_database):
    url = make_database(request.param, tmp_path)
    db = Database(url)
    yield db
    await db.close()


async def record(db, kind, ids):
    async with db.transaction() as tx:
        return await changes.record(tx, kind, ids)


async def test_each_record_is_one_version_higher_and_since_tells_what_changed_once(db):
    first = await record(db, "key", ["k1", "k2"])
    second = await record(db, "service", ["s1"])
    third = await record(db, "key", ["k1"])
    assert (second, third) == (first + 1, first + 2)
    async with db.read() as tx:
        assert sorted(await changes.since(tx, first - 1)) == [("key", "k1"), ("key", "k2"), ("service", "s1")]
        assert sorted(await changes.since(tx, second)) == [("key", "k1")]
        assert await changes.since(tx, third) == []
        assert (await changes.current(tx))[1] == third


async def test_a_version_from_the_future_or_none_at_all_is_not_known(db):
    newest = await record(db, "key", ["k1"])
    async with db.read() as tx:
        assert await changes.since(tx, newest + 1) is None
        assert await changes.since(tx, -1) is None


async def test_pruning_keeps_the_newest_changes_and_forgets_what_is_too_old(db, monkeypatch):
    monkeypatch.setattr(changes, "KEPT", 3)
    for number in range(6):
        newest = await record(db, "key", [f"k{number}"])
    async with db.transaction() as tx:
        assert await changes.prune(tx) == 3
    async with db.read() as tx:
        assert len(await changes.since(tx, newest - 3)) == 3
        assert await changes.since(tx, newest - 4) is None


async def test_writers_at_the_same_time_get_versions_in_the_order_of_their_commits(db):
    versions = await asyncio.gather(*(record(db, "key", [f"k{number}"]) for number in range(20)))
    assert sorted(versions) == list(range(min(versions), min(versions) + 20))


async def test_only_one_holds_a_lease_until_it_expires_and_the_holder_renews_at_once(db):
    async def acquire(holder, at):
        async with db.transaction(serial=False) as tx:
            return await leases.acquire(tx, "services", holder, at, 15)

    assert await acquire("a", NOW)
    assert await acquire("a", NOW + timedelta(seconds=5))
    assert not await acquire("b", NOW + timedelta(seconds=6))
    assert await acquire("b", NOW + timedelta(seconds=21))
    assert not await acquire("a", NOW + timedelta(seconds=22))
    async with db.transaction(serial=False) as tx:
        await leases.release(tx, "services", "b")
    assert await acquire("a", NOW + timedelta(seconds=23))


async def test_events_come_newest_first_and_only_the_newest_500_of_a_service_are_kept(db):
    def told(service_id, number):
        return events.Event(service_id, "r", NOW + timedelta(seconds=number), "info", "Ready", f"no. {number}")

    async with db.transaction(serial=False) as tx:
        await events.add(tx, [told("svc-a", number) for number in range(510)])
        await events.add(tx, [told("svc-b", 1)])
        await events.add(tx, [told("svc-a", 510)])
    async with db.read() as tx:
        found = await events.list_events(tx, "svc-a", 1000)
        assert len(found) == 500
        assert found[0] == told("svc-a", 510)
        assert len(await events.list_events(tx, "svc-b")) == 1
    async with db.transaction(serial=False) as tx:
        await events.forget_deleted(tx)
    async with db.read() as tx:
        assert await events.list_events(tx, "svc-a") == []


async def test_a_replica_comes_back_as_it_was_saved_and_gone_ones_do_not(db):
    full = Replica(
        id="r1", service_id="svc-a", spec_version=3, recipe="abc", state="ready", reason="why", address="unix:/x",
        engine_key="k", served_model="m", slots=4, context_length=2048, pid=7, restarts=2,
        next_start_at=NOW.timestamp() + 0.5, started_at=NOW.timestamp(), ready_at=NOW.timestamp() + 1.25,
    )  # fmt: skip
    empty = Replica("r2", "svc-b", 1)
    async with db.transaction() as tx:
        await replicas.save(tx, [full, empty])
        await replicas.save(tx, [full], gone=["r2"])
    async with db.read() as tx:
        assert await replicas.list_replicas(tx) == [full]
        assert await replicas.list_replicas(tx, "svc-b") == []
