"""Following what the platform streams, through cuts of the connection: nothing twice, nothing left out.

Events carry ids, so a new connection asks for those after the last one. Log lines carry none: a new connection asks
for the newest lines again, and those that were printed already are recognised by their sequence.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from mooring.cli.client import Client, Json
from mooring.cli.output import say
from mooring.cli.problems import CommandError

GIVE_UP_S = 300.0  # how long the platform may be away
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
EVENT_SILENCE_S = 45.0  # an empty line comes every 15 s
BURST_PAUSE_S = 0.5  # so long a silence ends what a new connection brings of the past
REMEMBERED = 200  # lines of each replica, to recognise them again
TAIL_AGAIN = 1000  # lines asked for after a cut
AWAY = (0, 502, 503, 504)  # no answer, or the gateway's for a control process that restarts

Piece = TypeVar("Piece")
_REPLICA = re.compile(r"^\[rep-[^\]]+\] ")


def follow_events(client: Client, path: str, exists: Callable[[], bool], **query: object) -> Iterator[Json]:
    """Yield events, oldest first, and then new ones as they come, until `exists` says that their subject is gone.

    Raises:
        CommandError: the platform refuses, or stays away for five minutes.
    """
    after = ""

    def connect(again: bool) -> Iterator[Json]:
        nonlocal after
        for line in client.lines(path, silence_s=EVENT_SILENCE_S, follow="true", **{**query, "after": after}):
            if line and (event := _event(line)):
                after = str(event["id"])
                yield event

    return _reconnecting(connect, exists)


def follow_lines(client: Client, path: str, exists: Callable[[], bool], tail: int, **query: object) -> Iterator[str]:
    """Yield the last `tail` lines of each replica and then new ones as they are written, until `exists` says no.

    Raises:
        CommandError: the platform refuses, or stays away for five minutes.
    """
    seen: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    def connect(again: bool) -> Iterator[str]:
        wanted = TAIL_AGAIN if again else tail
        reader = _Reader(client.lines(path, silence_s=None, follow="true", tail=wanted, **query))
        for line in unseen(reader.burst(), seen) if again else ():
            seen[_replica(line)].append(line)
            yield line
        for line in reader:
            seen[_replica(line)].append(line)
            yield line

    return _reconnecting(connect, exists)


def unseen(fresh: Sequence[str], seen: dict[str, deque[str]]) -> list[str]:
    """Return the lines of a new connection that were not printed before, judged for each replica by itself."""
    groups: dict[str, list[str]] = defaultdict(list)
    for line in fresh:
        groups[_replica(line)].append(line)
    left = {replica: known(list(seen[replica]), lines) for replica, lines in groups.items()}
    found: list[str] = []
    for line in fresh:
        if left[_replica(line)]:
            left[_replica(line)] -= 1
        else:
            found.append(line)
    return found


def known(seen: Sequence[str], fresh: Sequence[str]) -> int:
    """Return how many of the `fresh` lines were seen already: up to where they end as `seen` ends."""
    for count in range(len(fresh), 0, -1):
        length = min(count, len(seen))
        if length and fresh[count - length : count] == seen[-length:]:
            return count
    return 0


def _reconnecting(connect: Callable[[bool], Iterable[Piece]], exists: Callable[[], bool]) -> Iterator[Piece]:
    """Yield what one connection after the other brings. The first one must stand; later ones have patience."""
    again, away_since, pause_s = False, 0.0, FIRST_PAUSE_S
    while True:
        try:
            for piece in connect(again):
                away_since, pause_s = 0.0, FIRST_PAUSE_S
                yield piece
            again = True  # it has stood
            if not exists():
                return
            away_since = 0.0
        except CommandError as error:
            if not again or error.answered not in AWAY:
                raise
            now = time.monotonic()
            if not away_since:
                say("The platform is away; this goes on when it is back. Ctrl-C ends it.")
            elif now - away_since > GIVE_UP_S:
                raise
            away_since = away_since or now
        time.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, pause_s * 2)


class _Reader:
    """Reads lines in a thread of its own, so that a silence can be noticed without breaking the connection."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._queue: queue.Queue[str | CommandError | None] = queue.Queue(10_000)
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        self._ended = False

    def burst(self) -> list[str]:
        """Return what comes until the first pause."""
        lines: list[str] = []
        while (line := self._take(BURST_PAUSE_S if lines else None)) is not None:
            lines.append(line)
        return lines

    def __iter__(self) -> Iterator[str]:
        while not self._ended and (line := self._take(None)) is not None:
            yield line

    def _take(self, timeout_s: float | None) -> str | None:
        """Return the next line, None at the end or after a pause; raises what the reading raised."""
        try:
            line = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(line, CommandError):
            raise line
        self._ended = line is None
        return line

    def _read(self, lines: Iterator[str]) -> None:
        try:
            for line in lines:
                self._queue.put(line)
        except CommandError as error:
            self._queue.put(error)
        self._queue.put(None)


def _event(line: str) -> Json | None:
    try:
        return json.loads(line)
    except ValueError:  # the connection was cut in the middle of the line; the next one brings it whole
        return None


def _replica(line: str) -> str:
    found = _REPLICA.match(line)
    return found[0] if found else ""
