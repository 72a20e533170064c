"""Asks engines and external services how they are, each at its own pace, apart from the loop that decides.

One silent engine must not delay the others, so every one has its own task; the loop only reads `health`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace

from mooring.core.replicas import Probe
from mooring.reconcile.loop import Clock, SystemClock
from mooring.reconcile.plan import MISSES, Health

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 5.0
Pace = Callable[[Health, float], float]


@dataclass(frozen=True, slots=True)
class Watch:
    """Whom to ask and how.

    Attributes:
        mark: what makes it another one under the same name (address, key): its health starts anew.
        ask: asks once.
        pace: from the health and the seconds watched so far, the seconds to the next question.
        count: asks for the number of requests in flight; None = do not ask.
    """

    mark: Hashable
    ask: Callable[[], Awaitable[Probe]]
    pace: Pace
    count: Callable[[], Awaitable[int | None]] | None = None


def replica_pace(health: Health, watched_s: float) -> float:
    """Ask a starting engine often, so that it serves as soon as it can; a ready one every two seconds."""
    if health.misses == 0 and health.probe is not None:
        return 2.0
    if health.misses < MISSES and watched_s > 60:
        return 0.5
    return 0.05 if watched_s < 5 else 0.25 if watched_s < 30 else 1.0


def draining_pace(_health: Health, _watched_s: float) -> float:
    """Ask a draining engine often enough to stop it soon after its last request."""
    return 0.5


def external_pace(health: Health, _watched_s: float) -> float:
    """Ask a service elsewhere twice a minute, and sooner again when it just failed."""
    return 5.0 if 0 < health.misses < MISSES else 30.0


class Prober:
    """Keeps `health` up to date for everything that is watched; calls `wake` when a verdict changes."""

    def __init__(self, wake: Callable[[], None], clock: Clock | None = None) -> None:
        self.health: dict[str, Health] = {}
        self._wake = wake
        self._clock = clock or SystemClock()
        self._watches: dict[str, Watch] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch_only(self, wanted: dict[str, Watch]) -> None:
        """Watch these and no others; who is watched already goes on undisturbed."""
        for name in [*self._tasks]:
            known = self._watches[name]
            if name not in wanted or wanted[name].mark != known.mark or self._tasks[name].done():
                self._forget(name)
        for name, watch in wanted.items():
            self._watches[name] = watch
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._follow(name), name=f"probe {name}")

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._tasks.values())
        for name in [*self._tasks]:
            self._forget(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, name: str) -> None:
        task = self._tasks.pop(name)
        if task.done() and not task.cancelled() and task.exception() is not None:
            log.error("probe of %s broke", name, exc_info=task.exception())
        task.cancel()
        self.health.pop(name, None)
        del self._watches[name]

    async def _follow(self, name: str) -> None:
        begun = self._clock.monotonic()
        while True:
            watch = self._watches[name]
            before = self.health.get(name, Health())
            after = self._judge(before, await _answer(watch))
            if watch.count is not None:
                after = replace(after, in_flight=await watch.count())
            self.health[name] = after
            if _verdict(before) != _verdict(after):
                self._wake()
            await self._clock.wait(asyncio.Event(), watch.pace(after, self._clock.monotonic() - begun))

    def _judge(self, before: Health, probe: Probe) -> Health:
        if probe.state == "ready":
            return Health(probe)
        since = before.silent_since if before.misses else self._clock.now().timestamp()
        return Health(probe, min(before.misses + 1, 1_000_000), since)


async def _answer(watch: Watch) -> Probe:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await watch.ask()
    except TimeoutError:
        return Probe("unreachable", f"no answer within {ANSWER_TIMEOUT_S:.0f} s")
    except OSError as error:
        return Probe("unreachable", str(error))


def _verdict(health: Health) -> tuple[object, ...]:
    return health.probe, min(health.misses, MISSES), health.in_flight
