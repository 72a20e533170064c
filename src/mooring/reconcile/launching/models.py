"""From a spec to what a replica is started with: finds the files, has them fetched, picks the engine, adds up memory.

What lies on the disk is the truth, looked at anew in every round; only the reading of model files is remembered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mooring.core.errors import Invalid, MooringError
from mooring.core.files import private_folder
from mooring.core.models import FetchOrder, FetchReport, ModelFiles
from mooring.core.replicas import AdapterFiles, Capacity, LaunchRequest, MemoryNeed, gib
from mooring.core.services import (
    CALL_TYPES,
    BuiltinModel,
    HubModel,
    LocalModel,
    ModelService,
    engine_for,
    hubs_of,
    memory_bytes,
    orders_of,
    served_model,
    wanted_replicas,
)
from mooring.engines import load_engine
from mooring.engines.vllm import missing_program
from mooring.reconcile.actions import Engines, Launch
from mooring.reconcile.launching.recipes import recipe_of, reserved_of, unfit
from mooring.reconcile.loop import Clock, SystemClock
from mooring.reconcile.plan import Hold
from mooring.settings import Settings
from mooring.sources.builtin import find_builtin
from mooring.sources.cache import ModelCache
from mooring.sources.local import find_local, find_local_adapter

log = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 300.0
MOST_KNOWN = 1000  # models whose files need not be read again
_COMING = {
    "absent": "waits",
    "waiting": "waits",
    "listing": "is being looked up",
    "verifying": "is being verified",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """How ready a service is for a start: `launch`, or why not."""

    engine: str = ""
    launch: Launch | None = None
    hold: Hold | None = None
    progress: dict[str, Any] = field(default_factory=dict[str, Any])
    need: MemoryNeed | None = None
    types: tuple[str, ...] = ()  # kinds of call it answers; () = not known
    unfit: str = ""  # why this machine can never hold it


@dataclass(frozen=True, slots=True)
class _Read:
    """What an engine module read from a model's files."""

    need: MemoryNeed
    types: tuple[str, ...]


@dataclass(slots=True)
class _Attempt:
    """What is known of the tries at an order, and for which versions of which services with which credential."""

    order: FetchOrder
    marks: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])  # by service id
    done_bytes: int = 0
    failures: int = 0  # in a row, without a new byte
    next_at: float = 0.0  # monotonic seconds

    def is_due(self, service: ModelService, token: str, report: FetchReport, now: float) -> bool:
        """Return whether to begin: it is new, has failed a while ago, or somebody asks anew who may have more luck."""
        before, mark = self.marks.get(service.id), (service.status.spec_version, token)
        asks_anew = before != mark
        self.marks[service.id] = mark
        if report.state not in ("failed", "absent"):
            return before is not None and before[1] != token  # the one under way shows the old credential
        if report.state == "failed" and not asks_anew:
            if report.final:
                return False
            if not self.next_at:
                self.failures = self.failures + 1 if report.done_bytes <= self.done_bytes else 1
                self.done_bytes = report.done_bytes
                self.next_at = now + min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (self.failures - 1))
            if now < self.next_at:
                return False
        self.next_at = 0.0
        return True


