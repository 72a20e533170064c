"""What one gateway worker is made of; built once in `worker`, handed to every connection."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mooring.gateway.answers.lessons import Lessons
from mooring.gateway.answers.moderation import Checker
from mooring.gateway.http1.known_heads import KnownHeads
from mooring.gateway.http1.timers import TimerWheel
from mooring.gateway.snapshot import Table
from mooring.gateway.usage.journal import Journal
from mooring.gateway.waiting import WaitingLines
from mooring.settings import Settings

if TYPE_CHECKING:
    from mooring.gateway.server import ClientConnection


@dataclass(slots=True)
class Parts:
    """The worker's parts. `table` is swapped by the feed; everything else stays."""

    settings: Settings
    loop: asyncio.AbstractEventLoop
    table: Table
    journal: Journal
    timers: TimerWheel
    public_socket: str  # control's socket, for everything that is not inference
    waiting: WaitingLines = field(default_factory=WaitingLines)
    heads: KnownHeads = field(default_factory=KnownHeads)
    checker: Checker | None = None  # who decides which texts are let through; without one, all are
    lessons: Lessons = field(default_factory=Lessons)
    connections: set[ClientConnection] = field(default_factory=set["ClientConnection"])
    max_connections: int = 10_000
    body_bytes: int = 0  # buffered request bodies of all connections
    draining: bool = False
    _prefix: str = field(default_factory=lambda: secrets.token_hex(6))
    _count: int = 0

    def new_request_id(self) -> str:
        """Return an id that is unique over all workers: a random prefix per process and a count."""
        self._count += 1
        return f"req-{self._prefix}-{self._count:08x}"
