"""What the tests of backup and restore share: an installation with something in every table, and what comes back."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from mooring.control import bootstrap, sealing
from mooring.control.key_sealing import open_key
from mooring.settings import Settings
from mooring.store import tables
from mooring.store.database import Database, connected, database_url, migrate
from mooring.testing.journals import usage_record

PASSPHRASE = "correct horse battery"
SECRET = b"hub token in plain"
ENGINE_KEY = "engine-key-in-plain"
NOW = datetime(2026, 11, 25, 12, 30, 0, 123456, UTC)
Rows = dict[str, list[tuple[Any, ...]]]


def url_of(settings: Settings) -> str:
    return database_url(settings.data_dir, settings.database_url)


def install(settings: Settings, requests: int = 1200) -> Settings:
    """Make an installation with something in every table."""
    settings.data_dir.mkdir(mode=0o700)
    migrate(url_of(settings))
    sealer = sealing.load(settings.data_dir)

    async def start() -> None:
        db = Database(url_of(settings))
        await bootstrap.start(db, sealer, settings)
        await db.close()

    asyncio.run(start())
    with connected(url_of(settings)) as connection:
        connection.execute(
            sa.insert(tables.secrets).values(
                id="sec-1", project="default", name="hub", type="Opaque", sealed=sealer.seal(SECRET), tags={},
                created_at=NOW,
            )
        )  # fmt: skip
        connection.execute(sa.update(tables.services).values(state="healthy", progress={"ready": 1}))
        connection.execute(sa.insert(tables.leases).values(name="services", holder="old", expires_at=NOW))
        connection.execute(
            sa.insert(tables.replicas).values(
                id="rep-1", service_id="svc-1", spec_version=1, state="ready", engine_key=ENGINE_KEY, slots=4
            )
        )
        told = [{"at": NOW, "level": "info", "reason": "Started", "message": f"你好 {n}"} for n in range(3)]
        connection.execute(sa.insert(tables.events), told)
        connection.execute(sa.insert(tables.journal_cursors).values(writer="w-old", segment=3, offset=2**40))
        connection.execute(sa.insert(tables.usage_requests), [row(f"req-{n}") for n in range(requests)])
    return settings


def row(request_id: str) -> dict[str, Any]:
    record = usage_record(request_id)
    return msgspec.structs.asdict(record) | {"latency_ms": 0.1 + 0.2, "ended_at": record.started_at + 1 / 3}


def rows_of(settings: Settings) -> Rows:
    with connected(url_of(settings), reads=True) as connection:
        return {
            table.name: sorted(
                (tuple(json.dumps(v, sort_keys=True) if isinstance(v, dict) else v for v in found))
                for found in connection.execute(sa.select(table))
            )
            for table in tables.metadata.sorted_tables
        }


def with_passphrase(passphrase: str = PASSPHRASE) -> Any:
    return lambda held: open_key(held.key(), passphrase)


def check_same(before: Rows, after: Rows) -> None:
    """Everything is there again, but for what belongs to the place and the moment."""
    changed = {"leases", "replicas", "meta", "services", "audit"}
    for name in before.keys() - changed:
        assert after[name] == before[name], name
    assert after["leases"] == after["replicas"] == []
    assert after["audit"][:-1] == before["audit"]
    assert [entry[3] for entry in after["audit"]][-1] == "restore"
    old, new = dict(before["meta"]), dict(after["meta"])
    assert old.pop("epoch") != new.pop("epoch")
    assert old == new


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }
