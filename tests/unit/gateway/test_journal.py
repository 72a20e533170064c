"""The journal of a worker that lives: slots, records, rotation, pushes, acknowledgements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring.core.errors import Unavailable
from mooring.core.usage import UsageRecord
from mooring.gateway.usage.journal import IN_FLIGHT_BYTES, Journal
from mooring.gateway.usage.segments import HEADER_BYTES
from mooring.testing.journals import FakeUsageStore, kill, records_of, slot_head, usage_record


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path, segment_bytes=8192, slots=8)
    yield made
    made.close()


def serve(journal: Journal, *names: str) -> None:
    for name in names:
        slot = journal.open_slot(slot_head(name))
        journal.progress(slot, 20)
        journal.finish(slot, usage_record(name))


def pushed(journal: Journal) -> list[UsageRecord]:
    return [record for push in journal.unsent() for record in records_of(push)]


def segments(journal: Journal, root: Path) -> list[str]:
    return sorted(path.name for path in (root / journal.writer).glob("*.seg"))


def test_a_finished_request_is_pushed_once(journal: Journal) -> None:
    serve(journal, "r-1", "r-2")
    (push,) = journal.unsent()
    assert records_of(push) == [usage_record("r-1"), usage_record("r-2")]
    assert (push.writer, push.segment, push.start) == (journal.writer, 1, HEADER_BYTES)
    assert journal.unsent() == []
    serve(journal, "r-3")
    (after,) = journal.unsent()
    assert after.start == push.offset
    assert records_of(after) == [usage_record("r-3")]


def test_a_running_request_is_not_pushed(journal: Journal) -> None:
    slot = journal.open_slot(slot_head("r-1"))
    journal.progress(slot, 5)
    assert journal.unsent() == []
    assert not journal.unacknowledged
    journal.finish(slot, usage_record("r-1"))
    assert journal.unacknowledged


def test_after_a_rewind_only_what_is_not_acknowledged_is_pushed_again(journal: Journal) -> None:
    serve(journal, "r-1")
    (first,) = journal.unsent()
    journal.acknowledged(first.writer, first.segment, first.offset)
    serve(journal, "r-2")
    assert pushed(journal) == [usage_record("r-2")]
    journal.rewind()
    assert pushed(journal) == [usage_record("r-2")]
    assert journal.unacknowledged


def test_a_store_that_was_set_back_gets_the_records_again(journal: Journal) -> None:
    serve(journal, "r-1")
    (first,) = journal.unsent()
    journal.acknowledged(first.writer, first.segment, first.offset)
    serve(journal, "r-2")
    journal.unsent()
    journal.acknowledged(first.writer, first.segment, HEADER_BYTES)
    assert pushed(journal) == [usage_record("r-1"), usage_record("r-2")]


def test_acknowledgements_of_strangers_and_of_unknown_segments_change_nothing(journal: Journal) -> None:
    serve(journal, "r-1")
    journal.acknowledged("nobody", 1, 4000)
    journal.acknowledged(journal.writer, 77, 4000)
    journal.acknowledged(journal.writer, 1, 1 << 40)  # beyond the end: the end
    serve(journal, "r-2")
    assert pushed(journal) == [usage_record("r-2")]


def test_a_full_segment_is_sealed_and_unlinked_when_the_store_holds_it(tmp_path: Path, journal: Journal) -> None:
    names = [f"r-{number}" for number in range(100)]
    for name in names:
        serve(journal, name)
        journal.prepare_blocking()
    journal.sync_blocking()
    assert len(segments(journal, tmp_path)) >= 3
    store = FakeUsageStore()
    store.drain(journal)
    assert list(store.records) == names
    journal.prepare_blocking()
    assert len(segments(journal, tmp_path)) == 2  # the current and the next
    assert not journal.unacknowledged


def test_records_never_run_out_of_room_though_nothing_prepares_it(tmp_path: Path, journal: Journal) -> None:
    serve(journal, *(f"r-{number}" for number in range(200)))
    store = FakeUsageStore()
    store.drain(journal)
    assert len(store.records) == 200
    journal.sync_blocking()


def test_no_more_is_under_way_than_a_stalled_control_can_bear(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=4 << 20, slots=8)
    serve(journal, *(f"r-{number}" for number in range(10_000)))
    sent = 0
    while pushes := journal.unsent():
        sent += sum(push.offset - push.start for push in pushes)
    assert IN_FLIGHT_BYTES <= sent <= IN_FLIGHT_BYTES + (16 << 10)
    journal.rewind()
    store = FakeUsageStore()
    store.drain(journal)
    assert len(store.records) == 10_000
    journal.close()


def test_finishing_a_slot_twice_is_a_mistake_that_writes_nothing(journal: Journal) -> None:
    slot = journal.open_slot(slot_head("r-1"))
    journal.finish(slot, usage_record("r-1"))
    for wrong in (slot, -1):
        with pytest.raises(ValueError, match="not open"):
            journal.finish(wrong, usage_record("r-1"))
    assert len(pushed(journal)) == 1


def test_slots_that_ran_out_come_back(journal: Journal) -> None:
    slots = [journal.open_slot(slot_head(f"r-{number}")) for number in range(8)]
    with pytest.raises(Unavailable):
        journal.open_slot(slot_head("r-9"))
    journal.finish(slots[3], usage_record("r-3"))
    journal.finish(journal.open_slot(slot_head("r-9")), usage_record("r-9"))
    for number in (0, 1, 2, 4, 5, 6, 7):
        journal.finish(slots[number], usage_record(f"r-{number}"))
    assert len(pushed(journal)) == 9


def test_a_record_beyond_all_measure_leaves_its_slot_to_the_successor(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=8192, slots=8)
    slot = journal.open_slot(slot_head("r-1"))
    journal.progress(slot, 3)
    journal.finish(slot, usage_record("r-1", project="p" * 5000))
    serve(journal, "r-2")
    journal.close()
    heir, store = Journal(tmp_path, segment_bytes=8192, slots=8), FakeUsageStore()
    assert heir.adopt_dead() == 1
    store.drain(heir)
    assert {name: record.ended for name, record in store.records.items()} == {"r-1": "aborted", "r-2": "complete"}
    heir.close()


def test_an_end_with_everything_stored_leaves_no_folder(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=8192, slots=8)
    serve(journal, "r-1")
    FakeUsageStore().drain(journal)
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_an_end_with_records_left_is_taken_over_by_the_next_start(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=8192, slots=8)
    serve(journal, "r-1")
    journal.open_slot(slot_head("r-2"))
    journal.close()
    heir, store = Journal(tmp_path, segment_bytes=8192, slots=8), FakeUsageStore()
    assert heir.adopt_dead() == 1
    assert heir.unacknowledged
    store.drain(heir)
    assert store.records["r-1"] == usage_record("r-1")
    assert store.records["r-2"].ended == "aborted"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [heir.writer]
    heir.close()


def test_after_the_end_late_threads_do_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=8192, slots=8)
    journal.close()
    journal.prepare_blocking()
    journal.sync_blocking()
    assert journal.adopt_dead() == 0
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_living_are_never_taken_over(tmp_path: Path, journal: Journal) -> None:
    sibling = Journal(tmp_path, segment_bytes=8192, slots=8)
    serve(sibling, "r-1")
    assert journal.adopt_dead() == 0
    assert journal.adopt_dead() == 0
    kill(sibling)
    assert journal.adopt_dead() == 1
    assert journal.adopt_dead() == 0
    assert pushed(journal) == [usage_record("r-1")]


def test_only_one_of_two_siblings_takes_over_and_its_own_death_passes_the_work_on(tmp_path: Path) -> None:
    dead, one, two = (Journal(tmp_path, segment_bytes=8192, slots=8) for _ in range(3))
    serve(dead, "r-1")
    dead.open_slot(slot_head("r-2"))
    kill(dead)
    assert (one.adopt_dead(), two.adopt_dead()) == (1, 0)
    kill(one)
    assert two.adopt_dead() == 2
    store = FakeUsageStore()
    store.drain(two)
    assert set(store.records) == {"r-1", "r-2"}
    two.close()


def test_a_half_written_recovery_is_begun_anew(tmp_path: Path, journal: Journal) -> None:
    dead = Journal(tmp_path, segment_bytes=8192, slots=8)
    dead.open_slot(slot_head("r-1"))
    kill(dead)
    (tmp_path / dead.writer / "recovered").write_bytes(b"MOORJRNL half")
    assert journal.adopt_dead() == 1
    (record,) = pushed(journal)
    assert (record.request_id, record.ended) == ("r-1", "aborted")


def test_what_died_while_its_folder_was_made_or_removed_is_cleared_away(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "1-nothing").mkdir()
    (tmp_path / "2-lock").mkdir()
    (tmp_path / "2-lock" / "lock").touch()
    (tmp_path / "2-lock" / "0000000001.seg").touch()
    journal.adopt_dead()
    assert journal.unsent() == []
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [journal.writer]


def test_a_folder_of_another_release_is_left_alone_and_told_once(
    tmp_path: Path, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    old = Journal(tmp_path, segment_bytes=8192, slots=8)
    serve(old, "r-1")
    old.close()
    (path,) = (tmp_path / old.writer).glob("*.seg")
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"\x63" + data[9:])
    assert journal.adopt_dead() == 0
    assert journal.adopt_dead() == 0
    assert caplog.text.count("can't be taken over now: journal layout 99") == 1
    assert path.exists()


def test_a_damaged_record_is_skipped_and_its_neighbours_are_pushed(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    serve(journal, "r-1", "r-2", "r-3")
    assert journal._current is not None
    area = journal._current.area
    at = area.find(b"r-2")
    area[at : at + 3] = b"r-X"
    assert [record.request_id for record in pushed(journal)] == ["r-1", "r-3"]
    assert "1 damaged records skipped" in caplog.text


@pytest.mark.parametrize("size", [0, 4096, 8193, 10_001])
def test_a_segment_size_that_does_not_work_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="segment_bytes"):
        Journal(tmp_path, segment_bytes=size, slots=8)
