"""A gateway in the test's own loop: real sockets, a table made by the test, no control."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mooring.core.ids import key_digest
from mooring.core.snapshot import (
    EndpointEntry,
    KeyEntry,
    Limits,
    ReplicaEntry,
    Row,
    ServiceEntry,
    TargetEntry,
    encode_entry,
)
from mooring.core.usage import UsageRecord, decode_record
from mooring.gateway.http1.timers import TimerWheel
from mooring.gateway.parts import Parts
from mooring.gateway.server import ClientConnection
from mooring.gateway.snapshot import Table
from mooring.gateway.usage.journal import Journal
from mooring.gateway.worker import keep_journal
from mooring.settings import Settings

PEPPER = b"p" * 32
KEY = "mk-test"
NO_LIMITS = Limits()


def key_row(key: str = KEY, **fields: Any) -> Row:
    """Return a key row; `fields` override the entry's."""
    entry = KeyEntry(
        **{
            "id": f"key-{key}",
            "project": "default",
            "owner": "user-1",
            "endpoints": None,
            "expires_at": None,
            "enabled": True,
            "limits": NO_LIMITS,
            **fields,
        }
    )
    return Row("key", entry.id, encode_entry(entry), (key_digest(key, PEPPER),))


def service_row(address: str | Iterable[str], **fields: Any) -> Row:
    """Return the row of a healthy service with one ready replica per address."""
    addresses = [address] if isinstance(address, str) else list(address)
    adapters = fields.get("adapters", ())
    entry = ServiceEntry(
        **{
            "id": "svc-1",
            "name": "elsewhere",
            "project": "default",
            "external": True,
            "engine": "external",
            "served_model": "up",
            "chip": "cpu",
            "types": ("chat", "completion", "embedding"),
            "state": "healthy",
            "reason": "",
            "enabled": True,
            "direct_access": True,
            "replicas": tuple(
                ReplicaEntry(f"rep-{n}", one, None, True, 0, adapters) for n, one in enumerate(addresses)
            ),
            "context_length": 2048,
            "limits": NO_LIMITS,
            **fields,
        }
    )
    return Row("service", entry.id, encode_entry(entry))


def endpoint_row(**fields: Any) -> Row:
    """Return the row of the endpoint ep-1 on svc-1."""
    entry = EndpointEntry(
        **{
            "id": "ep-1",
            "name": "chat",
            "project": "default",
            "enabled": True,
            "targets": (TargetEntry("svc-1", 1),),
            "limits": NO_LIMITS,
            "reserve_tokens": 256,
            **fields,
        }
    )
    return Row("endpoint", entry.id, encode_entry(entry))


class RunningGateway:
    """Serves on `port` until `stop`. `rows` changes the table as the feed would."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = replace(Settings(), data_dir=folder, slots=256, segment_bytes=1 << 20, **settings)
        self._server: asyncio.Server | None = None
        self.port = 0
        self.parts: Parts
        self._keeper: asyncio.Task[None]

    async def start(self, *rows: Row) -> None:
        loop = asyncio.get_running_loop()
        table = Table(loop, "epoch", 1 if rows else -1, PEPPER)
        table.apply(rows)
        journal = Journal(
            self.settings.journal_dir, segment_bytes=self.settings.segment_bytes, slots=self.settings.slots
        )
        socket_path = str(self.settings.run_dir / "public.sock")
        self.parts = Parts(self.settings, loop, table, journal, TimerWheel(loop, 0.05), socket_path)
        self.parts.timers.start()
        self._server = await loop.create_server(lambda: ClientConnection(self.parts), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._keeper = loop.create_task(keep_journal(self.parts))

    def rows(self, *rows: Row) -> None:
        self.parts.table.apply(rows)
        self.parts.table.version += 1
        self.parts.waiting.release_all()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self._keeper.cancel()
        for connection in list(self.parts.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)
        self.parts.timers.stop()
        self.parts.table.close()
        await asyncio.sleep(0)
        self.parts.journal.close()

    def records(self) -> list[UsageRecord]:
        """Return the journal's records so far that were not asked for before, as control would ingest them."""
        found: list[UsageRecord] = []
        journal = self.parts.journal
        while pushes := journal.unsent():
            for push in pushes:
                at = 0
                while at < len(push.data):
                    length = int.from_bytes(push.data[at : at + 4], "big")
                    found.append(decode_record(push.data[at + 4 : at + 4 + length]))
                    at += 4 + length
                journal.acknowledged(push.writer, push.segment, push.offset)
        return found
