"""What happened to a service, and what its engines last wrote."""

from __future__ import annotations

from typing import Any

from mooring.control.context import Actor, require_administrator
from mooring.core.errors import NotFound
from mooring.store.database import Database
from mooring.store.events import list_events
from mooring.store.services import AnyService, find_service


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


async def newest_events(db: Database, service: AnyService, limit: int) -> list[dict[str, Any]]:
    """Return what happened to the service, newest first."""
    async with db.read() as tx:
        found = await list_events(tx, service.id, limit)
    return [
        {
            "at": event.at.isoformat().replace("+00:00", "Z"),
            "level": event.level,
            "reason": event.reason,
            "message": event.message,
            "replicaId": event.replica_id,
        }
        for event in found
    ]


def may_read_logs(actor: Actor) -> None:
    """Let only administrators pass: an engine's output may quote what it was asked.

    Raises:
        Forbidden: the caller is none.
    """
    require_administrator(actor, "read the logs of engines")
