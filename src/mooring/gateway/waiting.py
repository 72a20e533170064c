"""Who waits for a place in a service's engines, first come, first served.

An engine that is handed far more requests than it has slots works slower, not faster (llama.cpp wakes every waiting
thread at every token), and a request queued inside it can't go to another replica any more. So each worker hands a
replica at most `PLACES_PER_SLOT` requests per slot and keeps the rest here.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from mooring.core.errors import Unavailable

PLACES_PER_SLOT = 2  # one at work, one ready to follow without a pause
_MAX_WAITING = 2000


class Waiter(Protocol):
    """Someone in the line."""

    def released(self) -> None:
        """A place may be free: try again."""
        ...


class WaitingLines:
    """The lines of one worker, one per service id."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[str, deque[Waiter]] = {}

    def occupied(self, service: str) -> bool:
        """True when someone waits: whoever comes now must wait too."""
        return service in self._lines

    def enter(self, service: str, waiter: Waiter, *, first: bool = False) -> None:
        """Take the last place in the line; `first` for one that was released and found nothing free.

        Raises:
            Unavailable: the line is full.
        """
        line = self._lines.setdefault(service, deque())
        if first:
            line.appendleft(waiter)
            return
        if len(line) >= _MAX_WAITING:
            raise Unavailable(
                f"{len(line)} requests are waiting for this service already.",
                code="service_overloaded",
                retry_after_s=5.0,
            )
        line.append(waiter)

    def leave(self, service: str, waiter: Waiter) -> None:
        """Give the place in the line up; nothing happens when `waiter` is not in it."""
        line = self._lines.get(service)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        if not line:
            del self._lines[service]

    def release_all(self) -> None:
        """Let the first of every line try again: there may be new replicas, or none any more."""
        for service in list(self._lines):
            self.release_next(service)

    def release_next(self, service: str) -> None:
        """Let the first in the line try again; when it no longer waits afterwards, it releases the next."""
        line = self._lines.get(service)
        if line is None:
            return
        waiter = line.popleft()
        if not line:
            del self._lines[service]
        waiter.released()
