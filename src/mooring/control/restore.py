"""Puts a backup into a fresh place: all of it or nothing, and nothing that is there is overwritten.

Everything is made ready in a folder inside the data directory; what then remains is to rename. When a step fails, the
steps before are taken back. Usage that still lies in the journal of this directory stays: the restored database lacks
it, and the next start takes it in.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mooring.control import archive, sealing
from mooring.control.archive import JOURNAL, Backup, BackupRefused, Manifest, sync_folder
from mooring.control.backup import SLOTS
from mooring.control.sealing import Sealer
from mooring.settings import Settings
from mooring.store import backup as store
from mooring.store.database import database_url, newest_revision

_DATABASE = "mooring.db"
_DATABASE_FILES = (_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm")
_STAGE = "restore-"
_JOURNAL_FILE = re.compile(r"journal/[A-Za-z0-9_][A-Za-z0-9._-]*/(slots|[0-9]+\.seg)")
_LOCK_PATIENCE_S = 1.0  # the shims of surviving engines try this lock for an instant, every few seconds

FindKey = Callable[[Backup], bytes]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the parts lie until they are moved: `stage` below `data_dir`. `own_database`: SQLite, in data_dir."""

    data_dir: Path
    stage: Path
    own_database: bool


def restore(settings: Settings, path: Path, find_key: FindKey) -> Manifest:
    """Restore the backup in `path` and return what it holds; `find_key` gives its secret key. Blocking.

    Raises:
        BackupRefused: the backup is damaged or too new, its key is wrong, or the place is not free.
        DatabaseBroken: the database can't be written, or holds something.
        OSError: the data directory can't be written, or the file not be read.
    """
    with archive.reading(path) as backup:
        _require_known_schema(backup.manifest)
        master = find_key(backup)
        backup.verify(Sealer(master))
        with _held(settings.data_dir):
            _require_free(settings, master)
            with ExitStack() as undo:
                place = _Place(settings.data_dir, _stage(settings.data_dir), not settings.database_url)
                undo.callback(shutil.rmtree, place.stage, ignore_errors=True)
                with ExitStack() as steps:
                    _carry_out(backup, place, master, settings, steps)
                    steps.pop_all()  # nothing is taken back
        return backup.manifest


def _require_known_schema(manifest: Manifest) -> None:
    if manifest.revision > newest_revision():
        raise BackupRefused(
            f"This backup was made by Mooring {manifest.mooring}, whose database is newer than this version knows.",
            next_step=f"Restore it with Mooring {manifest.mooring} or newer.",
        )


@contextmanager
def _held(data_dir: Path) -> Generator[None]:
    """Keep the platform from starting in `data_dir`, which is made if need be. What was made goes if the block fails.

    Raises:
        BackupRefused: it is in use.
        OSError: it can't be made.
    """
    with ExitStack() as undo:
        for folder in reversed([data_dir, *data_dir.parents]):
            if not folder.exists():
                folder.mkdir(mode=0o700 if folder == data_dir else 0o777)
                undo.callback(folder.rmdir)
        lock = data_dir / "lock"
        if not lock.exists():
            undo.callback(lock.unlink)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take_lock(descriptor, data_dir)
            yield
            undo.pop_all()
        finally:
            os.close(descriptor)


def _take_lock(descriptor: int, data_dir: Path) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BackupRefused(
                    f"A Mooring runs in {data_dir}.",
                    next_step="Restore into another folder with --data-dir, or stop that one.",
                ) from None
            time.sleep(0.02)


def _require_free(settings: Settings, master: bytes) -> None:
    data_dir = settings.data_dir
    if settings.database_url:
        store.require_empty(settings.database_url)
    elif any(_holds_something(data_dir / name) for name in _DATABASE_FILES):
        raise BackupRefused(
            f"{data_dir} already holds a database, and a restore overwrites nothing.",
            next_step=f"Choose another folder with --data-dir, or move {_DATABASE}* in it away.",
        )
    key = data_dir / sealing.FILE
    if key.exists() and key.read_bytes() != master:
        raise BackupRefused(
            f"{key} belongs to another installation.",
            next_step="Choose another folder with --data-dir, or move that file away.",
        )


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _stage(data_dir: Path) -> Path:
    for left in data_dir.glob(f"{_STAGE}*"):  # by a restore that was killed: we hold the lock, so it is over
        shutil.rmtree(left, ignore_errors=True)
    stage = data_dir / f"{_STAGE}{secrets.token_hex(4)}"
    stage.mkdir(mode=0o700)
    return stage


def _carry_out(backup: Backup, place: _Place, master: bytes, settings: Settings, undo: ExitStack) -> None:
    """Do all the steps; `undo` gets what takes them back."""
    _write(place.stage / sealing.FILE, [master])
    for name in backup.journal():
        _unpack_journal(backup, name, place.stage)
    url = database_url(place.stage, "") if place.own_database else settings.database_url
    with store.writing(url) as target:
        target.create(backup.manifest.revision)
        for table in sorted(backup.manifest.tables):
            target.load(table, backup.lines(table))
        target.finish()
        _publish_files(place, undo)  # before the commit, behind which there is no way back
    if place.own_database:
        _publish_database(place, undo)
    sync_folder(place.data_dir)


def _unpack_journal(backup: Backup, name: str, stage: Path) -> None:
    if not _JOURNAL_FILE.fullmatch(name):
        raise BackupRefused(f"This version does not know what {name} in the backup is.")
    path = stage / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    (path.parent / "lock").touch(mode=0o600)  # a writer's folder without it is taken for one that is being removed
    _write(path, backup.pieces(name))


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _publish_files(place: _Place, undo: ExitStack) -> None:
    key = place.data_dir / sealing.FILE
    if not key.exists():
        _move(place.stage / sealing.FILE, key, undo)
    staged = place.stage / JOURNAL
    if not staged.is_dir():
        return
    journal = place.data_dir / JOURNAL
    if not journal.exists():
        journal.mkdir(mode=0o700)
        undo.callback(journal.rmdir)
    for folder in sorted(staged.iterdir()):
        _publish_writer(folder, journal / folder.name, undo)
    sync_folder(journal)


def _publish_writer(folder: Path, home: Path, undo: ExitStack) -> None:
    """Move one writer's folder, or into one that is there only the segments it lacks: it knows the rest better."""
    if not home.exists():
        _move(folder, home, undo)
        return
    for path in sorted(folder.iterdir()):
        if path.name != SLOTS and not (home / path.name).exists():
            _move(path, home / path.name, undo)


def _publish_database(place: _Place, undo: ExitStack) -> None:
    if _holds_something(place.stage / f"{_DATABASE}-wal"):  # SQLite closes without a word when it can't empty it
        raise BackupRefused(
            f"The database could not be written out: the disk of {place.data_dir} is full.",
            next_step="Make room, or choose a folder on another disk with --data-dir.",
        )
    _move(place.stage / _DATABASE, place.data_dir / _DATABASE, undo)


def _move(source: Path, target: Path, undo: ExitStack) -> None:
    source.rename(target)
    undo.callback(target.rename, source)
