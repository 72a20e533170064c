"""The one runner of all loops: woken or by its beat, only with the lease, slower while it fails.

Here alone a broad `except` is right: whatever a step meets, the loop must go on, and say so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

log = logging.getLogger(__name__)

SLOW_STEP_S = 1.0
FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 30.0


class Clock(Protocol):
    """Time as loops see it, so that tests can turn it by hand."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        ...

    def now(self) -> datetime:
        """Return the time of day, aware, UTC."""
        ...

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait until `event` is set or `timeout_s` have passed; return whether it was set."""
        ...


class SystemClock:
    """The real clock."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the time of day, aware, UTC."""
        return datetime.now(UTC)

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait until `event` is set or `timeout_s` have passed; return whether it was set."""
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return False
        return True


Step = Callable[[], Awaitable[float | None]]
"""One round; returns the seconds after which the next one is due, if that is before the beat."""
May = Callable[[], Awaitable[bool]]


async def always() -> bool:
    """Say yes: for loops that need no lease."""
    return True


class Loop:
    """Runs `step` whenever it is woken, and at least every `beat_s` seconds.

    Args:
        name: for the log.
        step: one round of work; what it raises is logged, and the next round waits longer and longer.
        beat_s: longest time between two rounds.
        may: asked before each round; a loop without its lease does nothing in that round.
        clock: the time it lives in.
    """

    def __init__(self, name: str, step: Step, *, beat_s: float, may: May = always, clock: Clock | None = None) -> None:
        self.name = name
        self.failures = 0  # in a row
        self._step = step
        self._beat_s = beat_s
        self._may = may
        self._clock = clock or SystemClock()
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()

    def wake(self) -> None:
        """Make the next round come now. To be called in the loop's own thread."""
        self._woken.set()

    def stop(self) -> None:
        """Make `run` return after the round that is under way: nothing is broken off in the middle."""
        self._stopping.set()
        self._woken.set()

    async def run(self) -> None:
        """Run until stopped or cancelled."""
        while not self._stopping.is_set():
            self._woken.clear()  # before the round: what comes while it works is not lost
            due_s = await self._round()
            if self.failures:
                await self._clock.wait(self._stopping, self.backoff_s)  # no wake-up shortens a back-off
            elif not self._stopping.is_set():
                await self._clock.wait(self._woken, min(self._beat_s, due_s))

    @property
    def backoff_s(self) -> float:
        """Seconds to the next round after the failures seen so far."""
        return min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self.failures - 1, 16))

    async def _round(self) -> float:
        started = self._clock.monotonic()
        due_s: float | None = None
        try:
            if await self._may():
                due_s = await self._step()
            self.failures = 0
        except Exception as error:
            self.failures += 1
            detail = log.isEnabledFor(logging.DEBUG) or self.failures == 1
            log.error("loop %s failed %d times: %r", self.name, self.failures, error, exc_info=detail)
        took_s = self._clock.monotonic() - started
        if took_s > SLOW_STEP_S:
            log.warning("loop %s: one round took %.1f s", self.name, took_s)
        return self._beat_s if due_s is None else due_s