class Models:
    """Looks at the models of all services.

    Args:
        cache: where the files from hubs lie.
        engines: from an engine's name to its module.
    """

    def __init__(
        self, settings: Settings, cache: ModelCache, engines: Engines = load_engine, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._engines = engines
        self._clock = clock or SystemClock()
        self._attempts: dict[str, _Attempt] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}  # fetches that begin, by the key of their order
        self._known: dict[tuple[str, str, int], _Read] = {}

    async def look(
        self, services: Iterable[ModelService], tokens: Mapping[tuple[str, str], str], capacity: Capacity
    ) -> dict[str, Standing]:
        """Return the standing of each service by id; fetches that are due begin.

        Args:
            services: those that are deployed.
            tokens: (project, secret name) → credential for a hub.
            capacity: of the placement.
        """
        found: dict[str, Standing] = {}
        keys: set[str] = set()
        for service in services:
            orders = orders_of(service.spec, service.metadata.project)
            reports = [await self._report(order) for _, order in orders]
            if lacks := self._lacks_program(service, reports):
                found[service.id] = Standing("vllm", hold=Hold(lacks, "failed"))
                continue
            if wanted_replicas(service.spec):
                for number, (hub, order) in enumerate(orders):
                    keys.add(order.key)
                    token = tokens.get((service.metadata.project, hub.token_secret or ""), "")
                    if self._fetch(service, order, reports[number], token):
                        reports[number] = replace(reports[number], state="waiting", reason="", final=False)
            found[service.id] = await asyncio.to_thread(self._judge, service, reports, capacity)
        for key in self._attempts.keys() - keys - self._starting.keys():  # no service waits for it any more
            await self._cache.stop(self._attempts.pop(key).order)
        return found

    async def _report(self, order: FetchOrder) -> FetchReport:
        return await asyncio.to_thread(self._cache.report, order)

    def _lacks_program(self, service: ModelService, reports: list[FetchReport]) -> str:
        """Return what to do when the files that are coming need a program that is not there: before they have come."""
        if not isinstance(service.spec.model, HubModel) or not reports or reports[0].format != "safetensors":
            return ""
        needed = engine_for(service.spec, "safetensors") == "vllm"
        return missing_program(self._settings.vllm_program) if needed else ""

    async def stop(self) -> None:
        """End the fetches; they go on where they were at the next start."""
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        await self._cache.stop_all()

    def _fetch(self, service: ModelService, order: FetchOrder, report: FetchReport, token: str) -> bool:
        """Return whether a fetch begins: one that is due does, in a task of its own, so that no round waits for it."""
        if order.key in self._starting:
            return True
        if report.state == "complete":
            self._attempts.pop(order.key, None)
            return False
        attempt = self._attempts.setdefault(order.key, _Attempt(order))
        if not attempt.is_due(service, token, report, self._clock.monotonic()):
            return False
        task = asyncio.create_task(self._begin(order, token), name=f"fetch {order.name}")
        self._starting[order.key] = task
        task.add_done_callback(lambda _: self._starting.pop(order.key, None))
        return True

    async def _begin(self, order: FetchOrder, token: str) -> None:
        try:
            await self._cache.stop(order)  # one with another credential
            await self._cache.fetch(order, token)
        except (MooringError, OSError) as error:
            log.warning("the fetch of %s could not start: %s", order.name, error)

    def _judge(self, service: ModelService, reports: list[FetchReport], capacity: Capacity) -> Standing:
        spec = service.spec
        problem = unfit(spec, capacity)
        if problem:
            return Standing(service.status.engine, hold=Hold(problem), unfit=problem)
        waiting = [report for report in reports if report.state != "complete"]
        if waiting:
            return _downloading(service, reports, waiting)
        try:
            model, adapters = self._files(service, reports)
        except (MooringError, OSError) as error:
            # A local file may still come (a disk that is not there yet); a built-in model will not.
            state = "failed" if isinstance(spec.model, BuiltinModel) else "pending"
            return Standing(service.status.engine, hold=Hold(_told(error), state))
        return self._ready(service, model, adapters, capacity)

    def _files(self, service: ModelService, reports: list[FetchReport]) -> tuple[ModelFiles, tuple[AdapterFiles, ...]]:
        """Return the files; raises MooringError or OSError where a local one can't be used."""
        spec, roots = service.spec, self._settings.model_roots
        fetched = iter([report.files for report in reports if report.files is not None])
        if isinstance(spec.model, BuiltinModel):
            model = find_builtin(spec.model.name)
        elif isinstance(spec.model, LocalModel):
            model = find_local(spec.model.path, roots)
        else:
            model = next(fetched)
        adapters = [
            AdapterFiles(
                adapter.name,
                find_local_adapter(adapter.model.path, roots)
                if isinstance(adapter.model, LocalModel)
                else next(fetched).path,
            )
            for adapter in spec.adapters
        ]
        return model, tuple(adapters)

    def _ready(
        self, service: ModelService, model: ModelFiles, adapters: tuple[AdapterFiles, ...], capacity: Capacity
    ) -> Standing:
        spec, engine = service.spec, engine_for(service.spec, model.format)
        program = self._settings.vllm_program if engine == "vllm" else ()
        if program and (missing := missing_program(program)):
            return Standing(engine, hold=Hold(missing, "failed"))
        request = LaunchRequest(
            model=model,
            served_model=served_model(service.metadata.name, spec),
            args=tuple(spec.args),
            env=dict(spec.env),
            adapters=adapters,
            types=tuple(spec.types or ()),
            gpus=spec.resources.gpus,
            program=program,
            cache=self._settings.data_dir.absolute() / "cache" / "engines" if program else None,
        )
        try:
            if request.cache is not None:
                private_folder(request.cache)
            read = self._read(service, engine, request)
        except (MooringError, OSError) as error:
            final = isinstance(error, Invalid)  # else a file that can't be read at the moment
            return Standing(engine, hold=Hold(_told(error), "failed" if final else "pending"))
        need = read.need
        problem = too_large(need, spec.resources.memory, capacity)
        if problem:
            return Standing(engine, hold=Hold(problem, "failed"), need=need)
        reserved = reserved_of(spec, need.total if need.device == "memory" else 0)
        launch = Launch(
            service.id, service.status.spec_version, engine, request, reserved, max(1, wanted_replicas(spec))
        )
        return Standing(engine, launch, need=need, types=tuple(spec.types or read.types))

    def _read(self, service: ModelService, engine: str, request: LaunchRequest) -> _Read:
        place = request.model.path
        name = recipe_of(service), str(place), place.stat().st_mtime_ns
        if name not in self._known:
            if len(self._known) > MOST_KNOWN:
                self._known.clear()
            module = self._engines(engine)
            able = module.capabilities(request)
            self._known[name] = _Read(module.memory_need(request), tuple(kind for kind in CALL_TYPES if kind in able))
        return self._known[name]


