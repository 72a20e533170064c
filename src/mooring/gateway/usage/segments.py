"""The journal's files: segments of usage records. One worker writes a segment, any worker may read it.

A segment is a header and records, each on an 8-byte boundary:

    commit u32 | length u32 | crc32 u32 | payload (core.usage.encode_record), padded

The commit word is written last and the rest of the file is zero, so a reader stops at the first word that isn't
COMMIT: a record cut off by a death is never seen. A record whose checksum is wrong is skipped and counted. The room
is reserved when the file is made: a hole written through a mapping on a full disk would be SIGBUS.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from mooring.core.snapshot import JournalPush

LAYOUT = 1
READABLE = (1,)  # this layout and, once there is one, the layout before it
MAGIC = b"MOORJRNL"
HEADER_BYTES = 64
COMMIT = 0x434F4D54
FRAME_BYTES = 12
MAX_PAYLOAD = 4096  # far above any record; a longer one is damage
RECORD_ROOM = 768  # most bytes a record takes in the file; reserved for every open slot
READ_BYTES = 16 << 10  # least that is read at once: more than the longest record

FRAME = struct.Struct("<II")  # length, crc32; stands behind the commit word
_WHOLE_FRAME = struct.Struct("<III")
_HEADER = struct.Struct("<8sII")
_LENGTH = struct.Struct(">I")
_log = logging.getLogger("mooring.gateway.usage.journal")


class UnknownLayoutError(ValueError):
    """A journal file was written by another release than this one or the one before."""


class _OnlyId(msgspec.Struct, array_like=True, gc=False):
    request_id: str


_decode_id = msgspec.msgpack.Decoder(_OnlyId).decode


def preallocate(path: Path, size: int) -> int:
    """Make a file of `size` bytes that are reserved on the disk and read as zero; return its descriptor.

    Raises:
        OSError: it can't be made; nothing is left behind.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def pack_header(magic: bytes, number: int = 0) -> bytes:
    """Return the first bytes of a journal file: magic, layout, number."""
    return _HEADER.pack(magic, LAYOUT, number)


def read_header(data: bytes, magic: bytes) -> bool:
    """Return whether `data` starts with our header; False when its writer died before it was written.

    Raises:
        UnknownLayoutError: this release can't read the file.
    """
    if len(data) < _HEADER.size:
        return False
    found, layout, _ = _HEADER.unpack_from(data)
    if found != magic:
        return False
    if layout not in READABLE:
        raise UnknownLayoutError(f"journal layout {layout}; this release reads {READABLE}")
    return True


def segment_path(folder: Path, number: int) -> Path:
    """Return where segment `number` of a writer lies."""
    return folder / f"{number:010d}.seg"


def pack_record(payload: bytes) -> bytes:
    """Return a whole record as it stands in a segment."""
    padding = bytes(-(FRAME_BYTES + len(payload)) & 7)
    return _WHOLE_FRAME.pack(COMMIT, len(payload), crc32(payload)) + payload + padding


class LiveSegment:
    """A segment that is being written: mapped, its room reserved.

    Attributes:
        position: where the next record goes.
        commits: the file as 32-bit words, for the one store that commits a record.
    """

    __slots__ = ("area", "commits", "descriptor", "number", "path", "position", "size")

    def __init__(self, folder: Path, number: int, size: int) -> None:
        self.path = segment_path(folder, number)
        self.number = number
        self.size = size
        self.position = HEADER_BYTES
        self.descriptor = preallocate(self.path, size)
        try:
            self.area = mmap.mmap(self.descriptor, size)
        except OSError:
            os.close(self.descriptor)
            self.path.unlink()
            raise
        self.commits = memoryview(self.area).cast("I")
        header = pack_header(MAGIC, number)
        self.area[: len(header)] = header

    def close(self) -> None:
        """Let go of the mapping and the descriptor; the file stays."""
        self.commits.release()
        self.area.close()
        os.close(self.descriptor)


class Parsed(NamedTuple):
    """What `parse_records` found.

    Attributes:
        payloads: the encoded records.
        consumed: bytes of the chunk they take, with damaged ones.
        damaged: records skipped because of a wrong checksum.
        ended: no record can follow; False when the chunk ended first.
    """

    payloads: list[bytes]
    consumed: int
    damaged: int
    ended: bool


def parse_records(chunk: bytes, left: int) -> Parsed:
    """Read the committed records at the start of `chunk`, of which the segment has `left` bytes."""
    payloads: list[bytes] = []
    at = damaged = 0
    size = len(chunk)
    while at + FRAME_BYTES <= size:
        commit, length, checksum = _WHOLE_FRAME.unpack_from(chunk, at)
        stop = at + FRAME_BYTES + length
        if commit != COMMIT or not 0 < length <= MAX_PAYLOAD or stop > left:
            return Parsed(payloads, at, damaged, True)
        padded = min((stop + 7) & ~7, left)
        if padded > size:
            break
        payload = chunk[at + FRAME_BYTES : stop]
        if crc32(payload) == checksum:
            payloads.append(payload)
        else:
            damaged += 1
        at = padded
    return Parsed(payloads, at, damaged, left - at < FRAME_BYTES)


