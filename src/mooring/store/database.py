"""The one door to the database: connections, transactions, schema.

Every transaction that changes management data runs alone (`serial`): SQLite does so by nature (BEGIN IMMEDIATE),
PostgreSQL by one advisory lock. So a rule may count first and insert after, and two applies can't deadlock.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mooring.core import errors

log = logging.getLogger(__name__)

Transaction = AsyncConnection

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 10_000  # longer than any transaction of ours; then the caller hears 503
SERIAL_LOCK = 0x6D6F6F72  # "moor"
_SCHEMES = ("postgresql", "postgresql+psycopg", "sqlite", "sqlite+aiosqlite")
CHECKED_BYTES = 64 << 20  # about a tenth of a second
MIGRATION_LOCK = 0x6D6F6F73
_ADVICE = "Restore a backup, or name another with --database-url."


class DatabaseBroken(RuntimeError):
    """The database can't be opened or is not ours. The text is one sentence for the operator."""


def database_url(data_dir: Path, configured: str) -> str:
    """Return the URL to open: the configured one, or SQLite's file `mooring.db` in `data_dir`."""
    return configured or f"sqlite:///{(data_dir / 'mooring.db').absolute()}"


class Database:
    """A pool of connections. Use it from one event loop; another loop makes its own.

    Attributes:
        on_commit: called without arguments after each committed `transaction()`: here loops hang their wake-ups.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.on_commit: list[Callable[[], None]] = []
        self._sqlite = sa.make_url(url).get_backend_name() == "sqlite"
        self._engine = _async_engine(url, self._sqlite)
        self._turn = asyncio.Lock()  # in-process writers queue here in order instead of polling SQLite's lock

    @asynccontextmanager
    async def transaction(self, *, serial: bool = True) -> AsyncGenerator[Transaction]:
        """Commit what the block does, or nothing of it.

        `serial=False` is for transactions that never call `store.changes.record` (journal, leases, events): on
        PostgreSQL they then run beside the management's.

        Raises:
            Conflict: a unique rule of the schema was hit.
            Invalid: a value that the database can't hold.
            Unavailable: the database is locked or can't be reached.
        """
        async with self._writing(), _translated(), self._engine.begin() as connection:
            if serial and not self._sqlite:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(SERIAL_LOCK)))
            yield connection
        for wake in self.on_commit:
            wake()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Transaction]:
        """Read one consistent picture; nothing is committed.

        Raises:
            Unavailable: the database is locked or can't be reached.
        """
        async with _translated(), self._engine.connect() as connection:
            options: dict[str, Any] = {"mooring_reads": True}
            if not self._sqlite:
                options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            yield await connection.execution_options(**options)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[None]:
        if not self._sqlite:
            yield
            return
        async with self._turn:
            yield


@asynccontextmanager
async def _translated() -> AsyncGenerator[None]:
    try:
        yield
    except exc.IntegrityError as error:
        log.info("unique rule hit: %s", error.orig)
        raise errors.Conflict("Something with this name was created at the same moment.") from error
    except exc.DataError as error:
        log.info("value refused: %s", error.orig)
        raise errors.Invalid("A value can't be stored: it is too large or holds a NUL character.") from error
    except (exc.OperationalError, exc.TimeoutError, exc.InterfaceError) as error:
        log.warning("database: %s", error)
        raise errors.Unavailable("The database does not answer now.", retry_after_s=1) from error


def _async_engine(url: str, sqlite: bool) -> AsyncEngine:
    if sqlite:
        engine = create_async_engine(sa.make_url(url).set(drivername="sqlite+aiosqlite"))
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    return create_async_engine(_psycopg_url(url), pool_pre_ping=True, pool_size=5, max_overflow=5)


def _psycopg_url(url: str) -> sa.URL:
    return sa.make_url(url).set(drivername="postgresql+psycopg")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin on its own: `_begin_sqlite` does
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a journal segment is removed after our commit: it must be on disk
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    reads = connection.get_execution_options().get("mooring_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def migrate(url: str) -> None:
    """Create the schema or bring it up to date. Blocking; several processes may call it at once.

    Raises:
        DatabaseBroken: it can't be opened, is damaged, or belongs to a newer version.
    """
    with connected(url) as connection:
        if connection.dialect.name == "sqlite":
            _check_pages(connection)
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        if find_revision(connection) != newest_revision():
            upgrade(connection)


@contextmanager
def connected(url: str, *, reads: bool = False, advice: str = _ADVICE) -> Generator[sa.Connection]:
    """Yield one transaction for commands and the start, which have no event loop; commit it, or nothing of it.

    With `reads` it is one consistent picture and makes no file. `advice` says what to do when the database fails.

    Raises:
        DatabaseBroken: it can't be opened, read or written.
    """
    place = _place(url)
    sqlite = place.get_backend_name() == "sqlite"
    engine = _sync_engine(place, sqlite, makes=not reads)
    options: dict[str, Any] = {"mooring_reads": True} if reads else {}
    if reads and not sqlite:
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        with _named_failures(_shown(place), advice), engine.connect() as connection:
            connection.execution_options(**options)
            with connection.begin():
                yield connection
    finally:
        engine.dispose()


def _place(url: str) -> sa.URL:
    try:
        place = sa.make_url(url)
        name = place.get_backend_name() if place.drivername in _SCHEMES else ""
    except (exc.ArgumentError, ValueError):
        name = ""
    if name not in ("postgresql", "sqlite"):
        scheme = url.partition("://")[0] if "://" in url else ""
        told = f", not {scheme}://…" if scheme else ""
        raise DatabaseBroken(f"--database-url (MOORING_DATABASE_URL) takes only postgresql://… or nothing{told}.")
    return place


def _shown(place: sa.URL) -> str:
    """Return how a message names the database: never with its password."""
    name = place.get_backend_name()
    return str(place.database) if name == "sqlite" else place.set(drivername=name).render_as_string()


def newest_revision() -> str:
    """Return the schema that this version of the code works with: the number of the last migration file."""
    return max(path.stem[1:5] for path in (MIGRATIONS / "versions").glob("v[0-9]*.py"))


def find_revision(connection: sa.Connection) -> str | None:
    """Return the schema of this database, None when it has none of ours."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Bring the schema to `revision`.

    Raises:
        DatabaseBroken: it belongs to a newer version.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of its plugins as it is imported
    from alembic import command  # only here: most starts have nothing to migrate, and it takes time and memory
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        shown = _shown(connection.engine.url)
        raise DatabaseBroken(
            f"The database {shown} was made by a newer version of Mooring ({error}); start that version."
        ) from error


