"""Backup and restore on real databases: everything comes back, usage exactly once."""

from __future__ import annotations

import asyncio
import threading
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.integration.backup.installations import (
    ENGINE_KEY,
    NOW,
    PASSPHRASE,
    SECRET,
    check_same,
    install,
    rows_of,
    tree,
    url_of,
    with_passphrase,
)

from mooring.control import admin_file, archive, bootstrap, sealing
from mooring.control.archive import BackupRefused
from mooring.control.backup import copy_journal, make
from mooring.control.restore import restore
from mooring.core.ids import key_digest
from mooring.gateway.usage.journal import Journal
from mooring.reconcile.usage import Ingestion
from mooring.settings import Settings
from mooring.store import database, tables
from mooring.store.backup import LEFT_OUT
from mooring.store.database import Database, connected, migrate
from mooring.store.keys import find_by_digest
from mooring.testing.journals import kill, slot_head, usage_record

# --- there and back


@pytest.mark.parametrize("way", ["sqlite-sqlite", "sqlite-postgres", "postgres-sqlite"])
def test_everything_comes_back(way: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("postgres_url") if "postgres" in way else ""
    source, target = (server if part == "postgres" else "" for part in way.split("-"))
    old = install(Settings(data_dir=tmp_path / "old", database_url=source))
    new = Settings(data_dir=tmp_path / "new", database_url=target)
    before, path = rows_of(old), tmp_path / "backup.zip"
    made = make(old, path, PASSPHRASE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.rows["usage_requests"] == 1200
    manifest = restore(new, path, with_passphrase())
    assert manifest.tables == {name: len(found) for name, found in before.items() if name not in LEFT_OUT}
    after = rows_of(new)
    check_same(before, after)
    states = {"kind": "ModelService", "state": "pending", "reason": "Restored from a backup."}
    with connected(url_of(new), reads=True) as connection:
        found = connection.execute(sa.select(tables.services)).one()
    assert {name: getattr(found, name) for name in states} == states


@pytest.mark.parametrize("target", ["sqlite", "postgres"])
def test_after_a_restore_rows_are_numbered_on(
    target: str, backup: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if target == "postgres" else ""
    new = Settings(data_dir=tmp_path / "new", database_url=url)
    restore(new, backup, with_passphrase())
    with connected(url_of(new)) as connection:
        highest = connection.execute(sa.select(sa.func.max(tables.events.c.id))).scalar_one()
        added = connection.execute(sa.insert(tables.events).values(at=NOW))
        assert added.inserted_primary_key == (highest + 1,)


async def test_old_keys_work_and_a_start_needs_no_admin_file(
    installation: Settings, backup: Path, elsewhere: Settings
) -> None:
    key = (admin_file.read(installation.data_dir) or {})["api_key"]
    restore(elsewhere, backup, with_passphrase())
    assert not (elsewhere.data_dir / "admin.json").exists()
    sealer = sealing.load(elsewhere.data_dir)
    db = Database(url_of(elsewhere))
    await bootstrap.start(db, sealer, elsewhere)
    async with db.read() as tx:
        assert await find_by_digest(tx, key_digest(key, sealer.pepper)) is not None
        sealed = (await tx.execute(sa.select(tables.secrets.c.sealed))).scalar_one()
        users = (await tx.execute(sa.select(sa.func.count()).select_from(tables.users))).scalar_one()
    assert sealer.unseal(sealed) == SECRET
    assert users == 1
    made = await bootstrap.reset(db, sealer, elsewhere)
    assert made["password"]
    await db.close()


def test_a_backup_of_the_first_schema_is_migrated_when_it_is_restored(tmp_path: Path, elsewhere: Settings) -> None:
    old = Settings(data_dir=tmp_path / "old")
    old.data_dir.mkdir()
    sealer = sealing.load(old.data_dir)
    with connected(url_of(old)) as connection:
        database.upgrade(connection, "0001")
        connection.execute(sa.text("INSERT INTO meta VALUES ('secret_key_check', :check)"), {"check": sealer.check})
        connection.execute(
            sa.text(
                "INSERT INTO services (id, project, name, slug, kind, spec, tags, spec_version, state, reason,"
                " progress, detail, enabled, created_at, updated_at)"
                " VALUES ('svc-1', 'default', 'one', 'one', 'ModelService',"
                " '{\"model\": {\"source\": \"builtin\"}}', '{}', 7, 'healthy', '', '{}', '{}', 1,"
                " '2026-01-02 03:04:05.000006', '2026-01-02 03:04:05')"
            )
        )
    path = tmp_path / "backup.zip"
    make(old, path, PASSPHRASE)
    with connected(url_of(old), reads=True) as connection:
        assert database.find_revision(connection) == "0001", "a backup migrates nothing"
    assert restore(elsewhere, path, with_passphrase()).revision == "0001"
    with connected(url_of(elsewhere), reads=True) as connection:
        assert database.find_revision(connection) == database.newest_revision()
        found = connection.execute(sa.select(tables.services)).one()
    assert (found.id, found.spec_version, found.good) == ("svc-1", 7, {})
    assert found.created_at == datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    assert database.newest_revision() != "0001"


def test_without_the_key_its_file_is_needed(installation: Settings, tmp_path: Path, elsewhere: Settings) -> None:
    path = tmp_path / "backup.zip"
    make(installation, path, None)
    assert archive.KEY not in zipfile.ZipFile(path).namelist()
    with pytest.raises(BackupRefused, match="secret key is not the one"):
        restore(elsewhere, path, lambda held: bytes(32))
    assert not elsewhere.data_dir.exists()
    restore(elsewhere, path, lambda held: (installation.data_dir / sealing.FILE).read_bytes())
    assert len(rows_of(elsewhere)["usage_requests"]) == 1200


def test_no_secret_stands_in_a_backup(installation: Settings, backup: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(backup) as held:
        held.extractall(tmp_path / "unpacked")
    content = b"".join(data for data in tree(tmp_path / "unpacked").values() if data)
    admin = admin_file.read(installation.data_dir) or {}
    master = (installation.data_dir / sealing.FILE).read_bytes()
    for secret in (SECRET, ENGINE_KEY.encode(), master, master.hex().encode(), PASSPHRASE.encode()):
        assert secret not in content
    for name in ("password", "api_key"):
        assert admin[name].encode() not in content
    assert b"usage_requests" in content


# --- usage


def ingest_all(settings: Settings) -> None:
    """Start as a gateway does: take over what the journal holds and push it into the store."""

    async def work() -> None:
        db = Database(url_of(settings))
        ingestion = Ingestion(db, lambda: None)
        journal = Journal(settings.journal_dir, segment_bytes=8192, slots=8)
        journal.adopt_dead()
        await push_all(journal, ingestion)
        journal.close()
        await db.close()

    asyncio.run(work())


async def push_all(journal: Journal, ingestion: Ingestion) -> None:
    while pushes := journal.unsent():
        for push in pushes:
            ingestion.put(push, lambda ack: journal.acknowledged(ack.writer, ack.segment, ack.offset))
        while await ingestion.step() is not None:
            pass


def request_ids(settings: Settings) -> list[str]:
    return [found[0] for found in rows_of(settings)["usage_requests"]]


def test_usage_of_dead_and_living_writers_comes_back_once(
    installation: Settings, tmp_path: Path, elsewhere: Settings
) -> None:
    dead = Journal(installation.journal_dir, segment_bytes=8192, slots=8, writer="dead")
    for number in range(60):  # more than one segment
        dead.finish(dead.open_slot(slot_head(f"dead-{number}")), usage_record(f"dead-{number}"))
    broken_off = dead.open_slot(slot_head("dead-open"))
    dead.progress(broken_off, 3)
    kill(dead)
    living = Journal(installation.journal_dir, segment_bytes=8192, slots=8, writer="living")
    living.finish(living.open_slot(slot_head("living-1")), usage_record("living-1"))
    path = tmp_path / "backup.zip"
    assert make(installation, path, PASSPHRASE).journal_files >= 4
    living.finish(living.open_slot(slot_head("living-2")), usage_record("living-2"))  # after the backup
    kill(living)
    restore(elsewhere, path, with_passphrase())
    for _ in range(2):
        ingest_all(elsewhere)
        wanted = [f"req-{n}" for n in range(1200)] + [f"dead-{n}" for n in range(60)] + ["dead-open", "living-1"]
        assert request_ids(elsewhere) == sorted(wanted)
    assert not any(entry.is_dir() for entry in elsewhere.journal_dir.iterdir())


class Hammer:
    """A gateway and its ingestion in a thread: records go slot → segment → database as fast as they can.

    Attributes:
        ended: how many requests have ended: `live-000000` and so on.
    """

    def __init__(self, settings: Settings) -> None:
        self.ended = 0
        self._done = False
        self._settings = settings
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()))

    def __enter__(self) -> Hammer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self._done, "it failed"

    def wait_for(self, ended: int) -> None:
        while self.ended < ended and self._thread.is_alive():
            self._over.wait(0.001)

    async def _work(self) -> None:
        db = Database(url_of(self._settings))
        ingestion = Ingestion(db, lambda: None)
        journal = Journal(self._settings.journal_dir, segment_bytes=8192, slots=8)
        while not self._over.is_set():
            journal.prepare_blocking()
            for _ in range(20):
                name = f"live-{self.ended:06}"
                journal.finish(journal.open_slot(slot_head(name)), usage_record(name))
                self.ended += 1
            await push_all(journal, ingestion)
        journal.close()
        await db.close()
        self._done = True


def test_every_request_that_ended_before_the_backup_is_in_it_while_others_end(
    installation: Settings, tmp_path: Path
) -> None:
    rounds: list[tuple[Path, int]] = []
    with Hammer(installation) as hammer:
        for number in range(4):
            hammer.wait_for(200 * (number + 1))
            before, path = hammer.ended, tmp_path / f"{number}.zip"
            make(installation, path, PASSPHRASE)
            rounds.append((path, before))
            assert hammer.ended > before, "nothing was written meanwhile"
    for path, before in rounds:
        new = Settings(data_dir=path.with_suffix(""))
        restore(new, path, with_passphrase())
        ingest_all(new)
        missing = {f"live-{number:06}" for number in range(before)} - set(request_ids(new))
        assert not missing, f"{len(missing)} of {before} are lost"


def test_usage_left_in_the_directory_is_kept_when_only_the_database_was_lost(
    installation: Settings, tmp_path: Path
) -> None:
    journal = Journal(installation.journal_dir, segment_bytes=8192, slots=8, writer="w")
    journal.finish(journal.open_slot(slot_head("before")), usage_record("before"))
    path = tmp_path / "backup.zip"
    make(installation, path, PASSPHRASE)
    journal.finish(journal.open_slot(slot_head("after")), usage_record("after"))
    kill(journal)
    for left in installation.data_dir.glob("mooring.db*"):
        left.unlink()
    restore(installation, path, with_passphrase())
    ingest_all(installation)
    assert {"before", "after"} <= set(request_ids(installation))
    assert (installation.data_dir / "admin.json").exists()


class AdoptedMeanwhile(archive.Draft):
    """A draft during whose first member a sibling takes the writer over: slots become a segment, segments go."""

    def add(self, name: str, pieces: Any) -> int:
        lines = super().add(name, pieces)
        if len(self.members) == 1:
            self.sibling.adopt_dead()
        return lines

    sibling: Journal


def test_open_requests_that_are_taken_over_during_the_copy_are_in_it_once(
    installation: Settings, tmp_path: Path, elsewhere: Settings
) -> None:
    dead = Journal(installation.journal_dir, segment_bytes=8192, slots=8, writer="dead")
    dead.finish(dead.open_slot(slot_head("ended")), usage_record("ended"))
    dead.open_slot(slot_head("open"))
    kill(dead)
    sibling = Journal(tmp_path / "empty", segment_bytes=8192, slots=8)
    sibling._root = installation.journal_dir
    with zipfile.ZipFile(tmp_path / "copy.zip", "w", zipfile.ZIP_DEFLATED) as file:
        draft = AdoptedMeanwhile(file)
        draft.sibling = sibling
        copy_journal(draft, installation.journal_dir)
    assert sorted(draft.members) == ["journal/dead/0000000001.seg", "journal/dead/1073741824.seg"]
    kill(sibling)
    with zipfile.ZipFile(tmp_path / "copy.zip") as file:
        file.extractall(elsewhere.data_dir)
    (elsewhere.journal_dir / "dead" / "lock").touch()
    migrate(url_of(elsewhere))
    ingest_all(elsewhere)
    assert request_ids(elsewhere) == ["ended", "open"]
