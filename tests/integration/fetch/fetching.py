"""What the tests of fetching share: a cache in a fresh data directory, as of a running installation."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mooring.core.files import is_held
from mooring.core.models import FetchOrder, FetchReport
from mooring.core.processes import start_time
from mooring.settings import Settings
from mooring.sources.cache import ModelCache
from mooring.sources.records import read_fetcher
from mooring.testing.hub import FakeHub

PATIENCE_S = 60.0


def random_bytes(count: int, seed: int = 1) -> bytes:
    """Return bytes that differ everywhere, the same for the same seed."""
    return random.Random(seed).randbytes(count)


async def until(condition: Callable[[], object], what: str) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        await asyncio.sleep(0.01)


class Installation:
    """A data directory whose lock is held, as by a supervisor, and its cache."""

    def __init__(self, data_dir: Path, *, model_cache: str = "", orphan_grace_s: float = 600.0) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(data_dir=data_dir, model_cache=model_cache, orphan_grace_s=orphan_grace_s)
        self.cache = ModelCache(self.settings)
        self.models = self.settings.model_cache_dir
        self._lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Let go of the lock, as when the supervisor ends."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def snapshot(self, order: FetchOrder) -> Path:
        return self.models / "snapshots" / order.key

    def log(self, order: FetchOrder) -> str:
        return (self.snapshot(order) / "fetch.log").read_text()

    async def ends(self, order: FetchOrder) -> FetchReport:
        """Wait until an order is complete or has failed, and its process has ended."""
        await until(lambda: self.cache.report(order).state in ("complete", "failed"), "the end of the fetch")
        await until(lambda: not is_held(self.snapshot(order) / "lock"), "the end of its process")
        return self.cache.report(order)

    async def fetches(self, order: FetchOrder, token: str = "") -> FetchReport:
        await self.cache.fetch(order, token)
        return await self.ends(order)

    def is_fetching(self, order: FetchOrder) -> bool:
        fetcher = read_fetcher(self.snapshot(order))
        return fetcher is not None and start_time(fetcher.pid) == fetcher.start_time

    async def kill(self, order: FetchOrder) -> None:
        """Kill the fetch process as a crash would."""
        fetcher = read_fetcher(self.snapshot(order))
        assert fetcher is not None
        os.kill(fetcher.pid, signal.SIGKILL)
        await until(lambda: not is_held(self.snapshot(order) / "lock"), "the end of the killed process")

    def bytes_on_disk(self) -> int:
        """Return what all contents take, whole ones and parts."""
        total = 0
        for folder in ("parts", "blobs"):  # in this order: a part may become a blob meanwhile
            for path in (self.models / folder).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    total += path.stat().st_blocks * 512
        return total

    def blobs(self) -> set[str]:
        return {path.name for path in (self.models / "blobs").iterdir()}

    def parts(self) -> set[str]:
        return {path.name for path in (self.models / "parts").iterdir()}


def order(hub: FakeHub, name: str = "org/model", *, source: str = "huggingface", file: str = "") -> FetchOrder:
    """Return an order that the fake hub can serve."""
    return FetchOrder(source, name, file=file, mirror=hub.url)


@contextlib.contextmanager
def fetching_is_clean(here: Installation) -> Iterator[None]:
    """See to it that a failed fetch leaves no blob, no manifest, no lock and no file half written."""
    yield
    assert here.blobs() == set()
    left = [path.name for path in here.models.rglob("*") if path.name.startswith(".") or path.name == "ballast"]
    assert left == [] and not list(here.models.rglob("manifest.json"))
    assert not any(is_held(lock) for lock in here.models.rglob("lock"))
