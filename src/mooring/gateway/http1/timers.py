"""One coarse timer for everything that can time out, and the coarse clock it drives.

A watched item carries `deadline` (monotonic seconds, `inf` = none) and is looked at no later than `_HORIZON_S`
after the deadline moved nearer, so that setting a deadline on the hot path is one attribute store.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

_HORIZON_S = 4


class Timed(Protocol):
    """Something with a deadline."""

    deadline: float
    closed: bool

    def on_deadline(self, now: float) -> None:
        """Called when `deadline` has passed; must move or clear it, or close the item."""
        ...


class TimerWheel:
    """Buckets of items by the second in which they must be looked at next.

    `now` is the coarse clock: monotonic seconds, at most one tick (`tick_s`) old.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tick_s: float = 0.5) -> None:
        self._loop = loop
        self._tick_s = tick_s
        self._buckets: dict[int, list[Timed]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self.now = time.monotonic()
        self._next = int(self.now)

    def start(self) -> None:
        self._handle = self._loop.call_later(self._tick_s, self._tick)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def watch(self, item: Timed) -> None:
        """Look after `item` until it is closed."""
        self._put(item, self.now)

    def _put(self, item: Timed, now: float) -> None:
        second = int(min(max(item.deadline, now), now + _HORIZON_S)) + 1
        self._buckets.setdefault(second, []).append(item)

    def _tick(self) -> None:
        try:
            self.turn(time.monotonic())
        finally:
            self.start()  # whatever one item did: without the wheel nothing times out any more

    def turn(self, now: float) -> None:
        """Look at every bucket due by `now` (monotonic seconds)."""
        self.now = now
        while self._next <= now:
            bucket = self._buckets.get(self._next)
            if not bucket:
                self._buckets.pop(self._next, None)
                self._next += 1
                continue
            item = bucket.pop()  # one that fails ends this turn; the rest of its bucket waits here for the next
            if item.closed:
                continue
            try:
                if item.deadline <= now:
                    item.on_deadline(now)
            finally:
                if not item.closed:
                    self._put(item, now)
