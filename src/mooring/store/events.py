"""What happened to a service: its newest 500 events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from mooring.store.database import Transaction
from mooring.store.tables import events, services

KEPT = 500  # events of one service

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a service or to one of its replicas."""

    service_id: str
    replica_id: str  # "" when it is about the whole service
    at: datetime  # UTC
    level: Level
    reason: str  # one word, for filters: Started, Ready, Exited, …
    message: str  # a sentence for people


async def add(tx: Transaction, new: list[Event]) -> None:
    """Write events and forget the oldest of each service concerned."""
    if not new:
        return
    await tx.execute(
        sa.insert(events),
        [
            {
                "service_id": event.service_id,
                "replica_id": event.replica_id,
                "at": event.at,
                "level": event.level,
                "reason": event.reason,
                "message": event.message,
            }
            for event in new
        ],
    )
    for service_id in sorted({event.service_id for event in new}):
        await _prune(tx, service_id)


async def _prune(tx: Transaction, service_id: str) -> None:
    of_service = sa.select(events.c.id).where(events.c.service_id == service_id)
    oldest_kept = of_service.order_by(events.c.id.desc()).offset(KEPT - 1).limit(1).scalar_subquery()
    await tx.execute(sa.delete(events).where(events.c.service_id == service_id, events.c.id < oldest_kept))


async def list_events(tx: Transaction, service_id: str, limit: int = 100) -> list[Event]:
    """Return the newest events of a service, newest first."""
    found = await tx.execute(
        sa.select(events).where(events.c.service_id == service_id).order_by(events.c.id.desc()).limit(limit)
    )
    return [Event(row.service_id, row.replica_id, row.at, row.level, row.reason, row.message) for row in found]


async def forget_deleted(tx: Transaction) -> None:
    """Delete the events of services that no longer exist."""
    await tx.execute(sa.delete(events).where(events.c.service_id.not_in(sa.select(services.c.id))))
