"""What runs for a service: replicas with what they use, and the lines of several engines in one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from mooring.control.running import Running
from mooring.core.errors import NotFound
from mooring.core.replicas import Capacity, Figures, ObservedReplica, Replica, Reserved
from mooring.store import replicas as store
from mooring.store.database import Database
from mooring.store.services import delete_service, find_service

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is the same with another


@dataclass
class FakePlacement:
    """Has the replicas that a test puts in; their engines write what it puts into their queues ("" ends one)."""

    seen: list[ObservedReplica] = field(default_factory=list)
    lines: dict[str, asyncio.Queue[str]] = field(default_factory=dict)
    following: set[str] = field(default_factory=set)

    async def list(self) -> list[ObservedReplica]:
        return self.seen

    async def figures(self, replica_ids: Collection[str]) -> dict[str, Figures]:
        return {"rep-a": Figures(12.5, 3.0, 1000, 10, 20)} if "rep-a" in replica_ids else {}

    async def logs(self, replica_id: str, tail_lines: int) -> str:
        return f"{tail_lines} of {replica_id}"

    async def follow(self, replica_id: str, tail_lines: int) -> AsyncIterator[str]:
        self.following.add(replica_id)
        try:
            while text := await self.lines.setdefault(replica_id, asyncio.Queue()).get():
                yield text
        finally:
            self.following.discard(replica_id)

    def capacity(self) -> Capacity:
        return Capacity(cpu=2.0, memory_mib=1024, gpus=1, available_mib=None)


@pytest.fixture
def placement() -> FakePlacement:
    return FakePlacement()


@pytest.fixture
def looking(db: Database, placement: FakePlacement, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr("mooring.control.running.LOOK_S", 0.02)
    return Running(db, cast("Any", placement))


@pytest.fixture
async def service_id(db: Database) -> str:
    async with db.read() as tx:
        service = await find_service(tx, "mooring-demo", "default")
    assert service is not None
    return service.id


async def put(db: Database, service_id: str, *names: str, version: int = 1) -> None:
    async with db.transaction(serial=False) as tx:
        new = [Replica(id=name, service_id=service_id, spec_version=version, state="ready", slots=4) for name in names]
        await store.save(tx, new)


def seen(name: str, *, alive: bool = True) -> ObservedReplica:
    reserved = Reserved(cpu=1.5, memory_bytes=100, gpus=1)
    return ObservedReplica(name, "svc", 1, alive, 7, 0.0, None, "", "", "", 4, reserved=reserved, gpus=(0,))


async def test_replicas_are_told_with_what_they_use(
    db: Database, looking: Running, placement: FakePlacement, service_id: str
) -> None:
    await put(db, service_id, "rep-a")
    await put(db, service_id, "rep-b", version=0)
    placement.seen = [seen("rep-a"), seen("rep-b", alive=False)]
    first, second = await looking.replicas(service_id)
    assert (first["id"], first["current"], first["gpus"], first["slots"]) == ("rep-a", True, [0], 4)
    assert first["usage"]["cpuPercent"] == 12.5 and first["usage"]["gpuPercent"] is None
    assert (second["id"], second["current"], second["usage"]) == ("rep-b", False, None)
    assert await looking.machine() == {
        "cpu": {"total": 2.0, "reserved": 1.5},
        "memoryBytes": {"total": 1 << 30, "reserved": 100, "available": None},
        "gpus": {"total": 1, "reserved": 1},
    }


async def test_the_last_lines_stand_under_the_replicas_names(db: Database, looking: Running, service_id: str) -> None:
    assert await looking.logs(service_id, 5) == ""
    await put(db, service_id, "rep-a")
    assert await looking.logs(service_id, 5) == "5 of rep-a"
    await put(db, service_id, "rep-b")
    assert await looking.logs(service_id, 5) == "==> rep-a\n5 of rep-a\n==> rep-b\n5 of rep-b"
    assert await looking.logs(service_id, 5, "rep-b") == "5 of rep-b"
    with pytest.raises(NotFound) as refusal:
        await looking.logs(service_id, 5, "rep-x")
    assert refusal.value.next_step == "Its replicas: rep-a, rep-b."


async def test_several_engines_flow_into_one_stream_also_those_that_come_later(
    db: Database, looking: Running, placement: FakePlacement, service_id: str
) -> None:
    await put(db, service_id, "rep-a")
    placement.lines = {"rep-a": asyncio.Queue(), "rep-b": asyncio.Queue()}
    stream = looking.follow(service_id, 10)
    placement.lines["rep-a"].put_nowait("one\ntwo\n")
    assert await anext(stream) == "[rep-a] one\n[rep-a] two\n"
    await put(db, service_id, "rep-b")
    placement.lines["rep-b"].put_nowait("three\n")
    assert await anext(stream) == "[rep-b] three\n"
    placement.lines["rep-a"].put_nowait("last words\n")
    async with db.transaction() as tx:
        await delete_service(tx, service_id)
    assert [text async for text in stream] == ["[rep-a] last words\n"], "it ends with the service"
    assert placement.following == set()


async def test_one_replica_is_followed_without_marks_until_it_is_gone_or_the_reader_leaves(
    db: Database, looking: Running, placement: FakePlacement, service_id: str
) -> None:
    await put(db, service_id, "rep-a", "rep-b")
    placement.lines = {"rep-a": asyncio.Queue()}
    stream = looking.follow(service_id, 10, "rep-a")
    placement.lines["rep-a"].put_nowait("one\n")
    assert await anext(stream) == "one\n"
    assert placement.following == {"rep-a"}
    async with db.transaction(serial=False) as tx:
        await store.save(tx, [], ["rep-a"])
    assert [text async for text in stream] == []

    again = looking.follow(service_id, 10, "rep-b")
    placement.lines["rep-b"] = asyncio.Queue()
    placement.lines["rep-b"].put_nowait("two\n")
    assert await anext(again) == "two\n"
    await again.aclose()  # type: ignore[attr-defined]
    assert placement.following == set()
    with pytest.raises(NotFound):
        await anext(looking.follow(service_id, 10, "rep-x"))
