"""Random lives of several workers: however they work, die and take over, each request has one record in the store."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mooring.core.snapshot import JournalPush
from mooring.gateway.usage.journal import Journal
from mooring.testing.journals import FakeUsageStore, kill, slot_head, usage_record

WORKERS = st.integers(0, 1)


class Lives(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="mooring-journal-"))
        self.store = FakeUsageStore()
        self.count = 0
        self.delivered: dict[str, int] = {}  # tokens the client got
        self.ended: set[str] = set()
        self.workers = [self._new_worker() for _ in range(2)]
        self.slots: list[dict[str, int]] = [{}, {}]
        self.feeds: list[deque[JournalPush]] = [deque(), deque()]

    def _new_worker(self) -> Journal:
        return Journal(self.root, segment_bytes=8192, slots=64)

    @rule(worker=WORKERS, many=st.integers(1, 20))
    def admit(self, worker: int, many: int) -> None:
        for _ in range(min(many, 64 - len(self.slots[worker]))):
            self.count += 1
            name = f"r-{self.count}"
            self.slots[worker][name] = self.workers[worker].open_slot(slot_head(name, project="p" * 200))
            self.delivered[name] = 0

    @rule(worker=WORKERS, tokens=st.integers(1, 1000))
    def stream(self, worker: int, tokens: int) -> None:
        for name, slot in self.slots[worker].items():
            self.delivered[name] += tokens
            self.workers[worker].progress(slot, self.delivered[name])

    @rule(worker=WORKERS, many=st.integers(1, 40))
    def end_some(self, worker: int, many: int) -> None:
        for name in list(self.slots[worker])[:many]:
            record = usage_record(name, project="p" * 200, completion_tokens=self.delivered[name])
            self.workers[worker].finish(self.slots[worker].pop(name), record)
            self.ended.add(name)

    @rule(worker=WORKERS)
    def second_passes(self, worker: int) -> None:
        self.workers[worker].prepare_blocking()
        self.workers[worker].sync_blocking()

    @rule(worker=WORKERS)
    def adopt(self, worker: int) -> None:
        self.workers[worker].adopt_dead()

    @rule(worker=WORKERS, max_bytes=st.sampled_from([1, 20_000, 1 << 20]))
    def push(self, worker: int, max_bytes: int) -> None:
        self.feeds[worker].extend(self.workers[worker].unsent(max_bytes))

    @rule(worker=WORKERS, many=st.integers(1, 5), answered=st.booleans())
    def control_takes(self, worker: int, many: int, answered: bool) -> None:
        for _ in range(min(many, len(self.feeds[worker]))):
            answer = self.store.take(self.feeds[worker].popleft())
            if answered:
                self.workers[worker].acknowledged(answer.writer, answer.segment, answer.offset)

    @rule(worker=WORKERS)
    def feed_breaks(self, worker: int) -> None:
        self.feeds[worker].clear()
        self.workers[worker].rewind()

    @rule(worker=WORKERS, orderly=st.booleans())
    def worker_ends(self, worker: int, orderly: bool) -> None:
        if orderly:
            self.workers[worker].close()
        else:
            kill(self.workers[worker])
        self.feeds[worker].clear()
        self.slots[worker] = {}
        self.workers[worker] = self._new_worker()

    @invariant()
    def nothing_is_in_the_store_twice_or_too_early(self) -> None:
        if hasattr(self, "store"):
            assert self.store.conflicts == []
            running = {name for slots in self.slots for name in slots}
            assert not running & self.store.records.keys()

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for worker in self.workers:
            kill(worker)
        last = self._new_worker()
        last.adopt_dead()
        self.store.drain(last)
        last.close()
        assert [path.name for path in self.root.iterdir()] == [".lock"]
        shutil.rmtree(self.root)
        assert self.store.records.keys() == self.delivered.keys()
        for name, record in self.store.records.items():
            assert record.ended == ("complete" if name in self.ended else "aborted")
            assert record.completion_tokens == self.delivered[name]


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
