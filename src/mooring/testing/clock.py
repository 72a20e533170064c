"""A clock that tests turn by hand: no test sleeps."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class ManualClock:
    """Time stands still until `advance` is called."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._passed_s = 0.0
        self._waiting: list[tuple[float, asyncio.Event]] = []

    def monotonic(self) -> float:
        """Return the seconds that passed since the clock was made."""
        return self._passed_s

    def now(self) -> datetime:
        """Return the time of day."""
        return self._start + timedelta(seconds=self._passed_s)

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait until `event` is set or the clock was turned by `timeout_s`; return whether it was set."""
        due = asyncio.Event()
        entry = (round(self._passed_s + timeout_s, 6), due)
        self._waiting.append(entry)
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(due.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            if entry in self._waiting:
                self._waiting.remove(entry)
        return event.is_set()

    @property
    def waits_s(self) -> list[float]:
        """Seconds until each of the waits that are under way ends by itself."""
        return [round(due_at - self._passed_s, 6) for due_at, _ in self._waiting]

    async def advance(self, seconds: float) -> None:
        """Turn the clock and let everything that became due run."""
        self._passed_s = round(self._passed_s + seconds, 6)
        for due_at, due in self._waiting:
            if due_at <= self._passed_s:
                due.set()
        await self.settle()

    async def settle(self, turns: int = 50) -> None:
        """Let the other tasks run for some turns of the loop."""
        for _ in range(turns):
            await asyncio.sleep(0)
