"""Removing models from the cache, and the contents that no model links to any more.

Everything happens under the cache's exclusive lock: nobody begins a fetch, links a file or completes one meanwhile.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from mooring.core.files import is_held
from mooring.core.models import Pruned
from mooring.sources.folders import Folders, linked_blobs
from mooring.sources.records import other_users, read_manifest

_REMOVED = ".removed-"
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system


def prune(
    folders: Folders, data_dir: Path, keep: frozenset[str], *, older_than_s: float = 0, dry_run: bool = False
) -> Pruned:
    """Remove snapshots that are not kept, then blobs and parts that nothing links to. See `ModelCache.prune`.

    Raises:
        OSError: something can't be removed.
    """
    if not folders.snapshots.is_dir():
        return Pruned((), 0)
    with folders.removing():
        snapshots = sorted(path for path in folders.snapshots.iterdir() if path.is_dir())
        before = time.time() - older_than_s
        leaving = [path for path in snapshots if path.name not in keep and _may_go(path, data_dir, before)]
        staying = [path for path in snapshots if path not in leaving]
        used = {blob for path in staying for blob in linked_blobs(path).values()}
        loose = [path for path in _contents(folders) if _blob_of(path.name) not in used]
        freed = sum(_disk_bytes(path) for path in loose)
        if not dry_run:
            for path in leaving:  # first out of the way: a reader may still write a mark into it
                path.rename(folders.root / f"{_REMOVED}{path.name}")
            for path in folders.root.glob(f"{_REMOVED}*"):
                shutil.rmtree(path)
            for path in loose:
                path.unlink(missing_ok=True)
        return Pruned(tuple(path.name for path in leaving), freed)


def _may_go(snapshot: Path, data_dir: Path, before: float) -> bool:
    if is_held(snapshot / "lock") or other_users(snapshot, data_dir):
        return False
    manifest = read_manifest(snapshot)
    return (manifest.fetched_at if manifest else snapshot.stat().st_mtime) <= before


def _contents(folders: Folders) -> list[Path]:
    return [path for folder in (folders.blobs, folders.parts) if folder.is_dir() for path in sorted(folder.iterdir())]


def _blob_of(name: str) -> str:
    """Return the blob that a file in blobs/ or parts/ belongs to: itself, its sidecar, or that one's next version."""
    return name.lstrip(".").partition(".")[0]


def _disk_bytes(path: Path) -> int:
    return path.stat().st_blocks * _BLOCK_BYTES  # a part is a sparse file
