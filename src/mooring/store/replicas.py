"""Replicas and the states of services, as the loop writes them and everybody else reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mooring.core.replicas import Replica
from mooring.store.database import Transaction
from mooring.store.tables import replicas, services

_TIMES = ("next_start_at", "started_at", "ready_at")


async def list_replicas(tx: Transaction, service_id: str | None = None) -> list[Replica]:
    """Return the replicas of one service, or of all, in a stable order."""
    query = sa.select(replicas).order_by(replicas.c.service_id, replicas.c.id)
    if service_id is not None:
        query = query.where(replicas.c.service_id == service_id)
    return [_noun(row) for row in await tx.execute(query)]


async def save(tx: Transaction, changed: Iterable[Replica], gone: Sequence[str] = ()) -> None:
    """Insert or overwrite `changed`, delete the ids in `gone`."""
    rows = [_values(replica) for replica in changed]
    away = [*gone, *(row["id"] for row in rows)]
    if away:
        await tx.execute(sa.delete(replicas).where(replicas.c.id.in_(away)))
    if rows:
        await tx.execute(sa.insert(replicas), rows)


async def set_service_state(
    tx: Transaction,
    service_id: str,
    *,
    state: str,
    reason: str,
    progress: dict[str, Any] | None = None,
    detail: dict[str, Any] | None = None,
    engine: str | None = None,
    types: list[str] | None = None,
    spec_version: int | None = None,
) -> bool:
    """Write what the loop found out about a service; return False when the service was deleted or changed meanwhile.

    `spec_version` is the version that was looked at: what was found out about an older one is not written.
    None leaves a field as it is. The caller records the change.
    """
    values: dict[str, Any] = {"state": state, "reason": reason, "updated_at": datetime.now(UTC)}
    for name, value in (("progress", progress), ("detail", detail), ("engine", engine), ("types", types)):
        if value is not None:
            values[name] = value
    same = services.c.id == service_id
    if spec_version is not None:
        same &= services.c.spec_version == spec_version
    done = await tx.execute(sa.update(services).where(same).values(**values))
    return done.rowcount > 0


def _noun(row: sa.Row[Any]) -> Replica:
    values = dict(row._mapping)
    for name in _TIMES:
        if values[name] is not None:
            values[name] = values[name].timestamp()
    return Replica(**{**values, "adapters": tuple(values["adapters"])})


def _values(replica: Replica) -> dict[str, Any]:
    values: dict[str, Any] = asdict(replica)
    for name in _TIMES:
        if values[name] is not None:
            values[name] = datetime.fromtimestamp(values[name], UTC)
    return values
