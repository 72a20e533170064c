"""A database of an earlier version, with rows in it, comes up to date and keeps what it holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from mooring.store import database
from mooring.store.database import Database, migrate
from mooring.store.services import find_service, good_recipes

NOW = datetime(2026, 11, 1, tzinfo=UTC)
MODEL = {"source": "local", "path": "/models/a.gguf"}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/m.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def make_version(url: str, revision: str) -> None:
    """Create the schema as it was at a revision."""
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def insert_service(url: str, service_id: str, kind: str, spec: dict[str, object]) -> None:
    """Insert a row as the version of the first schema did."""
    names = (
        "id project name slug kind spec tags spec_version state reason progress detail enabled created_at updated_at"
    )
    values = {
        "id": service_id, "project": "default", "name": service_id, "slug": service_id, "kind": kind,
        "spec": json.dumps(spec), "tags": '{"team": "a"}', "spec_version": 3, "state": "healthy", "reason": "",
        "progress": "{}", "detail": "{}", "enabled": True, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    marks = ", ".join(f":{name}" for name in names.split())
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sa.text(f"INSERT INTO services ({names.replace(' ', ', ')}) VALUES ({marks})"), values)
    engine.dispose()


async def test_services_of_the_first_schema_keep_their_spec_but_not_the_defaults_that_were_written_into_it(
    url: str,
) -> None:
    make_version(url, "0001")
    old = {
        "model": MODEL,
        "replicas": 2,
        "resources": {"cpu": 1, "memory": "1Gi", "gpus": 0},
        "args": ["--ctx-size=64"],
    }
    insert_service(url, "svc-plain", "ModelService", old)
    insert_service(url, "svc-chosen", "ModelService", {**old, "resources": {"cpu": 2, "memory": "1Gi", "gpus": 0}})
    insert_service(url, "svc-else", "ExternalService", {"urls": ["http://127.0.0.1:9/v1"]})
    migrate(url)
    db = Database(url)
    try:
        async with db.read() as tx:
            plain = await find_service(tx, "svc-plain", "default")
            chosen = await find_service(tx, "svc-chosen", "default")
            elsewhere = await find_service(tx, "svc-else", "default")
            assert await good_recipes(tx) == {}
    finally:
        await db.close()
    assert plain is not None
    assert chosen is not None
    assert elsewhere is not None
    assert (plain.spec.resources.cpu, plain.spec.resources.memory) == (None, None)
    assert (plain.spec.replicas, plain.spec.args, plain.metadata.tags) == (2, ["--ctx-size=64"], {"team": "a"})
    assert (plain.status.state, plain.status.spec_version, plain.status.engine) == ("healthy", 3, "llamacpp")
    assert (chosen.spec.resources.cpu, chosen.spec.resources.memory) == (2, None)
    assert elsewhere.spec.urls == ["http://127.0.0.1:9/v1"]
