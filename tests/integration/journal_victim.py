"""Started by test_journal_kill: forks children that use a journal and kill themselves at one chosen line of it.

A line of JSON comes in, `{"scenario", "root", "kill_at"}`, an exit status goes out. In the child every line of the
journal's own files is a kill point: the n-th line about to run is number n. With kill_at -1 nothing is killed and the
numbers worth trying (the first and the last time each line ran) are written to `root/points`.

The child's client is the file `root/client`, its control the file `root/store`: one write each, so what is in them
has happened.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from mooring.core.snapshot import JournalPush
from mooring.gateway.usage import journal, recovery, segments, slots
from mooring.gateway.usage.journal import Journal
from mooring.testing.journals import slot_head, usage_record

FILES = frozenset(str(module.__file__) for module in (journal, recovery, segments, slots))
PROJECT = "p" * 400  # a few such records fill a segment


class Killer:
    """Counts the lines that run and kills the process before the chosen one."""

    def __init__(self, kill_at: int) -> None:
        self._kill_at = kill_at
        self._count = 0
        self._first: dict[tuple[str, int], int] = {}
        self._last: dict[tuple[str, int], int] = {}

    def watch(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            if self._count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            place = (frame.f_code.co_filename, frame.f_lineno)
            self._first.setdefault(place, self._count)
            self._last[place] = self._count
            self._count += 1
        return self.watch

    def points(self) -> list[int]:
        return sorted({*self._first.values(), *self._last.values()})


class World:
    """The client and the control of a child."""

    def __init__(self, root: Path) -> None:
        self._client = os.open(root / "client", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._store = os.open(root / "store", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def deliver(self, name: str, tokens: int, last: bool) -> None:
        os.write(self._client, json.dumps([name, tokens, last]).encode() + b"\n")

    def take(self, journal: Journal) -> None:
        for push in journal.unsent():
            self._commit(push)
            journal.acknowledged(push.writer, push.segment, push.offset)

    def _commit(self, push: JournalPush) -> None:
        row = [push.writer, push.segment, push.offset, push.start, push.data.hex()]
        os.write(self._store, json.dumps(row).encode() + b"\n")


def stream(journal: Journal, world: World, slot: int, name: str, upto: int) -> None:
    for tokens in range(1, upto + 1):
        journal.progress(slot, tokens)
        world.deliver(name, tokens, False)


def end(journal: Journal, world: World, slot: int, name: str, tokens: int) -> None:
    journal.finish(slot, usage_record(name, project=PROJECT, completion_tokens=tokens))
    world.deliver(name, tokens, True)


def serve(root: Path, world: World) -> None:
    """A whole life: streams beside short requests over several segments, pushes, an orderly end."""
    journal = Journal(root / "journal", segment_bytes=8192, slots=4)
    long = journal.open_slot(slot_head("long", project=PROJECT))
    stream(journal, world, long, "long", 2)
    for number in range(30):
        name = f"short-{number}"
        slot = journal.open_slot(slot_head(name, project=PROJECT))
        end(journal, world, slot, name, 1)
        if number % 8 == 7:
            journal.prepare_blocking()
            journal.sync_blocking()
            world.take(journal)
    end(journal, world, long, "long", 3)
    left = journal.open_slot(slot_head("left", project=PROJECT))
    stream(journal, world, left, "left", 2)
    journal.sync_blocking()
    world.take(journal)
    end(journal, world, left, "left", 3)
    world.take(journal)
    journal.close()


def die(root: Path, world: World) -> None:
    """Leave open slots and records behind."""
    journal = Journal(root / "journal", segment_bytes=8192, slots=4)
    streams = {name: journal.open_slot(slot_head(name, project=PROJECT)) for name in ("one", "two", "three")}
    for name, slot in streams.items():
        stream(journal, world, slot, name, 2)
    for number in range(15):
        slot = journal.open_slot(slot_head(f"short-{number}", project=PROJECT))
        end(journal, world, slot, f"short-{number}", 1)
    journal.sync_blocking()
    end(journal, world, streams["three"], "three", 3)
    os.kill(os.getpid(), signal.SIGKILL)


def adopt(root: Path, world: World) -> None:
    """Take over what `die` left, push it, end."""
    journal = Journal(root / "journal", segment_bytes=8192, slots=4)
    journal.adopt_dead()
    world.take(journal)
    world.take(journal)
    journal.close()


SCENARIOS = {"serve": serve, "die": die, "adopt": adopt}


def child(scenario: str, root: Path, kill_at: int) -> None:
    world = World(root)
    killer = Killer(kill_at)
    sys.settrace(killer.watch)
    SCENARIOS[scenario](root, world)
    sys.settrace(None)
    if kill_at == -1:
        (root / "points").write_text(json.dumps(killer.points()))


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(order["scenario"], Path(order["root"]), order["kill_at"])
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
