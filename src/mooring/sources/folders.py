"""Where things lie in the model cache, and who may touch them.

    lock                    exclusive while something is removed, shared while something is put in its place
    blobs/<digest>          the contents, each once, read-only
    parts/<digest>          a content that is still coming; locked (flock) by the process that fetches it
    parts/<digest>.json     which of its bytes are on the disk for certain
    snapshots/<key>/        one order (see `records`); its `lock` is held by its fetch process for life
    snapshots/<key>/files/  the order's files by name: relative links to the blobs, made before these are complete

A blob or part is in use as long as a link names it. The cache may be shared by several installations.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mooring.core.files import private_folder, write_private

_LOCK_PATIENCE_S = 1.0  # observers hold a lock for an instant


class Folders:
    """The paths of one cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "lock"
        self.blobs = root / "blobs"
        self.parts = root / "parts"
        self.snapshots = root / "snapshots"

    @classmethod
    def of(cls, snapshot: Path) -> Folders:
        """Return the cache that a snapshot's folder lies in."""
        return cls(snapshot.parent.parent)

    def make(self) -> None:
        """Make the folders.

        Raises:
            OSError: one can't be made, or is not ours.
        """
        for folder in (self.root, self.blobs, self.parts, self.snapshots):
            private_folder(folder)

    def snapshot(self, key: str) -> Path:
        """Return the folder of an order."""
        return self.snapshots / key

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """Keep everything from being removed meanwhile; others may add."""
        with _flock(self.lock, fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def removing(self) -> Iterator[None]:
        """Keep everybody else from adding or removing meanwhile."""
        with _flock(self.lock, fcntl.LOCK_EX):
            yield


@contextlib.contextmanager
def _flock(path: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def hold(lock: Path) -> bool:
    """Hold a lock file as long as this process lives; return False if another one does.

    Raises:
        OSError: it can't be opened.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return False
            time.sleep(0.01)
        else:
            return True  # the descriptor stays open, and with it the lock


def write_durably(path: Path, text: str) -> None:
    """Write a file (0600) that is there, old or new and whole, also after a power loss.

    Raises:
        OSError: it can't be written.
    """
    write_private(path, text)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- links ------------------------------------------------------------------------------------------------


def link_files(snapshot: Path, blobs: dict[str, str]) -> None:
    """Make `files/` hold exactly these links: path → name of the blob. Paths were judged by `is_safe_path`.

    Raises:
        OSError: they can't be made.
    """
    top = snapshot / "files"
    if linked_blobs(snapshot) != blobs:
        shutil.rmtree(top, ignore_errors=True)
    for path, blob in blobs.items():
        link = top / path
        if link.is_symlink():
            continue
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        up = "../" * (len(PurePosixPath(path).parts) + 2)
        link.symlink_to(f"{up}blobs/{blob}")


def linked_blobs(snapshot: Path) -> dict[str, str]:
    """Return path → name of the blob of every link of a snapshot."""
    top = snapshot / "files"
    found: dict[str, str] = {}
    for folder, folders, names in os.walk(top):
        for name in (*names, *folders):
            link = os.path.join(folder, name)
            if os.path.islink(link):
                found[os.path.relpath(link, top)] = os.path.basename(os.readlink(link))
    return found


def is_safe_path(path: str) -> bool:
    """Return whether a path that a hub names stays within the folder it is put in."""
    parts = path.split("/")
    usable = all(part not in ("", ".", "..") and len(part.encode(errors="replace")) <= 255 for part in parts)
    return usable and path.isprintable() and "\\" not in path