def _check_pages(connection: sa.Connection) -> None:
    """Look at every page of a file small enough for that to be quick; a start must not wait for gigabytes."""
    shown = _shown(connection.engine.url)
    if Path(shown).stat().st_size > CHECKED_BYTES:
        return
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        raise DatabaseBroken(f"The database {shown} is damaged ({str(found).splitlines()[-1]}). Restore a backup.")


def _sync_engine(place: sa.URL, sqlite: bool, *, makes: bool) -> sa.Engine:
    if not sqlite:
        return sa.create_engine(place.set(drivername="postgresql+psycopg"))
    try:  # SQLite would make the file readable for all
        os.close(os.open(str(place.database), os.O_RDWR | (os.O_CREAT if makes else 0), 0o600))
    except OSError as error:
        raise DatabaseBroken(f"The database {place.database} can't be opened: {error.strerror}.") from error
    engine = sa.create_engine(place.set(drivername="sqlite"))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _cause(error: Exception) -> str:
    lines = str(getattr(error, "orig", error)).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__


@contextmanager
def _named_failures(place: str, advice: str) -> Generator[None]:
    try:
        yield
    except (exc.DatabaseError, sqlite3.DatabaseError) as error:
        cause = _cause(error)
        if isinstance(error, exc.OperationalError) and "://" in place:
            raise DatabaseBroken(
                f"The database {place} can't be reached: {cause}."
                " Is PostgreSQL running there, and are name and password right?"
            ) from error
        raise DatabaseBroken(f"The database {place} can't be used: {cause}. {advice}") from error