def too_large(need: MemoryNeed, asked: str | None, capacity: Capacity) -> str:
    """Return why a replica can't have the memory it needs, with the sum; "" if it can."""
    if need.device != "memory":
        return ""
    advice = "Choose a smaller context (--ctx-size, --max-model-len), a smaller quantisation or a smaller model."
    total = capacity.memory_mib << 20
    if need.total > total:
        return f"The model needs {need.told()}; this machine has {gib(total)}. {advice}"
    if asked and need.total > memory_bytes(asked):
        return f"The model needs {need.told()}; resources.memory gives it {asked}. Raise it, or leave it out. {advice}"
    return ""


def _downloading(service: ModelService, reports: list[FetchReport], waiting: list[FetchReport]) -> Standing:
    failed = next((report for report in waiting if report.state == "failed"), None)
    progress = _progress(reports)
    names = {id(report): hub.name for report, hub in zip(reports, hubs_of(service.spec), strict=True)}
    if failed is not None:
        name = names[id(failed)]
        if failed.final:
            return Standing(hold=Hold(f"{name} can't be fetched: {failed.reason}", "failed"), progress=progress)
        reason = f"{name}: {failed.reason} It is tried again."
        return Standing(hold=Hold(reason, "downloading"), progress=progress)
    first = waiting[0]
    what = _COMING.get(first.state, "is being downloaded")
    reason = f"{names[id(first)]} {what}." + (f" {first.reason}" if first.reason else "")
    return Standing(hold=Hold(reason, "downloading"), progress=progress)


def _progress(reports: list[FetchReport]) -> dict[str, Any]:
    current = next((report for report in reports if report.state not in ("complete", "failed")), reports[0])
    known = all(report.total_bytes for report in reports)
    return {
        "phase": current.state if current.state not in ("absent", "failed") else "waiting",
        "doneBytes": sum(report.done_bytes for report in reports),
        "totalBytes": sum(report.total_bytes for report in reports) if known else 0,
        "doneFiles": sum(report.done_files for report in reports),
        "totalFiles": sum(report.total_files for report in reports),
        "bytesPerSecond": round(sum(report.bytes_per_s for report in reports)),
    }


def _told(error: MooringError | OSError) -> str:
    if isinstance(error, MooringError):
        return f"{error.message} {error.next_step}".strip()
    return f"{error.filename}: {error.strerror}." if error.filename else str(error)
