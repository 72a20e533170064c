from __future__ import annotations

from pathlib import Path

import pytest

from mooring.core.errors import Invalid
from mooring.placements import load_placement, local
from mooring.settings import Settings


@pytest.fixture
def placement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> local.LocalPlacement:
    monkeypatch.setattr(Settings, "run_dir", tmp_path / "run")
    return local.LocalPlacement(Settings(data_dir=tmp_path))


@pytest.mark.parametrize("replica_id", ["", "..", "../../etc", "a/b", "A", "-a", "x" * 64])
def test_an_id_that_could_leave_the_folder_is_refused(placement: local.LocalPlacement, replica_id: str) -> None:
    with pytest.raises(Invalid):
        placement.place(replica_id)


def test_every_place_has_a_key_of_its_own(placement: local.LocalPlacement) -> None:
    assert placement.place("rpl-1").key != placement.place("rpl-1").key
    assert placement.place("rpl-1").threads >= 1


async def test_a_folder_without_a_plan_is_no_replica(placement: local.LocalPlacement) -> None:
    assert await placement.list() == []
    placement.place("rpl-1")
    assert await placement.list() == []
    assert await placement.logs("rpl-1", 10) == ""
    await placement.remove("rpl-1")
    await placement.remove("rpl-1")


@pytest.mark.parametrize(
    ("quota", "limit", "cpu", "memory_mib"),
    [("150000 100000", "1073741824", 1.5, 1024), ("max 100000", "max", 4.0, 8192)],
)
def test_a_container_offers_what_its_limits_leave(
    monkeypatch: pytest.MonkeyPatch, quota: str, limit: str, cpu: float, memory_mib: int
) -> None:
    monkeypatch.setattr(local, "_cgroup", {"cpu.max": quota, "memory.max": limit}.__getitem__)
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(local.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2 << 20}.__getitem__)
    assert (local._cores(), local._memory_mib()) == (cpu, memory_mib)


def test_an_unknown_placement_is_refused_with_those_there_are() -> None:
    assert load_placement("local") is local
    with pytest.raises(Invalid) as refusal:
        load_placement("moon")
    assert "local" in refusal.value.next_step
