"""Processes as /proc shows them: trees, CPU seconds, memory, busy cores; starting them so that they end with us."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def tree(root: int) -> list[int]:
    """Return `root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def command_line(pid: int) -> str:
    """Return the words of a process's command, parted by spaces; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU seconds (user and system) the living ones among `pids` have used, to a tick each."""
    ticks = 0
    for pid in pids:
        if fields := _stat(pid):
            ticks += int(fields[11]) + int(fields[12])
    return ticks * _TICK_S


def pss_mib(pids: Sequence[int]) -> float:
    """Return the proportional set size in MiB: shared pages are split among those who share them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def busy_s(cores: Sequence[int]) -> float:
    """Return the seconds `cores` have been busy or stolen by the hypervisor since boot, added up."""
    names = {f"cpu{core}" for core in cores}
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, values[:8])
            total += user + nice + system + irq + softirq + steal
    return total * _TICK_S


def pin(pids: Sequence[int], core: int) -> None:
    """Bind every thread of `pids` to one core."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), {core})


def free_port() -> int:
    """Return a TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def spawn(
    command: Sequence[str],
    *,
    cores: set[int],
    log: Path | None = None,
    environ: Mapping[str, str] | None = None,
    talk: bool = False,
) -> subprocess.Popen[str]:
    """Start `command` on `cores`, in its own session, told to end when we die. `talk` opens its stdin and stdout."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        os.sched_setaffinity(0, cores)

    with open(log or os.devnull, "ab") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talk else errors,
            stderr=errors,
            env=environ,
            text=True,
            start_new_session=True,
            preexec_fn=prepare,
        )


def end(process: subprocess.Popen[str], patience_s: float = 10.0) -> None:
    """End `process` and all it started: first kindly, then not."""
    family = {pid: _born(pid) for pid in tree(process.pid)} if process.poll() is None else {}
    if family:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    for pid, born in family.items():
        # The time of birth tells ours from a stranger who was given the number since.
        if born and _born(pid) == born:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _born(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


@dataclass(slots=True)
class Mark:
    """What the counters said at one moment."""

    wall: float
    busy: float
    cpu: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads the CPU of named groups of processes, and how busy the measured cores are."""

    groups: Mapping[str, Sequence[int]]
    cores: Sequence[int]

    def mark(self) -> Mark:
        """Read all counters now."""
        cpu = {name: cpu_s(pids) for name, pids in self.groups.items()}
        return Mark(time.monotonic(), busy_s(self.cores), cpu)


def spent(before: Mark, after: Mark) -> dict[str, float]:
    """Return seconds between two marks: wall, busy, and one entry for each group."""
    used = {name: after.cpu[name] - before.cpu[name] for name in before.cpu}
    return {"wall": after.wall - before.wall, "busy": after.busy - before.busy, **used}
