"""A real process is killed with SIGKILL before each line of the journal's code: nothing a client saw is lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring.core.snapshot import JournalPush
from mooring.gateway.usage.journal import Journal
from mooring.testing.journals import FakeUsageStore

VICTIM = Path(__file__).with_name("journal_victim.py")


class Victims:
    """Runs scenarios in children that kill themselves at a chosen line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, scenario: str, root: Path, kill_at: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"scenario": scenario, "root": str(root), "kill_at": kill_at}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    command = [sys.executable, str(VICTIM)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Victims(process)
        assert process.stdin is not None
        process.stdin.close()


def rows(path: Path) -> list[list[object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def settle(root: Path) -> FakeUsageStore:
    """Do what the next start does, and return the store with everything in it."""
    store = FakeUsageStore()
    for writer, segment, offset, start, data in rows(root / "store"):
        store.take(
            JournalPush(str(writer), int(str(segment)), int(str(offset)), int(str(start)), bytes.fromhex(str(data)))
        )
    heir = Journal(root / "journal", segment_bytes=8192, slots=4)
    heir.adopt_dead()
    store.drain(heir)
    assert not heir.unacknowledged
    heir.close()
    assert [path.name for path in (root / "journal").iterdir()] == [".lock"], "something was left behind"
    return store


def check(root: Path) -> None:
    """Each request the client saw has one record, with no fewer tokens than it saw and at most one write more."""
    store = settle(root)
    assert store.conflicts == []
    seen: dict[str, tuple[int, bool]] = {}
    for name, tokens, last in rows(root / "client"):
        seen[str(name)] = (int(str(tokens)), bool(last))
    for name, (tokens, last) in seen.items():
        record = store.records[name]
        if last:
            assert (record.ended, record.completion_tokens) == ("complete", tokens)
        else:
            assert tokens <= record.completion_tokens <= tokens + 1
    for name in store.records.keys() - seen.keys():  # killed before the first bytes left
        assert store.records[name].completion_tokens <= 1


@pytest.mark.slow
def test_killed_before_any_line_of_a_whole_life(
    tmp_path: Path, victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    assert victims.run("serve", calm, -1) == 0
    check(calm)
    points = json.loads((calm / "points").read_text())
    assert len(points) > 150
    for point in points:
        root = tmp_path / str(point)
        root.mkdir()
        assert victims.run("serve", root, point) == -signal.SIGKILL
        check(root)
    assert "damaged" not in caplog.text  # a death leaves nothing that the checksum must catch


@pytest.mark.slow
def test_killed_before_any_line_of_a_takeover_and_taken_over_in_turn(
    tmp_path: Path, victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    dead, calm = tmp_path / "dead", tmp_path / "calm"
    dead.mkdir()
    assert victims.run("die", dead, -1) == -signal.SIGKILL
    shutil.copytree(dead, calm)
    assert victims.run("adopt", calm, -1) == 0
    points = json.loads((calm / "points").read_text())
    check(calm)
    assert len(points) > 150
    for point in points:
        root = tmp_path / str(point)
        shutil.copytree(dead, root)
        assert victims.run("adopt", root, point) == -signal.SIGKILL
        check(root)
    assert "damaged" not in caplog.text  # a death leaves nothing that the checksum must catch
