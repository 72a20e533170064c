"""The tables as lines of text, and back: what a backup holds of the database.

A table is JSON lines: the names of its columns, then one row per line. Bytes are base64, times ISO 8601. The columns
are those the database has, not those this code knows: so a backup may be made before an upgrade migrates, and one of
an older version is loaded into the schema of its time and migrated then. SQLite and PostgreSQL read each other's.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa

from mooring.store.database import (
    MIGRATION_LOCK,
    DatabaseBroken,
    connected,
    find_revision,
    newest_revision,
    upgrade,
)
from mooring.store.tables import Moment, audit, meta, metadata, services

LEFT_OUT = frozenset({"leases", "replicas"})  # about processes that run now, with the keys of their engines in plain
BATCH_ROWS = 500
_MADE_BY_ALEMBIC = "alembic_version"
_ADVICE = "Restore into another place: --data-dir, or --database-url."

_Convert = Callable[[Any], Any]


class Source:
    """A database at one moment.

    Attributes:
        revision: its schema.
        names: its tables, those that are left out apart.
    """

    def __init__(self, connection: sa.Connection, revision: str) -> None:
        self.revision = revision
        self._connection = connection
        self._tables = _reflect(connection)
        self.names = sorted(self._tables.keys() - LEFT_OUT)

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a table, some hundred at a time."""
        table = self._tables[name]
        columns = list(table.columns)
        yield _line([column.name for column in columns])
        convert = [(at, outward) for at, column in enumerate(columns) if (outward := _outward(column))]
        found = self._connection.execute(sa.select(*columns), execution_options={"yield_per": BATCH_ROWS})
        for rows in found.partitions():
            yield b"".join(_line(_converted(row, convert)) for row in rows)

    def find_fact(self, name: str) -> str | None:
        """Return the value noted under `name`, or None."""
        return self._connection.execute(sa.select(meta.c.value).where(meta.c.name == name)).scalar_one_or_none()


@contextmanager
def reading(url: str) -> Generator[Source]:
    """Yield the database as it is now; blocking. Others write on meanwhile and are not waited for.

    Raises:
        DatabaseBroken: it can't be opened or read, is none of ours, or belongs to a newer version.
    """
    with connected(url, reads=True) as connection:
        revision = find_revision(connection)
        if revision is None:
            raise DatabaseBroken("The database holds no Mooring yet: there is nothing to back up.")
        if revision > newest_revision():
            raise DatabaseBroken(f"The database has the schema {revision} of a newer Mooring: back it up with that.")
        yield Source(connection, revision)


class Target:
    """An empty database that is being filled, in one transaction. Call `create`, `load` for each table, `finish`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._tables: dict[str, sa.Table] = {}

    def create(self, revision: str) -> None:
        """Make the tables of that schema."""
        upgrade(self._connection, revision)
        self._tables = _reflect(self._connection)

    def load(self, name: str, lines: Iterable[bytes]) -> int:
        """Put in the rows that `Source.lines` gave, line by line; return how many.

        Raises:
            DatabaseBroken: the schema has no such table or column.
        """
        rest = iter(lines)
        names: list[str] = json.loads(next(rest))
        table = self._tables.get(name)
        if table is None or not set(names) <= set(table.columns.keys()):
            raise DatabaseBroken(f"This version of Mooring does not know the table '{name}' of this backup.")
        convert = [(at, inward) for at, column in enumerate(names) if (inward := _inward(table.columns[column]))]
        self._connection.execute(sa.delete(table))  # what the migrations put there
        count = 0
        while batch := list(islice(rest, BATCH_ROWS)):
            rows = [dict(zip(names, _converted(json.loads(line), convert), strict=True)) for line in batch]
            self._connection.execute(sa.insert(table), rows)
            count += len(batch)
        return count

    def finish(self) -> None:
        """Migrate to the newest schema, and make anew what belonged to the place the backup comes from."""
        connection = self._connection
        upgrade(connection)
        if connection.dialect.name == "postgresql":
            _set_sequences(connection, _reflect(connection).values())
        epoch = str(uuid.uuid4())  # another database: no gateway may go on from a version it knows
        connection.execute(sa.update(meta).where(meta.c.name == "epoch").values(value=epoch))
        run_here = (services.c.kind == "ModelService") & (services.c.state != "stopped")
        state = {"state": "pending", "reason": "Restored from a backup.", "progress": {}}
        connection.execute(sa.update(services).where(run_here).values(**state))
        told = {"actor": "operator", "action": "restore", "kind": "Database", "object_id": epoch}
        connection.execute(sa.insert(audit).values(at=datetime.now(UTC), project="", **told))


@contextmanager
def writing(url: str) -> Generator[Target]:
    """Yield a database to fill; blocking. What the block loads is committed, or nothing of it.

    Raises:
        DatabaseBroken: it can't be opened or written, or holds something.
    """
    with connected(url, advice=_ADVICE) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        _refuse_tables(connection)
        yield Target(connection)


def require_empty(url: str) -> None:
    """Look whether a restore may go there, before the work begins.

    Raises:
        DatabaseBroken: it can't be opened, or holds something.
    """
    with connected(url, reads=True, advice=_ADVICE) as connection:
        _refuse_tables(connection)


def _refuse_tables(connection: sa.Connection) -> None:
    found = set(sa.inspect(connection).get_table_names())
    if found & {*metadata.tables, _MADE_BY_ALEMBIC}:
        raise DatabaseBroken("The database already holds a Mooring, and a restore overwrites nothing. " + _ADVICE)


def _reflect(connection: sa.Connection) -> dict[str, sa.Table]:
    """Return our tables as they stand in the database, by name; times and JSON behave as in `store.tables`."""
    found = sa.MetaData()
    found.reflect(connection, only=lambda name, _: name in metadata.tables)
    for table in found.tables.values():
        for column in table.columns:
            if isinstance(column.type, sa.DateTime):
                column.type = Moment()
            elif isinstance(column.type, sa.JSON):
                column.type = sa.JSON(none_as_null=bool(column.nullable))
    return dict(found.tables)


def _line(values: Iterable[Any]) -> bytes:
    return json.dumps(list(values), separators=(",", ":")).encode() + b"\n"


def _converted(row: Iterable[Any], convert: list[tuple[int, _Convert]]) -> list[Any]:
    values = list(row)
    for at, function in convert:
        if values[at] is not None:
            values[at] = function(values[at])
    return values


def _outward(column: sa.Column[Any]) -> _Convert | None:
    if isinstance(column.type, sa.LargeBinary):
        return lambda value: base64.b64encode(value).decode()
    return datetime.isoformat if isinstance(column.type, Moment) else None


def _inward(column: sa.Column[Any]) -> _Convert | None:
    if isinstance(column.type, sa.LargeBinary):
        return base64.b64decode
    return datetime.fromisoformat if isinstance(column.type, Moment) else None


def _set_sequences(connection: sa.Connection, tables: Iterable[sa.Table]) -> None:
    """Let PostgreSQL go on counting behind the highest number that was loaded; SQLite does so by itself."""
    for table in tables:
        for column in table.primary_key.columns:
            if not isinstance(column.type, sa.Integer):
                continue
            sequence = connection.execute(sa.func.pg_get_serial_sequence(table.name, column.name)).scalar_one()
            if sequence is not None:
                behind = sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1).scalar_subquery()
                connection.execute(sa.select(sa.func.setval(sequence, behind, False)))
