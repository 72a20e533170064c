from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mooring.placements import machine

GIB = 1 << 30
ALLOCATE = "import sys, time; data = bytearray(64 << 20); print(1, flush=True); deadline = time.monotonic() + 60\n"
SPIN = ALLOCATE + "while time.monotonic() < deadline: pass"


@pytest.mark.parametrize(
    ("quota", "limit", "cpu", "memory_mib"),
    [("150000 100000", "1073741824", 1.5, 1024), ("max 100000", "max", 4.0, 8192)],
)
def test_a_container_offers_what_its_limits_leave(
    monkeypatch: pytest.MonkeyPatch, quota: str, limit: str, cpu: float, memory_mib: int
) -> None:
    found = {"cpu.max": quota, "memory.max": limit, "memory.current": "0"}
    monkeypatch.setattr(machine, "_cgroup", lambda name: found.get(name, ""))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(machine.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2 << 20}.__getitem__)
    capacity = machine.capacity()
    assert (capacity.cpu, capacity.memory_mib) == (cpu, memory_mib)
    assert capacity.available_mib is not None
    assert capacity.available_mib > 0


def test_the_page_cache_of_a_container_counts_as_available(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "memory.max": str(4 * GIB),
        "memory.current": str(3 * GIB),
        "memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 7",
    }
    monkeypatch.setattr(machine, "_cgroup", lambda name: found.get(name, ""))
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * GIB}))
    assert machine.capacity().available_mib == 2048


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_the_figures_of_a_replica_are_those_of_its_processes_without_the_shim(busy: subprocess.Popen[bytes]) -> None:
    # The leader of the session stands for the shim here: its own use does not count, its child's does.
    leader = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    try:
        assert leader.stdout is not None
        leader.stdout.readline()
        found = machine.figures({"r1": leader.pid, "r2": busy.pid, "gone": 2**22 - 3}, {"r1": (0,)})
    finally:
        os.killpg(leader.pid, 9)
        leader.communicate()
    assert set(found) == {"r1"}, "a session without members says nothing"
    assert found["r1"].memory_bytes > 64 << 20
    assert found["r1"].cpu_percent > 0
    assert found["r1"].cpu_s > 0
    assert found["r1"].gpu_memory_bytes is None
