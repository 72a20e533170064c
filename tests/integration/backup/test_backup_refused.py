"""What a restore or a backup refuses, and what an end that comes too early leaves: nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from tests.integration.backup.conftest import MakeInstallation
from tests.integration.backup.installations import (
    PASSPHRASE,
    check_same,
    install,
    rows_of,
    tree,
    url_of,
    with_passphrase,
)

import mooring
from mooring.control import archive, sealing
from mooring.control.archive import BackupRefused
from mooring.control.backup import make
from mooring.control.restore import restore
from mooring.gateway.usage.journal import Journal
from mooring.settings import Settings
from mooring.store.database import DatabaseBroken, connected, migrate
from mooring.testing.journals import kill, slot_head, usage_record

# --- refusals


def test_a_wrong_passphrase_is_refused(backup: Path, elsewhere: Settings) -> None:
    with pytest.raises(BackupRefused, match="passphrase is not the one"):
        restore(elsewhere, backup, with_passphrase("wrong horse battery"))
    assert not elsewhere.data_dir.exists()


def test_a_short_passphrase_is_refused(installation: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="fewer than 8"):
        make(installation, tmp_path / "backup.zip", "short")
    assert not (tmp_path / "backup.zip").exists()


def test_an_existing_file_is_not_overwritten(installation: Settings, backup: Path) -> None:
    before = backup.read_bytes()
    with pytest.raises(BackupRefused, match="exists already"):
        make(installation, backup, PASSPHRASE)
    assert backup.read_bytes() == before


def test_a_directory_without_an_installation_is_refused_and_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackupRefused, match=r"secret\.key"):
        make(Settings(data_dir=tmp_path / "empty"), tmp_path / "backup.zip", PASSPHRASE)
    assert tree(tmp_path) == {"empty": None}


def test_a_key_of_another_installation_makes_no_backup(installation: Settings, tmp_path: Path) -> None:
    (installation.data_dir / sealing.FILE).write_bytes(bytes(32))
    with pytest.raises(sealing.SecretKeyBroken, match="not the one this database"):
        make(installation, tmp_path / "backup.zip", PASSPHRASE)
    assert not list(tmp_path.glob("*.zip*")) + list(tmp_path.glob(".*.part"))


def test_a_directory_in_use_is_refused(backup: Path, elsewhere: Settings) -> None:
    elsewhere.data_dir.mkdir()
    with (elsewhere.data_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BackupRefused, match="A Mooring runs in"):
            restore(elsewhere, backup, with_passphrase())
    assert tree(elsewhere.data_dir) == {"lock": b""}


def test_a_directory_with_a_database_is_refused_and_stays_as_it_is(installation: Settings, backup: Path) -> None:
    before = tree(installation.data_dir)
    with pytest.raises(BackupRefused, match="overwrites nothing") as refused:
        restore(installation, backup, with_passphrase())
    assert "--data-dir" in refused.value.next_step
    assert tree(installation.data_dir) == before


def test_another_installations_key_is_not_overwritten(backup: Path, elsewhere: Settings) -> None:
    elsewhere.data_dir.mkdir()
    sealing.load(elsewhere.data_dir)
    before = tree(elsewhere.data_dir)
    with pytest.raises(BackupRefused, match="another installation"):
        restore(elsewhere, backup, with_passphrase())
    assert tree(elsewhere.data_dir) == before


def test_a_postgres_that_holds_a_mooring_is_refused(backup: Path, postgres_url: str, tmp_path: Path) -> None:
    migrate(postgres_url)
    new = Settings(data_dir=tmp_path / "new", database_url=postgres_url)
    with pytest.raises(DatabaseBroken, match="overwrites nothing"):
        restore(new, backup, with_passphrase())
    assert not new.data_dir.exists()


def test_a_restore_into_postgres_that_fails_leaves_nothing(backup: Path, postgres_url: str, tmp_path: Path) -> None:
    new = Settings(data_dir=tmp_path / "new", database_url=postgres_url)
    new.data_dir.mkdir()
    (new.data_dir / "journal").write_text("in the way")  # the files can't be moved to their places, at the very end
    old = install(Settings(data_dir=tmp_path / "old2"))
    one = Journal(old.journal_dir, segment_bytes=8192, slots=8)
    one.finish(one.open_slot(slot_head("a")), usage_record("a"))
    make(old, tmp_path / "with-journal.zip", PASSPHRASE)
    kill(one)
    with pytest.raises(OSError):
        restore(new, tmp_path / "with-journal.zip", with_passphrase())
    assert tree(new.data_dir) == {"journal": b"in the way"}
    with connected(postgres_url, reads=True) as connection:
        assert sa.inspect(connection).get_table_names() == []


@pytest.mark.parametrize(("field", "value"), [("format", 99), ("revision", "9999")])
def test_a_backup_of_a_newer_version_is_refused(
    field: str, value: Any, installation: Settings, backup: Path, tmp_path: Path, elsewhere: Settings
) -> None:
    newer = tmp_path / "newer.zip"
    sealer = sealing.load(installation.data_dir)
    with zipfile.ZipFile(backup) as held, archive.writing(newer) as draft:
        for name in held.namelist():
            if name not in (archive.MANIFEST, archive.SEAL):
                draft.add(name, [held.read(name)])
        manifest = msgspec.json.decode(held.read(archive.MANIFEST), type=archive.Manifest)
        draft.finish(msgspec.structs.replace(manifest, **{field: value}), sealer)
    with pytest.raises(BackupRefused, match="made by Mooring"):
        restore(elsewhere, newer, with_passphrase())
    assert not elsewhere.data_dir.exists()


# --- damage


def test_a_truncated_file_is_refused_wherever_it_ends(backup: Path, tmp_path: Path, elsewhere: Settings) -> None:
    data = backup.read_bytes()
    lengths = [0, 1, 30, *range(100, len(data), len(data) // 40), len(data) - 22, len(data) - 1]
    for length in lengths:
        cut = tmp_path / "cut.zip"
        cut.write_bytes(data[:length])
        with pytest.raises(BackupRefused, match="damaged"):
            restore(elsewhere, cut, with_passphrase())
        assert not elsewhere.data_dir.exists()


def test_a_flipped_bit_is_noticed_or_changes_nothing(installation: Settings, backup: Path, tmp_path: Path) -> None:
    """Not every bit of a zip says something; one that does is never taken for data."""
    data, numbers = backup.read_bytes(), random.Random(20261125)
    master = (installation.data_dir / sealing.FILE).read_bytes()
    directory = data.index(b"PK\x01\x02")  # where names, sizes and places stand
    places = [numbers.randrange(len(data)) for _ in range(80)] + list(range(directory, len(data), 17))
    before, refused = rows_of(installation), 0
    for number, place in enumerate(places):
        bent = bytearray(data)
        bent[place] ^= 1 << numbers.randrange(8)
        path = tmp_path / "bent.zip"
        path.write_bytes(bent)
        new = Settings(data_dir=tmp_path / f"new{number}")
        try:
            restore(new, path, lambda held: master)
        except BackupRefused:
            refused += 1
            assert not new.data_dir.exists()
        else:
            check_same(before, rows_of(new))
            shutil.rmtree(new.data_dir)
    assert refused > 80


def test_somebody_without_the_secret_key_can_alter_nothing(backup: Path, tmp_path: Path, elsewhere: Settings) -> None:
    forged = tmp_path / "forged.zip"
    with zipfile.ZipFile(backup) as held, archive.writing(forged) as draft:
        for name in held.namelist():
            if name not in (archive.MANIFEST, archive.SEAL):
                data = held.read(name)
                draft.add(name, [data.replace(b"administrator", b"member") if "users" in name else data])
        manifest = msgspec.json.decode(held.read(archive.MANIFEST), type=archive.Manifest)
        changed = msgspec.structs.replace(manifest, members=dict(draft.members))
        draft.finish(changed, sealing.Sealer(bytes(32)))
    with pytest.raises(BackupRefused, match="was altered"):
        restore(elsewhere, forged, with_passphrase())


# --- an end that comes too early


@contextlib.contextmanager
def no_large_files(size: int) -> Iterator[None]:
    """Refuse files above `size` bytes to this process: a disk without room, that needs no rights to make."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_backup(installation: Settings, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    open_already = connected(
        url_of(installation), reads=True
    )  # as the platform does: the database's own files are there
    with open_already, pytest.raises(OSError), no_large_files(8192):
        make(installation, tmp_path / "disk" / "backup.zip", PASSPHRASE)
    assert tree(tmp_path / "disk") == {}


