"""The loop of the services: observe, plan, write down, act.

The truth about a process is what the placement sees, not the table: so a restarted control adopts what still runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mooring.core.external_services import ExternalService
from mooring.core.replicas import ObservedReplica, Replica
from mooring.core.services import ModelService, engine_of, wanted_replicas
from mooring.engines import load_engine
from mooring.reconcile import external_services
from mooring.reconcile.actions import Actor, Engines
from mooring.reconcile.history import adoption, replica_events, service_event
from mooring.reconcile.loop import Clock, SystemClock
from mooring.reconcile.plan import Failure, Plan, Remove, Seen, Stop, Times, Wanted, plan_service
from mooring.reconcile.probing import Prober, Watch, draining_pace, replica_pace
from mooring.reconcile.recipes import recipe_of, unfit
from mooring.settings import Settings
from mooring.store import changes, events
from mooring.store import replicas as replica_store
from mooring.store.database import Database
from mooring.store.services import AnyService, list_all_services
from mooring.store.snapshot_rows import Unseal, upstream_keys

if TYPE_CHECKING:
    from mooring.placements.local import LocalPlacement

log = logging.getLogger(__name__)

BEAT_S = 1.0
LOG_LINES = 200  # of a dead engine's stderr, from which its error is read


@dataclass(frozen=True, slots=True)
class World:
    """Everything one round decides on."""

    at: datetime
    services: list[AnyService]
    replicas: Mapping[str, list[Replica]]  # by service id
    observed: Mapping[str, ObservedReplica]
    upstream_keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """What one round found out about a service, to be written down. `service` is None when it was deleted."""

    service_id: str
    service: AnyService | None
    plan: Plan
    before: tuple[Replica, ...]
    progress: dict[str, Any]
    detail: dict[str, Any]


class Services:
    """Makes the replicas as the services want them.

    Args:
        unseal: opens a sealed secret (upstream keys are needed to ask external services).
        wake: makes the next round come now.
    """

    def __init__(
        self,
        db: Database,
        placement: LocalPlacement,
        *,
        unseal: Unseal,
        wake: Callable[[], None],
        settings: Settings,
        clock: Clock | None = None,
        engines: Engines = load_engine,
    ) -> None:
        self._db = db
        self._placement = placement
        self._unseal = unseal
        self._engines = engines
        self._times = Times(settings.drain_s, settings.engine_start_timeout_s)
        self._clock = clock or SystemClock()
        self._actor = Actor(placement, settings, wake, engines)
        self._prober = Prober(wake, self._clock)
        self._looked = False

    async def step(self) -> float | None:
        """Do one round; return the seconds until the next one is due, if that is known."""
        busy = self._actor.busy  # before observing: what ends in between is seen in the next round
        world = await self._observe()
        if not self._looked:
            await self._note_adoptions(world)
            self._looked = True
        failures = await self._failures(world, busy)
        now = world.at.timestamp()
        seen = Seen(now, world.observed, self._prober.health, failures, busy)
        found = [self._plan(world, service_id, seen) for service_id in _ids(world)]
        found = [entry for entry in found if entry is not None]
        await self._write(world.at, found)
        for replica_id in failures:
            self._actor.failures.pop(replica_id, None)
        self._act(world, found, busy)
        self._watch(world, found)
        due = [entry.plan.due_at for entry in found if entry.plan.due_at is not None]
        return max(0.0, min(due) - now) + 0.01 if due else None

    async def close(self) -> None:
        """End the probes and wait for the actions under way."""
        await self._prober.close()
        await self._actor.finish()

    async def stop_all(self, grace_s: float = 5.0) -> None:
        """End every replica: the ordered stop of the whole platform. Their seats start anew with the next start."""
        await self.close()
        alive = [replica for replica in await self._placement.list() if replica.alive]
        stops = (self._placement.stop(replica.replica_id, grace_s) for replica in alive)
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.warning("an engine could not be stopped: %r", outcome)
        async with self._db.transaction() as tx:
            ended = [replica for replica in await replica_store.list_replicas(tx) if replica.state != "failed"]
            await replica_store.save(tx, [_seat(replica) for replica in ended])
            for service_id in sorted({replica.service_id for replica in ended}):
                await replica_store.set_service_state(tx, service_id, state="starting", reason="The platform starts.")
                await changes.record(tx, "service", [service_id])

    # --- observe

    async def _observe(self) -> World:
        observed = {replica.replica_id: replica for replica in await self._placement.list()}
        async with self._db.read() as tx:
            services = await list_all_services(tx)
            rows = await replica_store.list_replicas(tx)
            keys = await upstream_keys(tx, services, self._unseal)
        replicas: dict[str, list[Replica]] = defaultdict(list)
        for row in rows:
            replicas[row.service_id].append(row)
        return World(self._clock.now(), services, replicas, observed, keys)

    async def _note_adoptions(self, world: World) -> None:
        """Tell of the engines that an earlier control left running."""
        found = [
            adoption(row, world.at, observed.pid)
            for rows in world.replicas.values()
            for row in rows
            if (observed := world.observed.get(row.id)) is not None and observed.alive
        ]
        if found:
            async with self._db.transaction(serial=False) as tx:
                await events.add(tx, found)

    async def _failures(self, world: World, busy: frozenset[str]) -> dict[str, Failure]:
        """Return why the replicas that should run and do not have ended, by replica id."""
        engines = {service.id: service.status.engine for service in world.services}
        failures: dict[str, Failure] = {}
        for row in (row for rows in world.replicas.values() for row in rows):
            observed = world.observed.get(row.id)
            if row.state not in ("starting", "ready") or row.id in busy or (observed and observed.alive):
                continue
            failure = self._actor.failures.get(row.id)
            if failure is None and observed is not None and row.service_id in engines:
                output = await self._placement.logs(row.id, LOG_LINES)
                failure = Failure(self._engines(engines[row.service_id]).last_error(output))
            if failure is not None:
                failures[row.id] = failure
        return failures

    # --- plan

    def _plan(self, world: World, service_id: str, seen: Seen) -> Found | None:
        service = next((known for known in world.services if known.id == service_id), None)
        rows = world.replicas.get(service_id, [])
        if isinstance(service, ExternalService):
            return self._judge_external(service)
        if service is None:
            wanted = Wanted(service_id, 0, "", 0)
        else:
            wanted = Wanted(
                service.id,
                service.status.spec_version,
                recipe_of(service),
                wanted_replicas(service.spec),
                service.status.state,
                unfit(service, self._placement.capacity()),
            )
        plan = plan_service(wanted, rows, seen, self._times)
        ready = sum(row.state == "ready" for row in plan.replicas)
        progress = {"ready": ready, "wanted": wanted.replicas}
        return Found(service_id, service, plan, tuple(rows), progress, {})

    def _judge_external(self, service: ExternalService) -> Found:
        verdict = external_services.judge(service, self._prober.health)
        plan = Plan((), (), verdict.state, verdict.reason)
        return Found(service.id, service, plan, (), {}, {"urls": verdict.urls})

    # --- write down

    async def _write(self, at: datetime, found: Iterable[Found]) -> None:
        changed = [entry for entry in found if _differs(entry)]
        if not changed:
            return
        async with self._db.transaction() as tx:
            told: list[events.Event] = []
            for entry in changed:
                kept = {row.id for row in entry.plan.replicas}
                gone = [row.id for row in entry.before if row.id not in kept]
                before = {row.id: row for row in entry.before}
                await replica_store.save(tx, [row for row in entry.plan.replicas if before.get(row.id) != row], gone)
                if entry.service is not None:
                    await replica_store.set_service_state(
                        tx,
                        entry.service_id,
                        state=entry.plan.state,
                        reason=entry.plan.reason,
                        progress=entry.progress,
                        detail=entry.detail,
                        spec_version=entry.service.status.spec_version,
                    )
                    told += _events(at, entry, entry.service)
            await events.add(tx, told)
            served = [entry.service_id for entry in changed if _matters_to_gateways(entry)]
            if served:
                await changes.record(tx, "service", served)

    # --- act

    def _act(self, world: World, found: Iterable[Found], busy: frozenset[str]) -> None:
        rows: set[str] = set()
        for entry in found:
            rows |= {row.id for row in entry.plan.replicas} | {row.id for row in entry.before}
            service = entry.service if isinstance(entry.service, ModelService) else None
            for action in entry.plan.actions:
                self._actor.do(action, service)
        for replica in world.observed.values():
            if replica.replica_id not in rows and replica.replica_id not in busy:  # nobody remembers it
                self._actor.do(Stop(replica.replica_id) if replica.alive else Remove(replica.replica_id))

    def _watch(self, world: World, found: Iterable[Found]) -> None:
        wanted: dict[str, Watch] = {}
        for entry in found:
            if isinstance(entry.service, ExternalService):
                key = world.upstream_keys.get(entry.service_id, "")
                wanted |= external_services.watches(entry.service, key)
                continue
            engine = engine_of(entry.service.spec) if entry.service is not None else "llamacpp"
            for row in entry.plan.replicas:
                observed = world.observed.get(row.id)
                if observed is not None and observed.alive and observed.address:
                    wanted[row.id] = _replica_watch(self._engines(engine), row, observed)
        self._prober.watch_only(wanted)


def _ids(world: World) -> list[str]:
    known = [service.id for service in world.services]
    return known + sorted(world.replicas.keys() - set(known))


def _replica_watch(module: Any, row: Replica, observed: ObservedReplica) -> Watch:
    address, key = observed.address, observed.key
    mark = (address, key, observed.started_at)
    if row.state != "draining":
        return Watch(mark, lambda: module.probe(address, key), replica_pace)
    count = getattr(module, "in_flight", None)
    return Watch(
        mark,
        lambda: module.probe(address, key),
        draining_pace,
        (lambda: count(address, key)) if count is not None else None,
    )


def _seat(replica: Replica) -> Replica:
    return replace(
        replica, state="pending", reason="", address="", engine_key="", pid=None, restarts=0,
        next_start_at=None, started_at=None, ready_at=None,
    )  # fmt: skip


def _differs(entry: Found) -> bool:
    if entry.before != entry.plan.replicas:
        return True
    if entry.service is None:
        return False
    status = entry.service.status
    known = status.state, status.reason, status.progress, status.detail
    return known != (entry.plan.state, entry.plan.reason, entry.progress, entry.detail)


def _matters_to_gateways(entry: Found) -> bool:
    if entry.service is None:
        return False
    status = entry.service.status
    if (status.state, status.reason, status.detail) != (entry.plan.state, entry.plan.reason, entry.detail):
        return True
    return _served(entry.before) != _served(entry.plan.replicas)


def _served(replicas: Iterable[Replica]) -> list[tuple[object, ...]]:
    return sorted(
        (row.id, row.address, row.engine_key, row.slots, row.context_length) for row in replicas if row.state == "ready"
    )


def _events(at: datetime, entry: Found, service: AnyService) -> list[events.Event]:
    was = service.status.state, service.status.reason
    told = replica_events(entry.service_id, at, entry.before, entry.plan.replicas)
    return told + service_event(entry.service_id, at, was, (entry.plan.state, entry.plan.reason), told)
