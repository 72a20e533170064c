"""A content that is still coming: its bytes in a sparse file, and beside it which of them are on the disk for certain.

The sidecar is written only after fdatasync, so it never claims what a power loss could take. The part file is locked
by the process that fills it; renaming it to its blob ends that.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mooring.sources.fetch.room import disk_trouble
from mooring.sources.folders import Folders, sync_folder, write_durably
from mooring.sources.hub import HubFile
from mooring.sources.records import read_json

SEGMENT_BYTES = 64 << 20  # larger files come in several ranges at once …
MOST_SEGMENTS = 16  # … but not in more than this many
_HASHED_AT_ONCE = 1 << 20


@dataclass(slots=True)
class Segment:
    """A range of a file: bytes `start` to `position` are there, those up to `end` are wanted."""

    start: int
    position: int
    end: int
    claimed: bool = False  # a worker has it
    next_at: float = 0.0  # monotonic seconds
    tries: int = 0  # since the last byte came

    @property
    def is_done(self) -> bool:
        """Nothing of it is missing."""
        return self.position >= self.end


class Part:
    """One part file, opened and locked."""

    def __init__(self, folders: Folders, file: HubFile, descriptor: int) -> None:
        self.file = file
        self.segments = _new_segments(file.size)
        self.etag = ""
        self.done_bytes = 0  # on the disk for certain
        self._folders = folders
        self._path = folders.parts / file.blob
        self._sidecar = folders.parts / f"{file.blob}.json"
        self._descriptor = descriptor
        self._keeping = threading.Lock()  # the sidecar is written, or the file changes its role
        self._open = True
        self._load()

    @classmethod
    def open(cls, folders: Folders, file: HubFile) -> Part | None:
        """Return the part file of a content, made if need be; None while another process fills it.

        Raises:
            FetchFailed: the disk is full.
            OSError: it can't be opened.
        """
        path = folders.parts / file.blob
        with disk_trouble(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_same(descriptor, path):  # it became a blob between open and lock
                raise BlockingIOError
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(folders, file, descriptor)

    def _load(self) -> None:
        content = read_json(self._sidecar)
        segments = _read_segments(content, self.file.size)
        there = os.fstat(self._descriptor).st_size
        begun = [segment.position for segment in segments if segment.position > segment.start]
        if begun and max(begun) <= there:
            self.segments = segments
            self.etag = str(content.get("etag", ""))
            self.done_bytes = _sum(segments)

    @property
    def is_whole(self) -> bool:
        """All bytes have come."""
        return all(segment.is_done for segment in self.segments)

    def write(self, offset: int, data: memoryview) -> None:
        """Put bytes in their place.

        Raises:
            FetchFailed: the disk is full.
            OSError: it can't be written.
        """
        with disk_trouble(self._path):
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                offset, data = offset + written, data[written:]

    def keep(self) -> None:
        """Make what has come survive a power loss, and note it.

        Raises:
            FetchFailed: the disk is full.
            OSError: it can't be written.
        """
        with self._keeping, disk_trouble(self._path):
            state = [(segment.start, segment.position, segment.end) for segment in self.segments]
            done = sum(position - start for start, position, _ in state)
            if not self._open or done == self.done_bytes:
                return
            os.fdatasync(self._descriptor)
            content = {"size": self.file.size, "etag": self.etag, "segments": state}
            write_durably(self._sidecar, json.dumps(content))
            self.done_bytes = done

    def restart(self) -> None:
        """Forget what has come: it was wrong."""
        with self._keeping:
            self._sidecar.unlink(missing_ok=True)
            os.ftruncate(self._descriptor, 0)
            self.segments, self.etag, self.done_bytes = _new_segments(self.file.size), "", 0

    def digest(self) -> str:
        """Return the digest of what has come, in the form of the one that the hub told."""
        kind = self.file.digest.partition(":")[0]
        told = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % self.file.size)
        buffer = memoryview(bytearray(_HASHED_AT_ONCE))
        offset = 0
        while count := os.preadv(self._descriptor, [buffer], offset):
            told.update(buffer[:count])
            offset += count
        return f"{kind}:{told.hexdigest()}"

    def finish(self) -> None:
        """Turn the part into its blob.

        Raises:
            FetchFailed: the disk is full.
            OSError: it can't be done.
        """
        with self._keeping, disk_trouble(self._path):
            os.fsync(self._descriptor)
            os.fchmod(self._descriptor, 0o400)
            os.replace(self._path, self._folders.blobs / self.file.blob)
            sync_folder(self._folders.blobs)
            self._sidecar.unlink(missing_ok=True)
            self._open = False
            os.close(self._descriptor)

    def discard(self) -> None:
        """Remove the part: what has come is of no use. Its descriptor stays, lest a late writer meet another file."""
        with self._keeping:
            self._sidecar.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
            self._open = False


def present_bytes(folders: Folders, blob: str) -> int:
    """Return how many bytes of a content are on the disk for certain, whoever fetches it."""
    with contextlib.suppress(OSError):
        return (folders.blobs / blob).stat().st_size
    content = read_json(folders.parts / f"{blob}.json")
    return _sum(_read_segments(content, content.get("size", 0)))


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _new_segments(size: int) -> list[Segment]:
    step = max(SEGMENT_BYTES, -(-size // MOST_SEGMENTS))
    return [Segment(start, start, min(start + step, size)) for start in range(0, size, step)]


def _read_segments(content: dict[str, Any], size: int) -> list[Segment]:
    """Return the segments a sidecar tells, none unless they cover the whole size in order."""
    try:
        found = [Segment(int(start), int(position), int(end)) for start, position, end in content["segments"]]
    except (KeyError, TypeError, ValueError):
        return []
    edges = [0, *(segment.end for segment in found)]
    fits = all(
        before == segment.start <= segment.position <= segment.end
        for before, segment in zip(edges, found, strict=False)
    )
    return found if fits and edges[-1] == size else []


def _sum(segments: list[Segment]) -> int:
    return sum(segment.position - segment.start for segment in segments)
