"""A real database (each test on SQLite and on PostgreSQL), a first start done, and the management API on top."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from mooring import settings as settings_module
from mooring.admin import build_admin
from mooring.control import bootstrap, sealing
from mooring.control.authentication import Authenticator
from mooring.control.context import Actor, Context
from mooring.control.orders import Orders
from mooring.control.sealing import Sealer
from mooring.settings import Settings
from mooring.store.database import Database, migrate


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
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
async def empty_db(database_url: str) -> AsyncIterator[Database]:
    migrate(database_url)
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
async def db(empty_db: Database, sealer: Sealer, settings: Settings) -> Database:
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


@pytest.fixture
def app(db: Database, settings: Settings, sealer: Sealer, gateways: Gateways) -> FastAPI:
    async def read_logs(service_id: str, tail_lines: int) -> str:
        return f"last {tail_lines} lines of {service_id}\n"

    return build_admin(
        db=db,
        sealer=sealer,
        settings=settings,
        await_acknowledged=gateways.await_acknowledged,
        read_logs=read_logs,
    )


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