@dataclass(slots=True)
class StoredSegment:
    """The reading side of a segment, and how far its records have come on their way into the store.

    Attributes:
        end: no record stands at or behind it, as far as is known.
        sent: everything before was pushed; acknowledged: everything before is in the store.
        sealed: nothing is added any more.
    """

    path: Path
    number: int
    end: int
    sealed: bool
    sent: int = HEADER_BYTES
    acknowledged: int = HEADER_BYTES

    @property
    def finished(self) -> bool:
        """Whether the store holds all that will ever stand here."""
        return self.sealed and self.acknowledged >= self.end

    def read(self, start: int, max_bytes: int) -> Parsed:
        """Return records from `start` on, about `max_bytes`.

        Raises:
            OSError: the file can't be read.
        """
        left = self.end - start
        wanted = min(left, max(max_bytes, READ_BYTES))
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            chunk = os.pread(descriptor, wanted, start)
        finally:
            os.close(descriptor)
        return parse_records(chunk, left if len(chunk) == wanted else len(chunk))

    def next_push(self, writer: str, max_bytes: int) -> JournalPush | None:
        """Return the next records to push and count them as sent; None when there is none now."""
        start = self.sent
        if start >= self.end:
            return None
        try:
            parsed = self.read(start, max_bytes)
        except OSError as error:
            _log.error("journal: %s can't be read: %s", self.path, error)
            return None
        if parsed.damaged:
            _log.error("journal: %d damaged records skipped in %s", parsed.damaged, self.path)
        self.sent = start + parsed.consumed
        if parsed.ended and self.sealed:
            self.end = self.sent
        if not parsed.consumed:
            return None
        pieces = [piece for payload in parsed.payloads for piece in (_LENGTH.pack(len(payload)), payload)]
        return JournalPush(writer, self.number, self.sent, start, b"".join(pieces))

    def note_acknowledged(self, offset: int) -> None:
        """Take over the store's cursor. One that went back, of a restored database, makes us push again from there."""
        offset = max(HEADER_BYTES, min(offset, self.end))
        self.sent = offset if offset < self.acknowledged else max(self.sent, offset)
        self.acknowledged = offset

    def request_ids(self) -> set[str]:
        """Return the ids of all committed records.

        Raises:
            OSError: the file can't be read.
        """
        found: set[str] = set()
        start, ended = HEADER_BYTES, False
        while not ended:
            parsed = self.read(start, 1 << 20)
            found.update(_decode_id(payload).request_id for payload in parsed.payloads)
            start += parsed.consumed
            ended = parsed.ended
        return found


def open_stored(path: Path) -> StoredSegment | None:
    """Return the reading side of a dead writer's segment, None when it holds no record.

    Raises:
        OSError: it can't be read.
        UnknownLayoutError: another release wrote it.
    """
    with path.open("rb", buffering=0) as file:
        start = file.read(HEADER_BYTES + 4)
        size = os.fstat(file.fileno()).st_size
    if not read_header(start, MAGIC) or not any(start[HEADER_BYTES:]):
        return None
    return StoredSegment(path, int(path.stem), size, sealed=True)


@dataclass(slots=True)
class Backlog:
    """One writer's segments that aren't wholly in the store, oldest first; `lock` is the flock on its folder."""

    writer: str
    folder: Path
    lock: int
    segments: list[StoredSegment] = field(default_factory=list[StoredSegment])

    @property
    def flying(self) -> int:
        """Bytes pushed and not yet acknowledged."""
        return sum(segment.sent - segment.acknowledged for segment in self.segments)

    @property
    def unacknowledged(self) -> bool:
        """Whether the store lacks something."""
        return any(segment.acknowledged < segment.end for segment in self.segments)

    def rewind(self) -> None:
        """Push again what isn't acknowledged."""
        for segment in self.segments:
            segment.sent = segment.acknowledged

    def acknowledged(self, number: int, offset: int) -> None:
        """Take over the store's cursor of one segment; unknown segments are ignored."""
        for segment in self.segments:
            if segment.number == number:
                segment.note_acknowledged(offset)
        self.drop_finished()

    def drop_finished(self) -> None:
        """Unlink the segments that are wholly in the store."""
        if any(segment.finished for segment in self.segments):
            for segment in self.segments:
                if segment.finished:
                    _unlink(segment.path)
            self.segments = [segment for segment in self.segments if not segment.finished]

    def remove_folder(self) -> None:
        """Remove the folder of a writer with nothing left, lock last, then let the lock go."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == "lock"):
            _unlink(path)
        try:
            self.folder.rmdir()
        except FileNotFoundError:  # a sibling found it without its lock and was quicker
            pass
        except OSError as error:
            _log.error("journal: %s can't be removed: %s", self.folder, error)
        self.release()

    def release(self) -> None:
        """Let the lock go: the next worker that looks takes the writer over."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def _unlink(path: Path) -> None:
    """Remove a file; one that stays is pushed again by the next start, and its records are dropped as known."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.error("journal: %s can't be removed: %s", path, error)