@pytest.mark.parametrize("size", [16, 4096, 100_000])
def test_a_full_disk_leaves_no_half_restored_directory(size: int, backup: Path, elsewhere: Settings) -> None:
    with pytest.raises((OSError, DatabaseBroken)), no_large_files(size):
        restore(elsewhere, backup, with_passphrase())
    assert not elsewhere.data_dir.exists()
    restore(elsewhere, backup, with_passphrase())
    assert len(rows_of(elsewhere)["usage_requests"]) == 1200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_backup_that_is_stopped_leaves_nothing(
    number: signal.Signals, tmp_path: Path, copy_installation: MakeInstallation
) -> None:
    old = copy_installation(60_000)
    (tmp_path / "disk").mkdir()
    command = [sys.executable, "-m", "mooring", "backup", "--data-dir", str(old.data_dir), "--passphrase", PASSPHRASE]
    process = subprocess.Popen(
        [*command, str(tmp_path / "disk" / "backup.zip")],
        env={**os.environ, "PYTHONPATH": str(Path(mooring.__file__).parents[1])},
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not list((tmp_path / "disk").iterdir()):
        pass
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert tree(tmp_path / "disk") == {}


def test_what_a_killed_restore_left_does_not_hinder_the_next(
    installation: Settings, backup: Path, elsewhere: Settings
) -> None:
    left = elsewhere.data_dir / "restore-0badf00d"
    left.mkdir(parents=True)
    (left / "mooring.db").write_bytes(b"half")
    shutil.copy(installation.data_dir / sealing.FILE, elsewhere.data_dir)  # killed between two renames
    restore(elsewhere, backup, with_passphrase())
    assert not left.exists()
    check_same(rows_of(installation), rows_of(elsewhere))
