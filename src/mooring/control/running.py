"""What runs for a service: its replicas with what they use, and what their engines write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mooring.core.errors import NotFound
from mooring.core.replicas import Figures, ObservedReplica, Replica
from mooring.store.database import Database
from mooring.store.replicas import list_replicas
from mooring.store.services import find_service

if TYPE_CHECKING:
    from mooring.placements.local import LocalPlacement

LOOK_S = 1.0  # how soon a replica that is new is followed, too
_QUEUED = 256  # pieces of output that wait for a slow reader; then the engines' files wait


class Running:
    """Looks at the replicas of one placement."""

    def __init__(self, db: Database, placement: LocalPlacement) -> None:
        self._db = db
        self._placement = placement

    async def replicas(self, service_id: str) -> list[dict[str, Any]]:
        """Return the replicas of a service, JSON-ready: their state, and what they use at this moment."""
        async with self._db.read() as tx:
            rows = await list_replicas(tx, service_id)
            service = await find_service(tx, service_id, "")
        version = service.status.spec_version if service is not None else 0
        observed = {replica.replica_id: replica for replica in await self._placement.list()}
        figures = await self._placement.figures([row.id for row in rows])
        return [_told(row, version, observed.get(row.id), figures.get(row.id)) for row in rows]

    async def replica_ids(self, service_id: str, replica_id: str = "") -> list[str]:
        """Return the ids of a service's replicas, or the only one asked for.

        Raises:
            NotFound: the service has no such replica.
        """
        async with self._db.read() as tx:
            known = [replica.id for replica in await list_replicas(tx, service_id)]
        if replica_id and replica_id not in known:
            told = ", ".join(known) or "none at the moment"
            raise NotFound(f"There is no replica '{replica_id}' of this service.", next_step=f"Its replicas: {told}.")
        return [replica_id] if replica_id else known

    async def logs(self, service_id: str, tail_lines: int, replica_id: str = "") -> str:
        """Return the newest lines of each replica, under its id where there are several.

        Raises:
            NotFound: the service has no such replica.
        """
        known = await self.replica_ids(service_id, replica_id)
        parts = [(name, await self._placement.logs(name, tail_lines)) for name in known]
        if len(parts) == 1:
            return parts[0][1]
        return "\n".join(f"==> {name}\n{text}" for name, text in parts)

    async def follow(self, service_id: str, tail_lines: int, replica_id: str = "") -> AsyncIterator[str]:
        """Yield whole lines as they are written, each behind its replica's id; replicas that come are followed, too.

        Ends when the service is deleted, or when the one replica asked for is gone.

        Raises:
            NotFound: the service has no such replica.
        """
        await self.replica_ids(service_id, replica_id)
        queue: asyncio.Queue[str] = asyncio.Queue(_QUEUED)
        tasks: dict[str, asyncio.Task[None]] = {}
        watch = asyncio.create_task(self._watch(service_id, replica_id, tail_lines, queue, tasks))
        taking = asyncio.create_task(queue.get())
        try:
            while True:
                await asyncio.wait([taking, watch], return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    break  # all is told, and nothing more can come
                yield taking.result()
                taking = asyncio.create_task(queue.get())
        finally:
            for task in (taking, watch, *tasks.values()):
                task.cancel()
            await asyncio.gather(taking, watch, *tasks.values(), return_exceptions=True)

    async def machine(self) -> dict[str, Any]:
        """Return what the machine offers and what is set aside for the replicas that run."""
        capacity = self._placement.capacity()
        alive = [replica.reserved for replica in await self._placement.list() if replica.alive]
        return {
            "cpu": {"total": capacity.cpu, "reserved": sum(part.cpu for part in alive)},
            "memoryBytes": {
                "total": capacity.memory_mib << 20,
                "reserved": sum(part.memory_bytes for part in alive),
                "available": None if capacity.available_mib is None else capacity.available_mib << 20,
            },
            "gpus": {"total": capacity.gpus, "reserved": sum(part.gpus for part in alive)},
        }

    async def _watch(
        self,
        service_id: str,
        replica_id: str,
        tail_lines: int,
        queue: asyncio.Queue[str],
        tasks: dict[str, asyncio.Task[None]],
    ) -> None:
        """Follow each replica in a task of its own until the service is gone."""
        first = True
        while True:
            async with self._db.read() as tx:
                exists = await find_service(tx, service_id, "") is not None
                known = [row.id for row in await list_replicas(tx, service_id) if replica_id in ("", row.id)]
            if not exists or (replica_id and not known):
                break
            for name in known:
                if name not in tasks or tasks[name].done():
                    lines = tail_lines if first else 1000  # of one that has just come, everything
                    tasks[name] = asyncio.create_task(self._pump(name, lines, queue, alone=bool(replica_id)))
            first = False
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(LOOK_S)  # for the last words

    async def _pump(self, replica_id: str, tail_lines: int, queue: asyncio.Queue[str], *, alone: bool) -> None:
        mark = "" if alone else f"[{replica_id}] "
        async for text in self._placement.follow(replica_id, tail_lines):
            await queue.put("".join(f"{mark}{line}\n" for line in text.splitlines()))


def _told(row: Replica, version: int, observed: ObservedReplica | None, figures: Figures | None) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.state,
        "reason": row.reason,
        "specVersion": row.spec_version,
        "current": row.spec_version == version,
        "pid": row.pid,
        "startedAt": _moment(row.started_at),
        "readyAt": _moment(row.ready_at),
        "restarts": row.restarts,
        "slots": row.slots,
        "contextLength": row.context_length,
        "gpus": list(observed.gpus) if observed is not None else [],
        "usage": None if figures is None else _used(figures),
    }


def _used(figures: Figures) -> dict[str, Any]:
    return {
        "cpuPercent": figures.cpu_percent,
        "cpuSeconds": figures.cpu_s,
        "memoryBytes": figures.memory_bytes,
        "readBytes": figures.read_bytes,
        "writeBytes": figures.write_bytes,
        "gpuMemoryBytes": figures.gpu_memory_bytes,
        "gpuPercent": figures.gpu_percent,
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
