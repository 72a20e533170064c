"""A real database (each test on SQLite and on PostgreSQL), a first start done, and the management API on top."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from tests.integration.conftest import MakeDatabase

from mooring import settings as settings_module
from mooring.admin import build_admin
from mooring.control import bootstrap, sealing
from mooring.control.authentication import Authenticator
from mooring.control.context import Actor, Context
from mooring.control.orders import Orders
from mooring.control.sealing import Sealer
from mooring.core.errors import NotFound
from mooring.core.models import CacheEntry, Pruned
from mooring.settings import Settings
from mooring.store.database import Database, migrate


@pytest.fixture
def copies() -> bool:
    """Whether databases are copies of originals that this run made; what tests the making itself says no."""
    return True


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, copies: bool, make_database: MakeDatabase) -> str:
    """Return the URL of the test's own database: empty, with the schema, or started, as its fixtures need it."""
    if copies and "empty_db" in request.fixturenames:
        return make_database(request.param, tmp_path, started="db" in request.fixturenames)
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'mooring.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    roots = tmp_path / "models"
    roots.mkdir()
    return settings_module.load({}, data_dir=tmp_path, database_url=database_url, model_roots=(str(roots),))


@pytest.fixture
def sealer(settings: Settings) -> Sealer:
    return sealing.load(settings.data_dir)


@pytest.fixture
async def empty_db(database_url: str, copies: bool) -> AsyncIterator[Database]:
    if not copies:
        migrate(database_url)
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
async def db(empty_db: Database, sealer: Sealer, settings: Settings, copies: bool) -> Database:
    if not copies:
        await bootstrap.start(empty_db, sealer, settings)
    return empty_db


@pytest.fixture
def admin_file(db: Database, settings: Settings) -> dict[str, str]:
    return json.loads((settings.data_dir / "admin.json").read_text())


@dataclass
class Gateways:
    """Stands in for the feed: notes which versions were waited for, and who is late."""

    awaited: list[int] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    async def await_acknowledged(self, version: int, timeout_s: float) -> list[str]:
        self.awaited.append(version)
        return self.late


@pytest.fixture
def gateways() -> Gateways:
    return Gateways()


@pytest.fixture
async def actor(db: Database, sealer: Sealer, admin_file: dict[str, str]) -> Actor:
    return await Authenticator(db, sealer).authenticate(f"Bearer {admin_file['api_key']}")


@pytest.fixture
def orders(db: Database, settings: Settings, sealer: Sealer, gateways: Gateways) -> Orders:
    return Orders(db, Context(settings, sealer), gateways.await_acknowledged)


@dataclass
class FakeRunning:
    """Stands in for what runs: two replicas of every service, which write what a test puts into `lines`."""

    lines: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    followers: int = 0
    REPLICAS = ("rep-a", "rep-b")

    async def replicas(self, service_id: str) -> list[dict[str, Any]]:
        return [{"id": name, "state": "ready", "specVersion": 1, "usage": None} for name in self.REPLICAS]

    async def replica_ids(self, service_id: str, replica_id: str = "") -> list[str]:
        if replica_id and replica_id not in self.REPLICAS:
            raise NotFound("There is no such replica.", next_step=f"Its replicas: {', '.join(self.REPLICAS)}.")
        return [replica_id] if replica_id else list(self.REPLICAS)

    async def logs(self, service_id: str, tail_lines: int, replica_id: str = "") -> str:
        await self.replica_ids(service_id, replica_id)
        return f"last {tail_lines} lines of {replica_id or service_id}\n"

    async def follow(self, service_id: str, tail_lines: int, replica_id: str = "") -> AsyncIterator[str]:
        self.followers += 1
        try:
            while line := await self.lines.get():
                yield line
        finally:
            self.followers -= 1

    async def machine(self) -> dict[str, Any]:
        return {"cpu": {"total": 2.0, "reserved": 1.0}}


@dataclass
class FakeCache:
    """Stands in for the models on disk: entries that a test puts in, removed unless they are kept."""

    found: list[CacheEntry] = field(default_factory=list)
    older_than_s: float = -1
    broken: bool = False

    async def entries(self) -> list[CacheEntry]:
        return self.found

    async def prune(self, keep: set[str], *, older_than_s: float = 0, dry_run: bool = False) -> Pruned:
        if self.broken:
            raise PermissionError(13, "Permission denied", "/cache/one")
        self.older_than_s = older_than_s
        gone = [entry for entry in self.found if entry.key not in keep]
        if not dry_run:
            self.found = [entry for entry in self.found if entry.key in keep]
        return Pruned(tuple(entry.key for entry in gone), sum(entry.bytes for entry in gone))


@pytest.fixture
def running() -> FakeRunning:
    return FakeRunning()


@pytest.fixture
def cache() -> FakeCache:
    return FakeCache()


@pytest.fixture(scope="session")
def applications() -> list[FastAPI]:
    """Return where the one application stands once there is one: FastAPI takes long to work out its routes."""
    return []


@pytest.fixture
def app(
    db: Database,
    settings: Settings,
    sealer: Sealer,
    gateways: Gateways,
    running: FakeRunning,
    cache: FakeCache,
    applications: list[FastAPI],
) -> FastAPI:
    """Return the application, with the parts of this test alone."""
    made = build_admin(
        db=db,
        sealer=sealer,
        settings=settings,
        await_acknowledged=gateways.await_acknowledged,
        running=cast("Any", running),
        cache=cast("Any", cache),
    )
    if not applications:
        applications.append(made)
    applications[0].state.parts = made.state.parts
    return applications[0]


Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def connect(app: FastAPI) -> AsyncIterator[Connect]:
    """Return a function that makes a client: `connect(key)`, `connect(basic=(name, password))` or `connect()`."""
    clients: list[httpx.AsyncClient] = []

    def make(key: str = "", basic: tuple[str, str] | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        client = httpx.AsyncClient(transport=transport, base_url="http://mooring", headers=headers, auth=basic)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def client(connect: Connect, admin_file: dict[str, str]) -> httpx.AsyncClient:
    """Return a client with the administrator's key."""
    return connect(admin_file["api_key"])


class Quiet(uvicorn.Server):
    """Leaves the signals alone."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()


@pytest.fixture
async def streaming(app: FastAPI, tmp_path: Path, admin_file: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """Return the administrator's client of a real server: the others wait for the end of an answer."""
    path = tempfile.mkdtemp(prefix="mooring-test-") + "/s"  # short enough for a socket
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        listener.bind(path)
        listener.listen()
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
        server = Quiet(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        headers = {"Authorization": f"Bearer {admin_file['api_key']}"}
        transport = httpx.AsyncHTTPTransport(uds=path)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://mooring", headers=headers) as client:
                yield client
        finally:
            server.should_exit = True
            await serving
            shutil.rmtree(Path(path).parent)


@pytest.fixture
def external() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the document of an external service."""

    def make(name: str = "elsewhere", **spec: Any) -> dict[str, Any]:
        return {
            "kind": "ExternalService",
            "metadata": {"name": name},
            "spec": {"urls": ["http://127.0.0.1:9000/v1"], "servedModel": "some-model", **spec},
        }

    return make


@pytest.fixture
def endpoint() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the document of an endpoint."""

    def make(name: str = "chat", service: str = "elsewhere", **spec: Any) -> dict[str, Any]:
        services = [{"name": service, "weight": 1}]
        return {"kind": "Endpoint", "metadata": {"name": name}, "spec": {"services": services, **spec}}

    return make
