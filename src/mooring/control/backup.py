"""Makes a backup while the platform runs, or when it does not.

The order is what makes it complete. A request's record is in its slot, then in a segment of the journal, then in the
database, and leaves the one only when it is in the next. So the slots are read before the segments, and the journal
before the database: a record may be found twice, which ingestion sorts out by request id, and never not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from mooring import __version__
from mooring.control import archive, sealing
from mooring.control.archive import JOURNAL, KEY, PIECE_BYTES, TABLES, Draft, Manifest
from mooring.control.bootstrap import KEY_CHECK
from mooring.control.key_sealing import check_passphrase, read_key, seal_key
from mooring.control.sealing import Sealer
from mooring.settings import Settings
from mooring.store import backup as store
from mooring.store.database import database_url

SEGMENTS = "*.seg"
SLOTS = "slots"


@dataclass(frozen=True, slots=True)
class Made:
    """What was written: rows by table, files of the journal, bytes of the whole."""

    rows: dict[str, int]
    journal_files: int
    size_bytes: int


def make(settings: Settings, path: Path, passphrase: str | None) -> Made:
    """Write a backup to `path`; without a passphrase the secret key is left out. Blocking.

    Raises:
        BackupRefused: `path` exists, the passphrase is short, or there is no installation.
        DatabaseBroken: the database can't be read.
        SecretKeyBroken: `secret.key` can't be used.
        OSError: the file can't be written, or the journal not read.
    """
    if passphrase is not None:
        check_passphrase(passphrase)
    master = read_key(settings.data_dir / sealing.FILE, "Name the data directory of a Mooring with --data-dir.")
    sealer = Sealer(master)
    with archive.writing(path) as draft:
        copy_journal(draft, settings.journal_dir)
        journal_files = len(draft.members)
        with store.reading(database_url(settings.data_dir, settings.database_url)) as source:
            _require_same_key(source, sealer)
            rows = {name: draft.add(f"{TABLES}{name}.jsonl", source.lines(name)) - 1 for name in source.names}
            revision = source.revision
        if passphrase is not None:
            draft.add(KEY, [seal_key(master, passphrase)])
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        has_key = passphrase is not None
        draft.finish(
            Manifest(archive.FORMAT, __version__, revision, made_at, rows, has_key, dict(draft.members)), sealer
        )
    return Made(rows, journal_files, path.stat().st_size)


def _require_same_key(source: store.Source, sealer: Sealer) -> None:
    known = source.find_fact(KEY_CHECK)
    if known is not None and known != sealer.check:
        raise sealing.SecretKeyBroken(
            f"{sealing.FILE} in the data directory is not the one this database was made with;"
            " a backup with it could not be used."
        )


def copy_journal(draft: Draft, root: Path) -> None:
    """Copy what the gateways' journals hold at this moment; they are not stopped.

    Raises:
        OSError: a file can't be read.
    """
    for folder in sorted(_listed(root, "*")):
        if folder.is_dir():
            _copy_writer(draft, folder)


def _copy_writer(draft: Draft, folder: Path) -> None:
    """Copy one writer: slots read first, segments, then the slots unless they were meanwhile made into a segment."""
    slots = folder / SLOTS
    found = _open_if_there(slots)
    open_requests = b"" if found is None else b"".join(_pieces(found))
    copied: set[str] = set()
    _copy_segments(draft, folder, copied)
    if open_requests and slots.exists():
        draft.add(_member(slots), [open_requests])
    else:
        _copy_segments(draft, folder, copied)


def _copy_segments(draft: Draft, folder: Path, copied: set[str]) -> None:
    for path in sorted(_listed(folder, SEGMENTS)):
        if path.name in copied:
            continue
        copied.add(path.name)
        found = _open_if_there(path)
        if found is not None:
            draft.add(_member(path), _pieces(found))


def _listed(folder: Path, pattern: str) -> Iterable[Path]:
    try:
        return list(folder.glob(pattern))
    except FileNotFoundError:  # its last record came into the database just now
        return []


def _open_if_there(path: Path) -> FileIO | None:
    try:
        return FileIO(path)
    except FileNotFoundError:
        return None


def _pieces(file: FileIO) -> Iterator[bytes]:
    """Yield a file in order, so that a record which is seen to be committed is seen whole."""
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _member(path: Path) -> str:
    return f"{JOURNAL}{path.parent.name}/{path.name}"
