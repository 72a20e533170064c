"""What happened to services, also as it happens; and who may read what their engines wrote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, get_args

from mooring.control.context import Actor, require_administrator
from mooring.core.errors import NotFound
from mooring.store.database import Database
from mooring.store.events import Event, EventFilter, Level, following, last_id, newest
from mooring.store.services import AnyService, find_service

LOOK_S = 0.5  # how soon a new event is told
HEARTBEAT_S = 15.0  # an empty line after so long a silence: whoever listens then knows that the line stands
BATCH = 500


async def get_any_service(db: Database, ref: str, project: str) -> AnyService:
    """Return the service of either kind with this id, or of this name in the project.

    Raises:
        NotFound: there is none.
    """
    async with db.read() as tx:
        service = await find_service(tx, ref, project)
    if service is None:
        raise NotFound(f"There is no service '{ref}' in the project '{project}'.")
    return service


def at_least(level: Level) -> tuple[Level, ...]:
    """Return the level and those that are worse."""
    levels: tuple[Level, ...] = get_args(Level)
    return levels[levels.index(level) :]


async def newest_events(db: Database, wanted: EventFilter, limit: int, after: int = 0) -> list[dict[str, Any]]:
    """Return what happened, newest first; with `after` only what came after the event of that id."""
    async with db.read() as tx:
        return [_wire(event) for event in await newest(tx, wanted, limit, after=after)]


async def follow_events(db: Database, wanted: EventFilter, limit: int, after: int | None = None) -> AsyncIterator[str]:
    """Yield events as JSON lines, oldest first, and new ones as they come; an empty line after 15 s of silence.

    Begins with the newest `limit`, or with all that came after the event `after`. Ends when the service that is asked
    for is deleted.
    """
    if after is None:
        async with db.read() as tx:
            found, position = await newest(tx, wanted, limit), await last_id(tx)
        for event in reversed(found):
            yield _line(event)
    else:
        position = after
    silent_s = 0.0
    while True:
        async with db.read() as tx:
            found = await following(tx, wanted, BATCH, after=position)
            ended = bool(wanted.service_id) and await find_service(tx, wanted.service_id, "") is None
        for event in found:
            position = event.id
            yield _line(event)
        if ended:
            return
        silent_s = 0.0 if found else silent_s + LOOK_S
        if silent_s >= HEARTBEAT_S:
            silent_s = 0.0
            yield "\n"
        if len(found) < BATCH:
            await asyncio.sleep(LOOK_S)


def may_read_logs(actor: Actor) -> None:
    """Let only administrators pass: an engine's output may quote what it was asked.

    Raises:
        Forbidden: the caller is none.
    """
    require_administrator(actor, "read the logs of engines")


def _line(event: Event) -> str:
    return json.dumps(_wire(event), ensure_ascii=False) + "\n"


def _wire(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "at": event.at.isoformat().replace("+00:00", "Z"),
        "level": event.level,
        "reason": event.reason,
        "message": event.message,
        "serviceId": event.service_id,
        "replicaId": event.replica_id,
    }
