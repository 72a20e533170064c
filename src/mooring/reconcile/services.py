"""The loop of the services: observe, plan, write down, act.

The truth about a process is what the placement sees, not the table: so a restarted control adopts what still runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mooring.core.external_services import ExternalService
from mooring.core.replicas import Capacity, ObservedReplica, Replica
from mooring.core.services import ModelService, recipe_part, wanted_replicas, with_recipe
from mooring.engines import load_engine
from mooring.reconcile import external_services
from mooring.reconcile.actions import Actor, Engines
from mooring.reconcile.history import adoption, replica_events, service_event
from mooring.reconcile.launching.machine import Machine
from mooring.reconcile.launching.models import Models, Standing
from mooring.reconcile.launching.recipes import recipe_of
from mooring.reconcile.loop import Clock, SystemClock
from mooring.reconcile.plan import (
    NO_LIMIT,
    SURGE,
    Failure,
    Plan,
    Remove,
    Seen,
    Start,
    Stop,
    Times,
    Wanted,
    plan_service,
)
from mooring.reconcile.probing import Prober, Watch, draining_pace, replica_pace
from mooring.settings import Settings
from mooring.sources.cache import ModelCache
from mooring.store import audit, changes, events
from mooring.store import replicas as replica_store
from mooring.store.database import Database, Transaction
from mooring.store.services import AnyService, good_recipes, list_all_services, roll_back, set_good
from mooring.store.snapshot_rows import Unseal, hub_tokens, upstream_keys

if TYPE_CHECKING:
    from mooring.placements.local import LocalPlacement

log = logging.getLogger(__name__)

BEAT_S = 1.0
LOG_LINES = 200  # of a dead engine's stderr, from which its error is read
LOADING_LINES = 40  # of a starting engine's, from which its progress is read


@dataclass(frozen=True, slots=True)
class World:
    """Everything one round decides on."""

    at: datetime
    services: list[AnyService]
    replicas: Mapping[str, list[Replica]]  # by service id
    observed: Mapping[str, ObservedReplica]
    upstream_keys: Mapping[str, str]
    good: Mapping[str, dict[str, Any]]  # service id → the last version that ran well
    standings: Mapping[str, Standing]  # of the deployed ones, by service id
    capacity: Capacity


@dataclass(frozen=True, slots=True)
class Found:
    """What one round found out about a service, to be written down. `service` is None when it was deleted."""

    service_id: str
    service: AnyService | None
    plan: Plan
    before: tuple[Replica, ...]
    progress: dict[str, Any]
    detail: dict[str, Any]
    standing: Standing = field(default_factory=Standing)
    engine: str = ""  # of those that serve, else the one to be started
    good: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what a roll-back goes back to
    remember: bool = False  # this version has run well for long: it is the next one to go back to


class Services:
    """Makes the replicas as the services want them.

    Args:
        unseal: opens a sealed secret: upstream keys are needed to ask external services, tokens to ask hubs.
        wake: makes the next round come now.
    """

    def __init__(
        self,
        db: Database,
        placement: LocalPlacement,
        cache: ModelCache,
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
        self._actor = Actor(placement, wake, engines)
        self._models = Models(settings, cache, engines, self._clock)
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
        machine = _machine(world)
        found = [await self._plan(world, service_id, seen, machine) for service_id in _ids(world)]
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
        await self.finish()

    async def finish(self) -> None:
        """Wait for the actions that are under way."""
        await self._actor.finish()

    async def stop_all(self, grace_s: float = 5.0) -> None:
        """End every replica: the ordered stop of the whole platform. Their seats start anew with the next start."""
        await self.close()
        await self._models.stop()
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
            tokens = await hub_tokens(tx, services, self._unseal)
            good = await good_recipes(tx)
        replicas: dict[str, list[Replica]] = defaultdict(list)
        for row in rows:
            replicas[row.service_id].append(row)
        capacity = self._placement.capacity()
        deployed = [service for service in services if isinstance(service, ModelService)]
        standings = await self._models.look(deployed, tokens, capacity)
        return World(self._clock.now(), services, replicas, observed, keys, good, standings, capacity)

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
        failures: dict[str, Failure] = {}
        for row in (row for rows in world.replicas.values() for row in rows):
            observed = world.observed.get(row.id)
            if row.state not in ("starting", "ready") or row.id in busy or (observed and observed.alive):
                continue
            failure = self._actor.failures.get(row.id)
            if failure is None and observed is not None:
                output = await self._placement.logs(row.id, LOG_LINES)
                failure = Failure(self._engines(observed.engine).last_error(output))
            if failure is not None:
                failures[row.id] = failure
        return failures

    # --- plan

    async def _plan(self, world: World, service_id: str, seen: Seen, machine: Machine) -> Found:
        service = next((known for known in world.services if known.id == service_id), None)
        rows = world.replicas.get(service_id, [])
        if isinstance(service, ExternalService):
            return self._judge_external(service)
        if service is None:
            plan = plan_service(Wanted(service_id, 0, "", 0), rows, seen, self._times)
            return Found(service_id, None, plan, tuple(rows), {}, {})
        standing, good = world.standings[service_id], world.good.get(service_id, {})
        wanted = _wanted(service, standing, good, machine)
        plan = plan_service(wanted, rows, seen, self._times)
        if standing.launch is not None:
            starts = sum(isinstance(action, Start) for action in plan.actions)
            machine.take(service_id, wanted.recipe, standing.launch.reserved, starts)
        ready = [row for row in plan.replicas if row.state == "ready"]
        progress: dict[str, Any] = {"ready": len(ready), "wanted": wanted.replicas, **standing.progress}
        if message := await self._loading(standing, plan):
            progress |= {"phase": "loading", "message": message}
        engines = [seen.observed[row.id].engine for row in ready if row.id in seen.observed]
        detail = _detail(service, standing)
        return Found(
            service_id, service, _told_roll_back(plan, detail), tuple(rows), progress, detail, standing,
            engine=next((engine for engine in engines if engine), standing.engine),
            good=good, remember=plan.steady and wanted.good != wanted.recipe,
        )  # fmt: skip

    async def _loading(self, standing: Standing, plan: Plan) -> str:
        """Return what the engine of a replica that starts says about its progress, "" if nothing."""
        starting = next((row.id for row in plan.replicas if row.state == "starting" and row.ready_at is None), "")
        if not starting or standing.launch is None:
            return ""
        return self._engines(standing.engine).progress(await self._placement.logs(starting, LOADING_LINES))

    def _judge_external(self, service: ExternalService) -> Found:
        verdict = external_services.judge(service, self._prober.health)
        plan = Plan((), (), verdict.state, verdict.reason)
        known = {name: told for name, told in service.status.detail.items() if name == "repairs"}
        return Found(service.id, service, plan, (), {}, {"urls": verdict.urls, **known})

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
                        engine=entry.engine or None,
                        types=list(entry.standing.types) or None,
                        spec_version=entry.service.status.spec_version,
                    )
                    told += _events(at, entry, entry.service)
                if isinstance(entry.service, ModelService):
                    told += await self._turn(tx, at, entry, entry.service)
            await events.add(tx, told)
            served = [entry.service_id for entry in changed if _matters_to_gateways(entry)]
            if served:
                await changes.record(tx, "service", served)

    async def _turn(self, tx: Transaction, at: datetime, entry: Found, service: ModelService) -> list[events.Event]:
        """Remember a version that runs well; roll back one that gave up. Return the event that says so."""
        if entry.remember:
            await set_good(tx, service.id, service.status.spec_version, recipe_part(service.spec))
        if not entry.plan.gave_up:
            return []
        told = {"version": service.status.spec_version, "reason": entry.plan.gave_up, "at": at.isoformat()}
        if not await roll_back(tx, service, with_recipe(service.spec, entry.good["recipe"]), told):
            return []
        await audit.add_entry(
            tx,
            actor="platform",
            action="roll-back",
            kind=service.kind,
            object_id=service.id,
            project=service.metadata.project,
            detail={"name": service.metadata.name, "version": told["version"]},
        )
        which = f"Version {told['version']} did not come up; back to version {entry.good['version']}."
        return [events.Event(service.id, "", at, "error", "RolledBack", f"{which} {entry.plan.gave_up}")]

    # --- act

    def _act(self, world: World, found: Iterable[Found], busy: frozenset[str]) -> None:
        rows: set[str] = set()
        for entry in found:
            rows |= {row.id for row in entry.plan.replicas} | {row.id for row in entry.before}
            for action in entry.plan.actions:
                self._actor.do(action, entry.standing.launch)
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
            for row in entry.plan.replicas:
                observed = world.observed.get(row.id)
                if observed is not None and observed.alive and observed.address:
                    wanted[row.id] = _replica_watch(self._engines(observed.engine), row, observed)
        self._prober.watch_only(wanted)


def _ids(world: World) -> list[str]:
    """Return the services by age: the oldest takes its room on the machine first."""
    by_age = sorted(world.services, key=lambda service: (service.metadata.created_at or world.at, service.id))
    known = [service.id for service in by_age]
    return known + sorted(world.replicas.keys() - set(known))


def _machine(world: World) -> Machine:
    names = {service.id: service.metadata.name for service in world.services}
    launches = {service_id: standing.launch for service_id, standing in world.standings.items()}
    needs = {service_id: launch.reserved for service_id, launch in launches.items() if launch is not None}
    return Machine(world.capacity, names, world.replicas, world.observed, needs)


def _wanted(service: ModelService, standing: Standing, good: Mapping[str, Any], machine: Machine) -> Wanted:
    recipe, in_place = recipe_of(service), service.spec.update == "recreate"
    room, lack = NO_LIMIT, ""
    if standing.launch is not None:
        room, lack = machine.room(service.id, recipe, standing.launch.reserved, in_place=in_place)
    return Wanted(
        service.id,
        service.status.spec_version,
        recipe,
        wanted_replicas(service.spec),
        service.status.state,
        standing.hold,
        surge=0 if in_place else SURGE,
        room=room,
        lack=lack,
        good=recipe_of(service, with_recipe(service.spec, good["recipe"])) if good else "",
    )


def _detail(service: ModelService, standing: Standing) -> dict[str, Any]:
    """Return what is told of the model; that a version was rolled back is told until the next change."""
    detail: dict[str, Any] = {}
    if standing.launch is not None:
        model = standing.launch.request.model
        detail["model"] = {"format": model.format, "bytes": model.bytes} | (
            {"revision": model.revision} if model.revision else {}
        )
    if standing.need is not None:
        detail["memory"] = {"bytes": standing.need.total, "told": standing.need.told(), "device": standing.need.device}
    if standing.unfit and wanted_replicas(service.spec):
        detail["unfit"] = standing.unfit
    if "rolledBack" in service.status.detail:
        detail["rolledBack"] = service.status.detail["rolledBack"]
    return detail


def _told_roll_back(plan: Plan, detail: Mapping[str, Any]) -> Plan:
    if plan.state != "healthy" or plan.reason or "rolledBack" not in detail:
        return plan
    told = detail["rolledBack"]
    return replace(plan, reason=f"Version {told['version']} did not come up and was rolled back: {told['reason']}")


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
    if entry.remember or entry.plan.gave_up:
        return True
    status = entry.service.status
    known = status.state, status.reason, status.progress, status.detail
    if _differs_in_kind(entry):
        return True
    return known != (entry.plan.state, entry.plan.reason, entry.progress, entry.detail)


def _differs_in_kind(entry: Found) -> bool:
    """Return whether another engine serves, or other kinds of call are answered, than was written down."""
    if entry.service is None:
        return False
    status, types = entry.service.status, list(entry.standing.types)
    return entry.engine not in ("", status.engine) or (bool(types) and types != status.types)


def _matters_to_gateways(entry: Found) -> bool:
    if entry.service is None:
        return False
    status = entry.service.status
    if (status.state, status.reason, status.detail) != (entry.plan.state, entry.plan.reason, entry.detail):
        return True
    if _differs_in_kind(entry):
        return True
    return _served(entry.before) != _served(entry.plan.replicas)


def _served(replicas: Iterable[Replica]) -> list[tuple[object, ...]]:
    return sorted(
        (row.id, row.address, row.engine_key, row.slots, row.context_length, row.adapters)
        for row in replicas
        if row.state == "ready"
    )


def _events(at: datetime, entry: Found, service: AnyService) -> list[events.Event]:
    was = service.status.state, service.status.reason
    told = replica_events(entry.service_id, at, entry.before, entry.plan.replicas)
    return told + service_event(entry.service_id, at, was, (entry.plan.state, entry.plan.reason), told)
