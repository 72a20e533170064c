"""Knowing a process again: a pid alone may have been given to another one; pid, start time and boot id may not.

Signals go through a pidfd that is opened before the start time is compared, so the right process or none gets them.
Imports little: every replica's shim carries this module.
"""

from __future__ import annotations

import os
import select
import signal

_STATE, _GROUP, _SESSION, _START_TIME = 0, 2, 3, 19  # positions behind "pid (name) " in /proc/<pid>/stat


def boot_id() -> str:
    """Return the random id of this boot of the machine; "" where the kernel tells none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def start_time(pid: int) -> int | None:
    """Return when a running process started (clock ticks since boot), or None if it ended, also if not yet reaped."""
    fields = _stat(pid)
    if fields is None or fields[_STATE] in ("Z", "X"):
        return None
    return int(fields[_START_TIME])


def _stat(pid: int) -> list[str] | None:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()  # the name may hold spaces and brackets


def open_process(pid: int, started: int) -> int | None:
    """Return a pidfd, which the caller closes, of the process `pid` started at `started`; None if that one ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if start_time(pid) != started:
        os.close(descriptor)
        return None
    return descriptor


def send_signal(pid: int, started: int, number: int) -> bool:
    """Send a signal to exactly the process meant; return False if it ended."""
    descriptor = open_process(pid, started)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_for_end(pid: int, started: int, timeout_s: float) -> bool:
    """Block until the process ended, at most `timeout_s`; return whether it did. It need not be our child."""
    descriptor = open_process(pid, started)
    if descriptor is None:
        return True
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        return bool(waiting.poll(max(0.0, timeout_s) * 1000))
    finally:
        os.close(descriptor)


def kill_group(group: int, session: int) -> int:
    """Kill every process of a process group within a session; return how many there were.

    Compares both, because a group's number alone may have been given away once the group is empty.
    """
    killed = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields and int(fields[_GROUP]) == group and int(fields[_SESSION]) == session:
                killed += send_signal(int(name), int(fields[_START_TIME]), signal.SIGKILL)
    return killed
