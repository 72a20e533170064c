"""What happened to a service: its newest 500 events."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from mooring.store import rows
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
    id: int = field(default=0, compare=False)  # grows from event to event; given by the store


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events. Empty = all."""

    service_id: str = ""
    project: str = ""
    levels: tuple[Level, ...] = ()


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
    return await newest(tx, EventFilter(service_id), limit)


async def newest(tx: Transaction, wanted: EventFilter, limit: int, *, after: int = 0) -> list[Event]:
    """Return the newest events with an id above `after`, newest first."""
    return await _fetch(tx, _matching(wanted, after).order_by(events.c.id.desc()).limit(limit))


async def following(tx: Transaction, wanted: EventFilter, limit: int, *, after: int) -> list[Event]:
    """Return the first events with an id above `after`, oldest first."""
    return await _fetch(tx, _matching(wanted, after).order_by(events.c.id).limit(limit))


async def last_id(tx: Transaction) -> int:
    """Return the id of the newest event of all, 0 if there is none."""
    return (await tx.execute(sa.select(sa.func.max(events.c.id)))).scalar_one() or 0


async def forget_deleted(tx: Transaction) -> None:
    """Delete the events of services that no longer exist.

    Of the newest event of all an empty row stays: SQLite would give its id again, and who follows would miss that.
    """
    gone = events.c.service_id.not_in(sa.select(services.c.id))
    newest_id = sa.select(sa.func.max(events.c.id)).scalar_subquery()
    emptied = {"service_id": "", "replica_id": "", "message": ""}
    await tx.execute(sa.update(events).where(gone, events.c.id == newest_id).values(**emptied))
    await tx.execute(sa.delete(events).where(gone, events.c.id < newest_id))


def _matching(wanted: EventFilter, after: int) -> sa.Select[Any]:
    statement = sa.select(events).where(events.c.id > after, events.c.service_id != "")
    if wanted.service_id:
        statement = statement.where(events.c.service_id == wanted.service_id)
    if wanted.project:
        of_project = sa.select(services.c.id).where(services.c.project == wanted.project)
        statement = statement.where(events.c.service_id.in_(of_project))
    return statement.where(events.c.level.in_(wanted.levels)) if wanted.levels else statement


async def _fetch(tx: Transaction, statement: sa.Select[Any]) -> list[Event]:
    return [
        Event(row.service_id, row.replica_id, row.at, row.level, row.reason, row.message, row.id)
        for row in await rows.fetch(tx, statement)
    ]
