"""Databases that are made once and copied for each test: a migration or a first start need not run for every one.

What a copy holds was made by the real `migrate` and the real `bootstrap.start`, in this run. Tests of these two do
not use copies.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mooring import settings as settings_module
from mooring.control import bootstrap, sealing
from mooring.store.database import Database, migrate

PRIVATE_FILES = ("admin.json", "secret.key")  # what a first start leaves beside the database
DATABASE_FILE = "mooring.db"
MakeDatabase = Callable[..., str]
PostgresDatabase = Callable[..., contextlib.AbstractContextManager[str]]


@dataclass(frozen=True)
class Original:
    """A database to copy from, and the data directory that belongs to it."""

    folder: Path
    url: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


class Originals:
    """The databases to copy from, each made when it is first asked for and closed before it is copied."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, postgres: PostgresDatabase) -> None:
        self._folder, self._stack, self._postgres = folder, stack, postgres
        self._made: dict[tuple[str, bool], Original] = {}

    def get(self, server: str, *, started: bool) -> Original:
        """Return the original on a server of PostgreSQL ("": of SQLite), with a first start made in it or without."""
        if (server, started) not in self._made:
            self._made[server, started] = self._make(self._folder / str(len(self._made)), server, started)
        return self._made[server, started]

    def _make(self, folder: Path, server: str, started: bool) -> Original:
        folder.mkdir()
        url = self._stack.enter_context(self._postgres(server)) if server else f"sqlite:///{folder / DATABASE_FILE}"
        migrate(url)
        if started:
            asyncio.run(_start(folder, url))
        return Original(folder, url)


async def _start(folder: Path, url: str) -> None:
    database = Database(url)
    settings = settings_module.load({}, data_dir=folder, database_url=url)
    await bootstrap.start(database, sealing.load(folder), settings)
    await database.close()


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory, postgres_database: PostgresDatabase) -> Iterator[Originals]:
    with contextlib.ExitStack() as stack:
        yield Originals(tmp_path_factory.mktemp("originals"), stack, postgres_database)


@pytest.fixture
def make_database(
    request: pytest.FixtureRequest, originals: Originals, postgres_database: PostgresDatabase
) -> Iterator[MakeDatabase]:
    """Return a function that copies a database: `make_database("sqlite", folder)` gives the URL of a migrated one.

    With `started=True` a first start was made in it, and its `admin.json` and `secret.key` are in `folder` too; not
    to be called from a coroutine then.
    """
    with contextlib.ExitStack() as stack:

        def make(kind: str, folder: Path, *, started: bool = False) -> str:
            server = "" if kind == "sqlite" else str(request.getfixturevalue("postgres_server"))
            original = originals.get(server, started=started)
            for name in PRIVATE_FILES if started else ():
                shutil.copy2(original.folder / name, folder / name)
            if server:
                return stack.enter_context(postgres_database(server, original.name))
            shutil.copy2(original.folder / DATABASE_FILE, folder / DATABASE_FILE)
            return f"sqlite:///{folder / DATABASE_FILE}"

        yield make
