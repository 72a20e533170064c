"""The models from hubs on this machine: what is there, what is coming, and what may go.

`<model_cache>` is `<data_dir>/models`, or a folder that several installations share. All state is in its files, so two
of these see the same; `folders` says where things lie. Each order is fetched by a process of its own
(`sources/fetch`), which goes on when control dies and ends some time after the last supervisor.

What is complete stays as it is: a branch that has moved on at the hub does not change a fetched model.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from mooring.core.errors import Unavailable
from mooring.core.files import is_held
from mooring.core.models import CacheEntry, FetchOrder, FetchReport, Pruned
from mooring.core.processes import send_signal, wait_for_end
from mooring.settings import Settings, network_environment
from mooring.sources.fetch.parts import present_bytes
from mooring.sources.folders import Folders, linked_blobs
from mooring.sources.pruning import prune
from mooring.sources.records import (
    mark_used,
    read_fetcher,
    read_manifest,
    read_order,
    read_progress,
    report_of,
)

_START_TIMEOUT_S = 30.0
_STOP_PATIENCE_S = 5.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_FETCH = (sys.executable, "-P", "-m", "mooring.sources.fetch")
_LIVING = ("waiting", "listing", "downloading", "verifying")


class ModelCache:
    """Fetches models and keeps them."""

    def __init__(self, settings: Settings) -> None:
        self._data_dir = settings.data_dir.absolute()
        self._folders = Folders(settings.model_cache_dir.absolute())
        self._orphan_grace_s = settings.orphan_grace_s

    def report(self, order: FetchOrder) -> FetchReport:
        """Return how far an order is. Reads a few small files; whether it is fetched now is known by a lock."""
        snapshot = self._folders.snapshot(order.key)
        report = _report(snapshot)
        if report.state == "complete":
            self._mark(snapshot)
        return report

    def _mark(self, snapshot: Path) -> None:
        """Note that this installation uses a model, which another one may have fetched."""
        with contextlib.suppress(OSError):  # it may go this very moment; the next report will see that
            mark_used(snapshot, self._data_dir)

    async def fetch(self, order: FetchOrder, token: str = "") -> None:
        """Begin to fetch, or go on; nothing happens if it is complete or being fetched.

        Raises:
            Unavailable: the process could not start.
            OSError: the cache can't be written.
        """
        await asyncio.to_thread(self._start, order, token)

    def _start(self, order: FetchOrder, token: str) -> None:
        snapshot = self._folders.snapshot(order.key)
        job = {
            "order": asdict(order),
            "token": token,
            "data_lock": str(self._data_dir / "lock"),
            "orphan_grace_s": self._orphan_grace_s,
        }
        self._folders.make()
        try:
            process = subprocess.run(
                [*_FETCH, str(snapshot)],
                env=network_environment() | {"PYTHONPATH": str(_PACKAGE_ROOT)},
                cwd="/",
                input=json.dumps(job).encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_START_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"The fetch of {order.name} could not start: {type(error).__name__}.") from error
        if process.returncode != 0:
            said = process.stderr.decode(errors="replace").strip()[-500:]
            raise Unavailable(f"The fetch of {order.name} could not start: {said}")

    async def stop(self, order: FetchOrder) -> None:
        """End the fetch of an order; return when its process is gone. What has come stays."""
        await asyncio.to_thread(_stop, self._folders.snapshot(order.key))

    async def stop_all(self) -> None:
        """End every fetch that this installation started."""
        mine = [snapshot for snapshot in self._snapshots() if self._is_mine(snapshot)]
        await asyncio.gather(*(asyncio.to_thread(_stop, snapshot) for snapshot in mine))

    def _is_mine(self, snapshot: Path) -> bool:
        fetcher = read_fetcher(snapshot)
        return fetcher is not None and fetcher.data_lock == str(self._data_dir / "lock")

    def _snapshots(self) -> Iterator[Path]:
        if self._folders.snapshots.is_dir():
            yield from sorted(path for path in self._folders.snapshots.iterdir() if path.is_dir())

    async def entries(self) -> list[CacheEntry]:
        """Return what is in the cache, complete or not, the newest first."""
        return await asyncio.to_thread(self._entries)

    def _entries(self) -> list[CacheEntry]:
        found = [_entry(snapshot, order) for snapshot in self._snapshots() if (order := read_order(snapshot))]
        return sorted(found, key=lambda entry: (-entry.fetched_at, entry.order.name, entry.key))

    async def prune(self, keep: set[str], *, older_than_s: float = 0, dry_run: bool = False) -> Pruned:
        """Remove the models whose keys are not in `keep`, and contents that then nothing links to.

        What is being fetched, what another installation uses, and what was fetched less than `older_than_s` ago
        stays. With `dry_run` nothing is removed, only told.

        Raises:
            OSError: something can't be removed.
        """
        return await asyncio.to_thread(
            prune, self._folders, self._data_dir, frozenset(keep), older_than_s=older_than_s, dry_run=dry_run
        )


def _report(snapshot: Path) -> FetchReport:
    manifest = read_manifest(snapshot)
    if manifest is not None:
        return report_of(snapshot, manifest)
    held, progress = is_held(snapshot / "lock"), read_progress(snapshot)
    if held:
        return progress if progress.state in _LIVING else replace(progress, state="waiting", reason="", final=False)
    manifest = read_manifest(snapshot)  # it may have come to its end between the two looks
    if manifest is not None:
        return report_of(snapshot, manifest)
    return _interrupted(snapshot, progress)


def _interrupted(snapshot: Path, progress: FetchReport) -> FetchReport:
    """Return the report on what nobody fetches now."""
    if progress.state == "absent":
        return progress
    present = sum(present_bytes(Folders.of(snapshot), blob) for blob in linked_blobs(snapshot).values())
    progress = replace(progress, done_bytes=present, bytes_per_s=0.0)
    if progress.state == "failed":
        return progress
    return replace(progress, state="failed", reason="The download was interrupted.", final=False)


def _entry(snapshot: Path, order: FetchOrder) -> CacheEntry:
    manifest, report = read_manifest(snapshot), _report(snapshot)
    return CacheEntry(
        key=snapshot.name,
        order=order,
        revision=manifest.revision if manifest else "",
        state=report.state,
        bytes=report.done_bytes,
        files=report.total_files,
        fetched_at=manifest.fetched_at if manifest else 0.0,
    )


def _stop(snapshot: Path) -> None:
    fetcher = read_fetcher(snapshot)
    if fetcher is None or not fetcher.is_of_this_boot or not is_held(snapshot / "lock"):
        return
    if send_signal(fetcher.pid, fetcher.start_time, 15) and not wait_for_end(
        fetcher.pid, fetcher.start_time, _STOP_PATIENCE_S
    ):
        send_signal(fetcher.pid, fetcher.start_time, 9)
        wait_for_end(fetcher.pid, fetcher.start_time, _STOP_PATIENCE_S)
