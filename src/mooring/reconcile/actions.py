"""Carries out what the plan says, each action in its own task: a slow stop of one engine delays nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mooring.control.services import model_path
from mooring.core.errors import Invalid, MooringError
from mooring.core.replicas import LaunchPlan, ReplicaPlace
from mooring.core.services import ModelService, engine_of, served_model
from mooring.engines import load_engine
from mooring.reconcile.plan import Action, Failure, Remove, Start, Stop
from mooring.settings import Settings

if TYPE_CHECKING:
    from mooring.placements.local import LocalPlacement

log = logging.getLogger(__name__)

Engines = Callable[[str], Any]
"""From an engine's registry name to its module; `engines.load_engine` is the real one."""


class Actor:
    """Starts, stops and removes replicas.

    Attributes:
        failures: why a start did not work, by replica id, until the loop has read it.
    """

    def __init__(
        self, placement: LocalPlacement, settings: Settings, wake: Callable[[], None], engines: Engines = load_engine
    ) -> None:
        self.failures: dict[str, Failure] = {}
        self._placement = placement
        self._settings = settings
        self._wake = wake
        self._engines = engines
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def busy(self) -> frozenset[str]:
        """The replicas on which an action is under way."""
        return frozenset(self._tasks)

    def do(self, action: Action, service: ModelService | None = None) -> None:
        """Begin an action; nothing happens while another one on the same replica is under way."""
        if action.replica_id in self._tasks:
            return
        task = asyncio.create_task(self._run(action, service), name=f"{action}")
        self._tasks[action.replica_id] = task
        task.add_done_callback(lambda _: self._done(action.replica_id, task))

    async def finish(self) -> None:
        """Wait for the actions that are under way."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _run(self, action: Action, service: ModelService | None) -> Coroutine[Any, Any, None]:
        match action:
            case Start(replica_id):
                assert service is not None
                return self._start(replica_id, service)
            case Stop(replica_id, grace_s):
                return self._placement.stop(replica_id, grace_s)
            case Remove(replica_id):
                return self._placement.remove(replica_id)

    async def _start(self, replica_id: str, service: ModelService) -> None:
        await self._placement.remove(replica_id)
        try:
            place = self._placement.place(replica_id)
            recipe = self._recipe(service, place)
            version = service.status.spec_version
            await self._placement.start(place, recipe, service_id=service.id, spec_version=version)
        except Invalid as error:
            self.failures[replica_id] = Failure(_told(error), final=True)
        except MooringError as error:  # such as a model file on a disk that is not there yet
            self.failures[replica_id] = Failure(_told(error))

    def _recipe(self, service: ModelService, place: ReplicaPlace) -> LaunchPlan:
        spec = service.spec
        name = served_model(service.metadata.name, spec)
        path = model_path(spec, self._settings)
        return self._engines(engine_of(spec)).launch_plan(spec.args, spec.env, path, name, place)

    def _done(self, replica_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[replica_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s: %r", task.get_name(), error, exc_info=not isinstance(error, OSError) and error)
            self.failures[replica_id] = Failure(str(error))
        self._wake()


def _told(error: MooringError) -> str:
    return f"{error.message} {error.next_step}".strip()
