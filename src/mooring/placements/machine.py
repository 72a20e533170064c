"""This machine, or the container we are in: what it offers, and what the processes of a replica use of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from mooring.core.replicas import Capacity, Figures

_SAMPLE_S = 0.1  # between the two looks from which the CPU share is made


def capacity() -> Capacity:
    """Return what there is in all, and the memory that is available at this moment."""
    gpus = _gpus()
    return Capacity(
        cpu=cores(),
        memory_mib=_memory_bytes() >> 20,
        gpus=gpus,
        chips=("cpu", "nvidia") if gpus else ("cpu",),
        available_mib=_available_bytes() >> 20,
    )


def cores() -> float:
    """Return how many cores we may use: the affinity, bounded by the container's quota."""
    available = float(len(os.sched_getaffinity(0)))
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        return min(available, int(quota[0]) / int(quota[1]))
    return available


def figures(sessions: dict[str, int], gpus: dict[str, tuple[int, ...]]) -> dict[str, Figures]:
    """Return what replicas use, by id; of those that have ended nothing is said. Blocks for a tenth of a second.

    Args:
        sessions: replica id → its session (the pid of its shim): all processes in it count, but the shim itself.
        gpus: replica id → the indexes of its GPUs.
    """
    members = _members(sessions)
    before = {replica: _cpu_s(processes) for replica, processes in members.items()}
    time.sleep(_SAMPLE_S)
    found: dict[str, Figures] = {}
    for replica, processes in members.items():
        cpu_s = _cpu_s(processes)
        if not processes:
            continue
        read, written = _disk(processes)
        memory, busy = _gpu_figures(gpus.get(replica, ()), {process.pid for process in processes})
        percent = max(0.0, cpu_s - before[replica]) / _SAMPLE_S * 100
        found[replica] = Figures(round(percent, 1), round(cpu_s, 2), _memory(processes), read, written, memory, busy)
    return found


def _members(sessions: dict[str, int]) -> dict[str, list[psutil.Process]]:
    replicas = {session: replica for replica, session in sessions.items()}
    found: dict[str, list[psutil.Process]] = {replica: [] for replica in sessions}
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            replica = replicas.get(os.getsid(process.pid))
            if replica is not None and process.pid != sessions[replica]:
                found[replica].append(process)
    return found


def _cpu_s(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _memory(processes: Iterable[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            try:
                total += process.memory_full_info().pss
            except (psutil.AccessDenied, AttributeError):
                total += process.memory_info().rss
    return total


def _disk(processes: Iterable[psutil.Process]) -> tuple[int, int]:
    read = written = 0
    for process in processes:
        with contextlib.suppress(psutil.Error, AttributeError):
            counters = process.io_counters()
            read, written = read + counters.read_bytes, written + counters.write_bytes
    return read, written


def _gpu_figures(gpus: tuple[int, ...], pids: set[int]) -> tuple[int | None, float | None]:
    """Ask the driver, where there is one and its library (nvidia-ml-py) is installed."""
    if not gpus:
        return None, None
    try:
        import pynvml  # type: ignore[import-not-found]
    except ImportError:
        return None, None
    memory, busy = 0, 0.0
    try:
        pynvml.nvmlInit()
        for index in gpus:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            memory += sum(process.usedGpuMemory or 0 for process in running if process.pid in pids)
            busy = max(busy, float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
    except pynvml.NVMLError:
        return None, None
    return memory, busy


def _cgroup(name: str) -> str:
    try:
        return Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return ""


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup("memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def _available_bytes() -> int:
    free = psutil.virtual_memory().available
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit.isdigit() and used.isdigit():
        return max(0, min(free, int(limit) - int(used) + _reclaimable()))
    return free


def _reclaimable() -> int:
    """Return the container's page cache that can be given up at once: it counts as used but is not."""
    for line in _cgroup("memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0


def _gpus() -> int:
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0
