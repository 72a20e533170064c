"""Room on the disk: enough before a fetch begins, some left while it goes on, and a word when there is none."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mooring.sources.folders import Folders
from mooring.sources.hub import FetchFailed

RESERVE_BYTES = 512 << 20  # left free for everything else that writes to this disk
LEAST_BYTES = 128 << 20  # with less, a fetch that goes on ends: usage journals need room too
FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


def refuse_full_disk(folders: Folders, missing: int) -> None:
    """Look whether `missing` bytes have room.

    Raises:
        FetchFailed: they have not.
    """
    free = _free_bytes(folders)
    if missing and missing + RESERVE_BYTES > free:
        raise _full(
            f"The disk of {folders.root} has {gib(free)} free; {gib(missing)} are still to come, and"
            f" {gib(RESERVE_BYTES)} must stay free."
        )


def refuse_low_disk(folders: Folders) -> None:
    """Look whether the disk has run low meanwhile.

    Raises:
        FetchFailed: it has.
    """
    free = _free_bytes(folders)
    if free < LEAST_BYTES:
        raise _full(f"The disk of {folders.root} has only {gib(free)} free; the download stopped.")


@contextlib.contextmanager
def disk_trouble(path: Path) -> Iterator[None]:
    """Turn a full disk into a refusal that says so; other faults of the disk stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _full(f"The disk of {path.parent} is full.") from error


def gib(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"


def _free_bytes(folders: Folders) -> int:
    disk = os.statvfs(folders.parts)
    return disk.f_bavail * disk.f_frsize


def _full(message: str) -> FetchFailed:
    return FetchFailed(
        message,
        "Free space there, or set MOORING_MODEL_CACHE to a folder on a larger disk; what has come is kept.",
        code="disk_full",
        final=False,
    )
