"""The slots file: what a successor reads of the requests of a dead worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring.core.errors import Invalid, Unavailable
from mooring.gateway.usage.recovery import aborted_record
from mooring.gateway.usage.segments import UnknownLayoutError
from mooring.gateway.usage.slots import SLOT_BYTES, OpenSlot, SlotTable, read_open_slots
from mooring.testing.journals import slot_head


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slots"


def opened(path: Path) -> dict[str, int]:
    slots, _ = read_open_slots(path)
    return {slot.head.request_id: slot.completion_tokens for slot in slots}


def test_an_open_slot_is_read_back_with_its_last_count(path: Path) -> None:
    table = SlotTable(path, 4)
    first, second = table.open(slot_head("r-1")), table.open(slot_head("r-2"))
    table.words[first] = 1
    table.words[first] = 7
    assert opened(path) == {"r-1": 7, "r-2": 0}
    table.words[second - 1] = 0
    assert opened(path) == {"r-1": 7}
    table.close()


def test_a_slot_used_again_starts_from_zero_and_forgets_the_longer_head_before_it(path: Path) -> None:
    table = SlotTable(path, 1)
    slot = table.open(slot_head("r-1", project="p" * 300))
    table.words[slot] = 9
    table.words[slot - 1] = 0
    table.free.append(slot)
    assert table.open(slot_head("r-2")) == slot
    assert opened(path) == {"r-2": 0}
    table.close()


def test_when_every_slot_is_taken_the_caller_is_told_to_come_again(path: Path) -> None:
    table = SlotTable(path, 2)
    taken = {table.open(slot_head("r-1")), table.open(slot_head("r-2"))}
    assert len(taken) == table.open_count == 2
    with pytest.raises(Unavailable) as refusal:
        table.open(slot_head("r-3"))
    assert refusal.value.retry_after_s == 1.0
    assert "slots" in refusal.value.next_step
    table.close()


def test_a_head_that_does_not_fit_takes_no_slot(path: Path) -> None:
    table = SlotTable(path, 1)
    with pytest.raises(Invalid):
        table.open(slot_head("r-1", project="p" * 500))
    assert table.open_count == 0
    assert opened(path) == {}
    table.close()


def test_the_slot_minus_one_is_nobodys(path: Path) -> None:
    table = SlotTable(path, 2)
    slots = [table.open(slot_head("r-1")), table.open(slot_head("r-2"))]
    table.words[-1] = 99
    assert [table.words[slot] for slot in slots] == [0, 0]
    assert opened(path) == {"r-1": 0, "r-2": 0}
    table.close()


def test_a_head_torn_at_any_byte_is_left_out(path: Path) -> None:
    table = SlotTable(path, 2)
    table.open(slot_head("r-1"))
    table.open(slot_head("r-2"))
    table.close()
    whole = path.read_bytes()
    for at in range(SLOT_BYTES + 16, SLOT_BYTES + 16 + whole[SLOT_BYTES]):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        assert opened(path) == {"r-2": 0}


@pytest.mark.parametrize("size", [0, 8, 15, 16, 511, 512, 600, 1024])
def test_a_file_cut_short_is_read_as_far_as_it_goes(path: Path, size: int) -> None:
    table = SlotTable(path, 2)
    table.open(slot_head("r-1"))
    table.close()
    path.write_bytes(path.read_bytes()[:size])
    assert opened(path) == ({"r-1": 0} if size >= 1024 else {})


def test_the_file_of_an_unknown_release_is_refused_not_misread(path: Path) -> None:
    table = SlotTable(path, 1)
    table.area[8] = 99
    table.close()
    with pytest.raises(UnknownLayoutError):
        read_open_slots(path)


def test_a_missing_file_holds_nothing(path: Path) -> None:
    assert read_open_slots(path) == ([], 0.0)


def test_a_dead_request_that_delivered_counts_what_it_delivered_until_its_worker_last_lived() -> None:
    record = aborted_record(OpenSlot(slot_head("r-1", prompt_tokens=10), 4), alive_at=1_700_000_002.5)
    assert (record.status, record.ended, record.estimated) == (200, "aborted", True)
    assert (record.prompt_tokens, record.completion_tokens) == (10, 4)
    assert record.latency_ms == 2500.0


def test_a_dead_request_that_delivered_nothing_is_charged_nothing() -> None:
    record = aborted_record(OpenSlot(slot_head("r-1", prompt_tokens=10), 0), alive_at=0.0)
    assert (record.status, record.ended, record.estimated) == (499, "aborted", True)
    assert (record.prompt_tokens, record.completion_tokens, record.latency_ms) == (0, 0, 0.0)
