"""The database door: schema, transactions, and clear sentences when it is broken."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from mooring.core.errors import Conflict, Unavailable
from mooring.core.objects import GlobalMetadata
from mooring.core.projects import Project, ProjectSpec
from mooring.store import changes, database, tables
from mooring.store.database import Database, DatabaseBroken, migrate
from mooring.store.projects import find_project, insert_project


@pytest.fixture
def copies() -> bool:
    return False  # each migration here is a real one


def project(name: str) -> Project:
    return Project(id=f"prj-{name}", metadata=GlobalMetadata(name=name), spec=ProjectSpec())


async def test_the_migrations_make_the_tables_that_the_code_expects(empty_db: Database) -> None:
    migrate(empty_db.url)

    def differences(connection: sa.Connection) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection), tables.metadata)

    async with empty_db.read() as tx:
        assert await tx.run_sync(differences) == []


async def test_the_schema_is_that_of_the_newest_migration_file(empty_db: Database) -> None:
    async with empty_db.read() as tx:
        revision = (await tx.execute(sa.text("SELECT version_num FROM alembic_version"))).scalar_one()
    assert revision == database.newest_revision()


async def test_versions_are_dense_and_ordered_under_concurrent_writers(empty_db: Database) -> None:
    other = Database(empty_db.url)
    woken: list[int] = []
    empty_db.on_commit.append(lambda: woken.append(1))

    async def write(number: int) -> int:
        async with (empty_db, other)[number % 2].transaction() as tx:
            await insert_project(tx, project(f"p{number}"))
            return await changes.record(tx, "project", [f"prj-p{number}"])

    versions = await asyncio.gather(*[write(number) for number in range(20)])
    assert sorted(versions) == list(range(1, 21))
    assert len(woken) == 10, "own commits wake; another process polls"
    await other.close()


async def test_a_failed_transaction_leaves_nothing_and_wakes_nobody(empty_db: Database) -> None:
    woken: list[int] = []
    empty_db.on_commit.append(lambda: woken.append(1))
    with pytest.raises(ZeroDivisionError):
        async with empty_db.transaction() as tx:
            await insert_project(tx, project("a"))
            raise ZeroDivisionError
    async with empty_db.read() as tx:
        assert await find_project(tx, "a") is None
    assert woken == []


async def test_a_unique_rule_becomes_a_conflict(empty_db: Database) -> None:
    with pytest.raises(Conflict):
        async with empty_db.transaction() as tx:
            await insert_project(tx, project("a"))
            await insert_project(tx, project("a").model_copy(update={"id": "prj-b"}))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL queues writers
async def test_a_locked_database_is_unavailable(
    database_url: str, empty_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 20)
    impatient = Database(database_url)
    async with empty_db.transaction() as tx:
        await insert_project(tx, project("a"))
        with pytest.raises(Unavailable) as refusal:
            async with impatient.transaction():
                pass
    assert refusal.value.retry_after_s
    await impatient.close()


async def test_times_come_back_aware(empty_db: Database) -> None:
    async with empty_db.transaction() as tx:
        made = await insert_project(tx, project("a"))
    assert made.metadata.created_at is not None
    assert abs((datetime.now(UTC) - made.metadata.created_at).total_seconds()) < 60
    assert made.metadata.created_at.utcoffset() is not None


def test_a_damaged_file_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "mooring.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DatabaseBroken, match=r"mooring\.db can't be used: file is not a database"):
        migrate(f"sqlite:///{tmp_path}/mooring.db")
    with pytest.raises(DatabaseBroken, match="No such file"):
        migrate(f"sqlite:///{tmp_path}/none/mooring.db")


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid"])
def test_a_postgresql_that_can_not_be_reached_is_one_clear_sentence(host: str) -> None:
    with pytest.raises(DatabaseBroken, match=r"can't be reached: .* Is PostgreSQL running there") as refusal:
        migrate(f"postgresql://nobody@{host}/none")
    assert "backup" not in str(refusal.value)


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "postgres://u:secret@h/d", "file.db", "postgresql:secret"])
def test_another_kind_of_database_is_refused_with_what_is_possible(url: str) -> None:
    with pytest.raises(DatabaseBroken, match=r"takes only postgresql://… or nothing") as refusal:
        migrate(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("page", range(1, 12))
def test_damage_inside_of_the_file_is_seen_at_the_start(tmp_path: Path, page: int) -> None:
    url = f"sqlite:///{tmp_path}/mooring.db"
    migrate(url)
    with (tmp_path / "mooring.db").open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 4096)
    with pytest.raises(DatabaseBroken, match=r"damaged|can't be used"):
        migrate(url)


def test_a_newer_schema_is_one_clear_sentence(database_url: str) -> None:
    migrate(database_url)
    place = sa.make_url(database_url)
    engine = sa.create_engine(place.set(drivername="postgresql+psycopg") if place.host else place)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(DatabaseBroken, match="newer version"):
        migrate(database_url)


def test_the_file_is_readable_for_its_owner_only(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path}/mooring.db")
    assert (tmp_path / "mooring.db").stat().st_mode & 0o077 == 0
