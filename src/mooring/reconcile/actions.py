"""Carries out what the plan says, each action in its own task: a slow stop of one engine delays nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mooring.core.errors import Invalid, MooringError
from mooring.core.replicas import NOTHING_RESERVED, LaunchRequest, Reserved
from mooring.engines import load_engine
from mooring.reconcile.plan import Action, Failure, Remove, Start, Stop

if TYPE_CHECKING:
    from mooring.placements.local import LocalPlacement

log = logging.getLogger(__name__)

Engines = Callable[[str], Any]
"""From an engine's registry name to its module; `engines.load_engine` is the real one."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that a replica of a service is started with."""

    service_id: str
    spec_version: int
    engine: str
    request: LaunchRequest
    reserved: Reserved = NOTHING_RESERVED
    share: int = 1  # replicas that share the cores where none are set aside


class Actor:
    """Starts, stops and removes replicas.

    Attributes:
        failures: why a start did not work, by replica id, until the loop has read it.
    """

    def __init__(self, placement: LocalPlacement, wake: Callable[[], None], engines: Engines = load_engine) -> None:
        self.failures: dict[str, Failure] = {}
        self._placement = placement
        self._wake = wake
        self._engines = engines
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def busy(self) -> frozenset[str]:
        """The replicas on which an action is under way."""
        return frozenset(self._tasks)

    def do(self, action: Action, launch: Launch | None = None) -> None:
        """Begin an action; nothing happens while another one on the same replica is under way."""
        if action.replica_id in self._tasks:
            return
        task = asyncio.create_task(self._run(action, launch), name=f"{action}")
        self._tasks[action.replica_id] = task
        task.add_done_callback(lambda _: self._done(action.replica_id, task))

    async def finish(self) -> None:
        """Wait for the actions that are under way."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _run(self, action: Action, launch: Launch | None) -> Coroutine[Any, Any, None]:
        match action:
            case Start(replica_id):
                assert launch is not None
                return self._start(replica_id, launch)
            case Stop(replica_id, grace_s):
                return self._placement.stop(replica_id, grace_s)
            case Remove(replica_id):
                return self._placement.remove(replica_id)

    async def _start(self, replica_id: str, launch: Launch) -> None:
        await self._placement.remove(replica_id)
        try:
            place = self._placement.place(replica_id, launch.reserved, launch.share)
            recipe = await asyncio.to_thread(self._engines(launch.engine).launch_plan, launch.request, place)
            await self._placement.start(
                place,
                recipe,
                service_id=launch.service_id,
                spec_version=launch.spec_version,
                engine=launch.engine,
                adapters=[adapter.name for adapter in launch.request.adapters],
                reserved=launch.reserved,
            )
        except Invalid as error:
            self.failures[replica_id] = Failure(_told(error), final=True)
        except MooringError as error:  # such as a shim that can't start
            self.failures[replica_id] = Failure(_told(error))

    def _done(self, replica_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[replica_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s: %r", task.get_name(), error, exc_info=not isinstance(error, OSError) and error)
            self.failures[replica_id] = Failure(str(error))
        self._wake()


def _told(error: MooringError) -> str:
    return f"{error.message} {error.next_step}".strip()
