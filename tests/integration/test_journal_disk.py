"""A disk that is full: new requests are refused, running ones finish, and room that comes back is used."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mooring.core.errors import StorageFull
from mooring.gateway.usage.journal import Journal
from mooring.testing.journals import FakeUsageStore, kill, slot_head, usage_record

SLOTS = 64


@pytest.fixture
def small_disk(tmp_path: Path, requires: Callable[[str], str]) -> Iterator[Path]:
    """Return the root of an own file system of 128 KiB."""
    mount, place = requires("mount"), tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=128k", "none", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("this machine lets us mount no file system")
    yield place
    subprocess.run([requires("umount"), "-l", str(place)], check=True)


@contextmanager
def no_large_files() -> Iterator[None]:
    """Refuse files above 4 KiB to this process: a second real way to have no room, that needs no rights.

    Only for a few lines: the limit also holds for the file that pytest's own output may go to.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


def open_until_full(journal: Journal) -> dict[str, int]:
    slots: dict[str, int] = {}
    with pytest.raises(StorageFull):
        for number in range(SLOTS + 1):
            slots[f"r-{number}"] = journal.open_slot(slot_head(f"r-{number}"))
    return slots


def test_on_a_full_disk_running_requests_finish_and_new_ones_are_refused(small_disk: Path) -> None:
    journal = Journal(small_disk / "journal", segment_bytes=8192, slots=SLOTS)
    ballast = fill(small_disk)
    slots = open_until_full(journal)
    assert len(slots) > 10
    assert journal.full
    for name, slot in slots.items():
        journal.finish(slot, usage_record(name, project="p" * 200))
    store = FakeUsageStore()
    store.drain(journal)
    assert set(store.records) == set(slots)
    ballast.unlink()
    journal.prepare_blocking()
    assert not journal.full
    journal.finish(journal.open_slot(slot_head("after")), usage_record("after"))
    store.drain(journal)
    assert "after" in store.records
    journal.close()


def test_segments_the_store_holds_give_their_room_back(small_disk: Path) -> None:
    journal = Journal(small_disk / "journal", segment_bytes=8192, slots=SLOTS)
    fill(small_disk)
    store, served = FakeUsageStore(), 0
    for number in range(500):
        try:
            slot = journal.open_slot(slot_head(f"r-{number}"))
        except StorageFull:
            store.drain(journal)
            journal.sync_blocking()
            journal.prepare_blocking()
            continue
        journal.finish(slot, usage_record(f"r-{number}"))
        served += 1
    store.drain(journal)
    assert len(store.records) == served > 400
    journal.close()


def test_a_start_on_a_full_disk_serves_when_there_is_room(small_disk: Path) -> None:
    ballast = fill(small_disk)
    journal = Journal(small_disk / "journal", segment_bytes=8192, slots=SLOTS)
    assert journal.full
    for _ in range(2):
        with pytest.raises(StorageFull):
            journal.open_slot(slot_head("r-1"))
        journal.progress(-1, 3)
        journal.prepare_blocking()
        journal.sync_blocking()
        journal.adopt_dead()
        assert journal.unsent() == []
    ballast.unlink()
    journal.prepare_blocking()
    journal.finish(journal.open_slot(slot_head("r-1")), usage_record("r-1"))
    assert not journal.full
    assert len(journal.unsent()) == 1
    journal.close()


def test_a_worker_that_died_on_a_full_disk_is_taken_over_there(small_disk: Path) -> None:
    dead = Journal(small_disk / "journal", segment_bytes=8192, slots=SLOTS)
    heir = Journal(small_disk / "journal", segment_bytes=8192, slots=SLOTS)
    fill(small_disk)
    slots = open_until_full(dead)
    kill(dead)
    assert heir.adopt_dead() == 1
    store = FakeUsageStore()
    store.drain(heir)
    assert set(store.records) == set(slots)
    heir.close()


def test_a_limit_on_file_sizes_counts_as_a_full_disk(tmp_path: Path) -> None:
    with no_large_files():
        journal = Journal(tmp_path / "journal", segment_bytes=8192, slots=4)
        with pytest.raises(StorageFull):
            journal.open_slot(slot_head("r-1"))
    assert journal.full
    journal.close()


def test_a_folder_that_cannot_be_used_is_an_error_not_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file")
    with pytest.raises(FileExistsError):
        Journal(tmp_path / "journal", segment_bytes=8192, slots=4)


def test_a_life_with_many_segments_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    journal, store = Journal(tmp_path, segment_bytes=8192, slots=4), FakeUsageStore()
    for number in range(1000):
        journal.finish(journal.open_slot(slot_head(f"r-{number}")), usage_record(f"r-{number}"))
        if number % 50 == 0:
            journal.prepare_blocking()
            journal.sync_blocking()
            store.drain(journal)
    journal.sync_blocking()
    assert len(os.listdir("/proc/self/fd")) < before + 12
    store.drain(journal)
    journal.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_that_sync_and_prepare_beside_the_loop_lose_nothing(tmp_path: Path) -> None:
    journal, store = Journal(tmp_path, segment_bytes=8192, slots=8), FakeUsageStore()
    over = threading.Event()

    def housekeeping() -> None:
        while not over.is_set():
            journal.prepare_blocking()
            journal.sync_blocking()
            journal.adopt_dead()

    thread = threading.Thread(target=housekeeping)
    thread.start()
    for number in range(5000):
        journal.finish(journal.open_slot(slot_head(f"r-{number}")), usage_record(f"r-{number}"))
        if number % 100 == 0:
            store.drain(journal)
    store.drain(journal)
    journal.close()  # beside the running thread
    over.set()
    thread.join()
    assert len(store.records) == 5000
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
