"""What dead workers left: their open slots become `aborted` records, their segments are pushed by the living.

A folder belongs to whoever holds the flock on its file `lock`: its writer for life, then the sibling that was first.
The records of all open slots are written to one file that is renamed into a segment when it is whole and on the disk;
only then the slots go. Whoever is killed on the way leaves the work to the next, who finds either the segment, and
knows its ids, or only the slots.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mooring.core.usage import UsageRecord, encode_record
from mooring.gateway.usage.segments import (
    HEADER_BYTES,
    MAGIC,
    Backlog,
    StoredSegment,
    open_stored,
    pack_header,
    pack_record,
    segment_path,
)
from mooring.gateway.usage.slots import OpenSlot, read_open_slots

RECOVERED = 1 << 30  # number of the segment of aborted requests: no writer comes so far, so no cursor stands in it
_log = logging.getLogger("mooring.gateway.usage.journal")


@contextmanager
def folders_held(root: Path) -> Generator[None]:
    """Keep siblings from making or taking over folders for a moment: a new one isn't locked at once."""
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> int:
    """Make a writer's folder and return the descriptor that holds its lock; made before by us, it is used again.

    Raises:
        OSError: it can't be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folders_held(folder.parent):
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def adopt_writers(root: Path, skip: Collection[str]) -> tuple[list[Backlog], dict[str, Exception]]:
    """Take over every dead writer under `root` but those in `skip`; blocking.

    Returns what was taken over, and by name the writers that can't be now (no room, another release's files).

    Raises:
        OSError: `root` can't be read.
    """
    with folders_held(root):
        folders = [Path(entry) for entry in os.scandir(root) if entry.is_dir() and entry.name not in skip]
        held = [(folder, lock) for folder in folders if (lock := _try_lock(folder)) is not None]
    adopted: list[Backlog] = []
    failed: dict[str, Exception] = {}
    for folder, lock in held:
        try:
            adopted.append(_recover(folder, lock))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            failed[folder.name] = error
            os.close(lock)
    return adopted, failed


def _try_lock(folder: Path) -> int | None:
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:  # its maker or its remover died between two steps: there is nothing in it
        _remove_empty(folder)
        return None
    except OSError as error:
        _log.error("journal: %s can't be looked at: %s", folder, error)
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not isinstance(error, BlockingIOError):  # else its writer lives
            _log.error("journal: %s can't be locked: %s", folder, error)
        os.close(descriptor)
        return None
    if os.fstat(descriptor).st_nlink == 0:  # its holder removed the folder just now
        os.close(descriptor)
        return None
    return descriptor


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        _log.debug("journal: %s", error)


def _recover(folder: Path, lock: int) -> Backlog:
    (folder / "recovered").unlink(missing_ok=True)
    segments: list[StoredSegment] = []
    for path in sorted(folder.glob("*.seg")):
        segment = open_stored(path)
        if segment is None:
            path.unlink()
        else:
            segments.append(segment)
    slots, alive_at = read_open_slots(folder / "slots")
    if slots:
        known: set[str] = set()
        for segment in segments:
            known |= segment.request_ids()
        records = [aborted_record(slot, alive_at) for slot in slots if slot.head.request_id not in known]
        if records:
            segments.append(_write_recovered(folder, records))
            _log.warning("journal: %d requests of dead gateway %s recorded as aborted", len(records), folder.name)
    (folder / "slots").unlink(missing_ok=True)
    return Backlog(folder.name, folder, lock, segments)


def aborted_record(slot: OpenSlot, alive_at: float) -> UsageRecord:
    """Return the record of a request whose worker died; nothing is charged when nothing was delivered."""
    head, tokens = slot
    return UsageRecord(
        head.request_id,
        head.endpoint_id,
        head.service_id,
        head.replica_id,
        head.key_id,
        head.project,
        head.dialect,
        head.operation,
        200 if tokens else 499,
        "aborted",
        True,
        head.prompt_tokens if tokens else 0,
        tokens,
        0,
        0,
        head.started_at,
        0.0,
        max(0.0, alive_at - head.started_at) * 1000,
    )


def _write_recovered(folder: Path, records: list[UsageRecord]) -> StoredSegment:
    header = pack_header(MAGIC, RECOVERED).ljust(HEADER_BYTES, b"\0")
    data = header + b"".join(pack_record(encode_record(record)) for record in records)
    draft, path = folder / "recovered", segment_path(folder, RECOVERED)
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    draft.rename(path)
    sync_folder(folder)
    return StoredSegment(path, RECOVERED, len(data), sealed=True)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk; blocking."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
