from __future__ import annotations

from pathlib import Path

import pytest

from mooring.core.errors import Invalid, Unavailable
from mooring.core.replicas import Reserved
from mooring.placements import load_placement, local, machine
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


def test_each_gpu_is_given_to_one_replica(placement: local.LocalPlacement, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_gpus", lambda: 3)
    assert placement.place("rpl-1", Reserved(gpus=2)).gpus == (0, 1)
    with pytest.raises(Unavailable, match="2 GPUs are wanted and 1 are free"):
        placement.place("rpl-2", Reserved(gpus=2))
    assert placement.place("rpl-2", Reserved(gpus=1)).gpus == (2,)
    assert placement.place("rpl-1", Reserved(gpus=2)).gpus == (0, 1), "one that is started again keeps its own"
    assert placement.place("rpl-3").gpus == ()


def test_replicas_share_the_cores_unless_some_are_their_own(
    placement: local.LocalPlacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 9.0)
    assert placement.place("rpl-1").threads == 8
    assert placement.place("rpl-1", share=4).threads == 2
    assert placement.place("rpl-1", share=40).threads == 1
    assert placement.place("rpl-1", Reserved(cpu=3), share=40).threads == 3


def test_an_unknown_placement_is_refused_with_those_there_are() -> None:
    assert load_placement("local") is local
    with pytest.raises(Invalid) as refusal:
        load_placement("moon")
    assert "local" in refusal.value.next_step
