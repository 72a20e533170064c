"""What the files in a snapshot's folder say: the order, how far its fetch is, what was fetched, who fetches, for whom.

order.json · progress.json · manifest.json (only when complete) · fetcher.json · fetch.log · used-by/<installation>.
All are written whole; a file that can't be read counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mooring.core.files import write_private
from mooring.core.models import FetchOrder, FetchReport, ModelFiles, ModelFormat
from mooring.core.processes import boot_id, start_time
from mooring.sources.folders import write_durably

_PROGRESS = tuple(field.name for field in fields(FetchReport) if field.name != "files")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# --- order ------------------------------------------------------------------------------------------------


def write_order(snapshot: Path, order: FetchOrder) -> None:
    """Write which order a snapshot is for."""
    write_private(snapshot / "order.json", json.dumps(asdict(order)))


def read_order(snapshot: Path) -> FetchOrder | None:
    """Return which order a snapshot is for, None if it does not say."""
    return order_from(read_json(snapshot / "order.json"))


def order_from(content: Mapping[str, Any]) -> FetchOrder | None:
    """Return the order of these fields, None if they make none."""
    try:
        return FetchOrder(**content)
    except TypeError:
        return None


# --- progress ---------------------------------------------------------------------------------------------


def write_progress(snapshot: Path, report: FetchReport) -> None:
    """Write how far a fetch is."""
    write_private(snapshot / "progress.json", json.dumps({name: getattr(report, name) for name in _PROGRESS}))


def read_progress(snapshot: Path) -> FetchReport:
    """Return how far the fetch said it is; `absent` if it has said nothing."""
    content = read_json(snapshot / "progress.json")
    try:
        return FetchReport(**{name: content[name] for name in _PROGRESS})
    except KeyError:
        return FetchReport("absent")


# --- what was fetched -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manifest:
    """A complete model in the cache."""

    revision: str  # the commit
    format: ModelFormat
    main: str  # path of the GGUF file or of the folder, "" = the top one
    weight_bytes: int
    files: tuple[tuple[str, int, str], ...]  # path, bytes, digest
    fetched_at: float  # Unix seconds


def write_manifest(snapshot: Path, order: FetchOrder, manifest: Manifest) -> None:
    """Write that a snapshot is complete. Its blobs must be on the disk."""
    write_durably(snapshot / "manifest.json", json.dumps({"order": asdict(order), **asdict(manifest)}))


def read_manifest(snapshot: Path) -> Manifest | None:
    """Return what a snapshot holds, None while it is not complete or if a file of it is gone."""
    content = read_json(snapshot / "manifest.json")
    try:
        manifest = Manifest(**{field.name: content[field.name] for field in fields(Manifest)})
        files = tuple((str(path), int(size), str(digest)) for path, size, digest in manifest.files)
        whole = all((snapshot / "files" / path).stat().st_size == size for path, size, _ in files)
    except (KeyError, TypeError, ValueError, OSError):
        return None
    return replace(manifest, files=files) if whole else None


def report_of(snapshot: Path, manifest: Manifest) -> FetchReport:
    """Return the report on a complete snapshot."""
    total = sum(size for _, size, _ in manifest.files)
    path = snapshot / "files" / manifest.main if manifest.main else snapshot / "files"
    return FetchReport(
        "complete",
        done_bytes=total,
        total_bytes=total,
        done_files=len(manifest.files),
        total_files=len(manifest.files),
        files=ModelFiles(manifest.format, path, manifest.weight_bytes, manifest.revision),
    )


# --- who fetches ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetcher:
    """The process that fetches or fetched an order; `data_lock` is the lock of the installation that started it."""

    pid: int
    start_time: int
    boot: str
    data_lock: str

    @property
    def is_of_this_boot(self) -> bool:
        """False where the pid may mean another process by now."""
        return self.boot == boot_id()


def write_fetcher(snapshot: Path, data_lock: str) -> None:
    """Write that this process fetches."""
    pid = os.getpid()
    fetcher = Fetcher(pid, start_time(pid) or 0, boot_id(), data_lock)
    write_private(snapshot / "fetcher.json", json.dumps(asdict(fetcher)))


def read_fetcher(snapshot: Path) -> Fetcher | None:
    """Return who fetches, or fetched last."""
    try:
        return Fetcher(**read_json(snapshot / "fetcher.json"))
    except TypeError:
        return None


# --- for whom ---------------------------------------------------------------------------------------------


def mark_used(snapshot: Path, data_dir: Path) -> None:
    """Note that an installation uses a snapshot, so that no other one prunes it.

    Raises:
        OSError: the snapshot is gone, or can't be written.
    """
    folder = snapshot / "used-by"
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_marked(snapshot, data_dir):
        write_private(folder / _mark(data_dir), json.dumps({"data_dir": str(data_dir)}))


def is_marked(snapshot: Path, data_dir: Path) -> bool:
    """Return whether an installation noted that it uses a snapshot."""
    return (snapshot / "used-by" / _mark(data_dir)).exists()


def other_users(snapshot: Path, data_dir: Path) -> list[str]:
    """Return the data directories of the other installations that use a snapshot; of those that still exist."""
    marks = (snapshot / "used-by").glob("[0-9a-f]*")
    users = [str(read_json(mark).get("data_dir", "")) for mark in marks if mark.name != _mark(data_dir)]
    return sorted(user for user in users if user and Path(user).is_dir())


def _mark(data_dir: Path) -> str:
    return hashlib.blake2b(os.fsencode(data_dir), digest_size=8).hexdigest()
