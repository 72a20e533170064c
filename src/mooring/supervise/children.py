"""The supervisor's children: which command and environment, when to start it again, when it counts as hung."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["control", "gateway", "banner"]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
STEADY_AFTER_S = 30.0  # a child that lived this long starts again without a pause that grew
BEAT_BYTES = 8
BEAT_TIMEOUT_S = 5.0
FIRST_BEAT_TIMEOUT_S = 60.0  # imports on a slow disk
_PYTHON = (sys.executable, "-P", "-m")
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Commands:
    """What to execute for each role. An empty command leaves that role out."""

    control: Sequence[str] = (*_PYTHON, "mooring.app", "control")
    gateway: Sequence[str] = (*_PYTHON, "mooring.app", "gateway")
    banner: Sequence[str] = (*_PYTHON, "mooring.supervise.banner")


@dataclass(slots=True)
class Child:
    """One running child. Times are CLOCK_MONOTONIC seconds."""

    role: Role
    pid: int
    started: float
    seat: int = 0  # which of the public sockets a gateway accepts on
    slot: int = 0  # its cell in the beat file: seat, or seat + workers while it replaces another
    replaces: Child | None = None  # to be stopped once this one beats
    kill_at: float | None = None  # set when it was told to end

    @property
    def leaving(self) -> bool:
        """Return whether it was told to end."""
        return self.kill_at is not None


@dataclass(slots=True)
class Pause:
    """How long to wait before a role is started again; one per control and per gateway seat."""

    seconds: float = 0.0
    until: float = 0.0

    def after_death(self, now: float, lived_s: float) -> None:
        """Take note of a death at `now`."""
        self.seconds = next_pause_s(self.seconds, lived_s)
        self.until = now + self.seconds


def next_pause_s(previous_s: float, lived_s: float) -> float:
    """Return the pause before the next start: 0.1 s doubling to 10 s, short again after 30 s of life."""
    if lived_s >= STEADY_AFTER_S or previous_s == 0.0:
        return FIRST_PAUSE_S
    return min(LONGEST_PAUSE_S, previous_s * 2)


def is_hung(beat_ns: int, started: float, now: float) -> bool:
    """Return whether a gateway that last beat at `beat_ns` (CLOCK_MONOTONIC; 0 = never) must be taken for hung."""
    if beat_ns == 0:
        return now - started > FIRST_BEAT_TIMEOUT_S
    return now - beat_ns / 1e9 > BEAT_TIMEOUT_S


@dataclass(slots=True)
class Beats:
    """The beat file: 8 bytes per slot, in which a worker writes the monotonic clock (ns, little-endian) each 0.5 s."""

    path: str
    slots: int
    _descriptor: int = field(init=False)

    def __post_init__(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # a worker of an unclean stop may still have the old one mapped
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(self._descriptor, bytes(BEAT_BYTES * self.slots))

    def read(self, slot: int) -> int:
        """Return the last beat of a slot in nanoseconds, 0 if there was none."""
        return int.from_bytes(os.pread(self._descriptor, BEAT_BYTES, BEAT_BYTES * slot), "little")

    def clear(self, slot: int) -> None:
        """Forget the beat of a slot's former worker."""
        os.pwrite(self._descriptor, bytes(BEAT_BYTES), BEAT_BYTES * slot)


def spawn(command: Sequence[str], environment: Mapping[str, str], listener: socket.socket | None = None) -> int:
    """Start a child in a process group of its own (a Ctrl-C is for the supervisor) and return its pid.

    It inherits stdin, stdout, stderr and `listener`, nothing else.

    Raises:
        OSError: the program can't be executed.
    """
    if listener is not None:
        listener.set_inheritable(True)
    try:
        return os.posix_spawn(
            command[0], list(command), dict(environment), setpgroup=0, setsigmask=(), setsigdef=_HANDLED
        )
    finally:
        if listener is not None:
            listener.set_inheritable(False)
