"""Real processes: the shim, its engine, and a placement that finds them again."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mooring.core.errors import Unavailable
from mooring.core.processes import start_time, wait_for_end
from mooring.core.replicas import LaunchPlan, ObservedReplica, ReplicaPlace
from mooring.placements.local import LocalPlacement
from mooring.settings import Settings

PATIENCE_S = 20.0


async def until(condition: Callable[[], object], what: str) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        await asyncio.sleep(0.01)


class Yard:
    """A placement in a fresh data directory whose lock is held, as by a supervisor."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.placement = LocalPlacement(settings)
        self.lock = os.open(settings.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def folder(self, replica_id: str = "rpl-1") -> Path:
        return self.settings.data_dir / "replicas" / replica_id

    async def start(self, script: str, replica_id: str = "rpl-1", *, env: dict[str, str] | None = None) -> ReplicaPlace:
        place = self.placement.place(replica_id)
        argv = (sys.executable, "-c", script)
        plan = LaunchPlan(argv, env or {}, f"unix:{place.socket}", "toy", 2)
        await self.placement.start(place, plan, service_id="svc-1", spec_version=7)
        return place

    async def observe(self, replica_id: str = "rpl-1") -> ObservedReplica:
        return next(seen for seen in await self.placement.list() if seen.replica_id == replica_id)

    async def says(self, line: str, replica_id: str = "rpl-1") -> None:
        log = self.folder(replica_id) / "stderr.log"
        await until(lambda: log.exists() and line in log.read_text(), f"{line!r} in the engine's output")

    def written(self, name: str) -> dict[str, object]:
        path = self.folder() / name
        return json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(Settings(data_dir=tmp_path, orphan_grace_s=0.4))
    yield made
    for seen in await made.placement.list():
        await made.placement.stop(seen.replica_id, 0.0)
    os.close(made.lock)
    shutil.rmtree(made.settings.run_dir, ignore_errors=True)  # may lie outside tmp_path


WAITS = "import signal, sys; print('here', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('here', flush=True)\nwhile True: signal.pause()"


async def test_a_started_replica_is_seen_with_everything_its_plan_said(yard: Yard) -> None:
    place = await yard.start(WAITS)
    seen = await yard.observe()
    assert (seen.alive, seen.service_id, seen.spec_version, seen.exit_status) == (True, "svc-1", 7, None)
    assert (seen.address, seen.key, seen.served_model, seen.slots) == (f"unix:{place.socket}", place.key, "toy", 2)
    assert seen.pid is not None and start_time(seen.pid) is not None
    assert abs(seen.started_at - time.time()) < PATIENCE_S


async def test_a_stopped_replica_is_gone_at_once_and_leaves_its_status(yard: Yard) -> None:
    await yard.start(WAITS)
    await yard.says("here")
    pid = (await yard.observe()).pid
    assert pid
    begun = time.monotonic()
    await yard.placement.stop("rpl-1", 5.0)
    assert time.monotonic() - begun < 2.0
    assert start_time(pid) is None
    seen = await yard.observe()
    assert (seen.alive, seen.pid, seen.exit_status) == (False, None, -signal.SIGTERM)
    await yard.placement.remove("rpl-1")
    assert await yard.placement.list() == []
    await yard.placement.stop("rpl-1", 5.0)  # nothing there: nothing happens


async def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace(yard: Yard) -> None:
    await yard.start(STUBBORN)
    await yard.says("here")
    await yard.placement.stop("rpl-1", 0.2)
    assert (await yard.observe()).exit_status == -signal.SIGKILL


async def test_an_engine_that_ends_by_itself_is_dead_with_its_exit_status_and_last_words(yard: Yard) -> None:
    await yard.start("import sys; print('cannot go on', file=sys.stderr); sys.exit(3)")
    await until(lambda: yard.written("exit.json"), "exit.json")
    seen = await yard.observe()
    assert (seen.alive, seen.exit_status) == (False, 3)
    assert await yard.placement.logs("rpl-1", 10) == "cannot go on"


async def test_a_program_that_is_not_there_says_so(yard: Yard) -> None:
    place = yard.placement.place("rpl-1")
    plan = LaunchPlan(("/nowhere/engine",), {}, "unix:x", "toy", 1)
    await yard.placement.start(place, plan, service_id="svc-1", spec_version=1)
    await until(lambda: yard.written("exit.json"), "exit.json")
    assert (await yard.observe()).exit_status == 127
    assert "can't start /nowhere/engine" in await yard.placement.logs("rpl-1", 10)


async def test_the_engine_gets_its_own_environment_and_none_of_our_descriptors(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    secret = os.open(yard.settings.data_dir / "secret", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(secret, True)
    try:
        await yard.start(WAITS, env={"ONLY": "this", "LC_ALL": "C.UTF-8"})
    finally:
        os.close(secret)
    await yard.says("here")
    pid = (await yard.observe()).pid
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    assert sorted(filter(None, variables)) == ["LC_ALL=C.UTF-8", "ONLY=this"]
    targets = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    assert targets[0] == "/dev/null"
    assert all(target == "/dev/null" or target.startswith("pipe:") for target in targets)
    identity = yard.written("identity.json")
    shim = Path(f"/proc/{identity['shim_pid']}/environ").read_text()
    assert "hunter2" not in shim


async def test_the_whole_group_and_those_who_left_it_end_with_the_engine(yard: Yard) -> None:
    await yard.start(
        "import os, signal, time\n"
        "a = os.fork()\n"
        "if a == 0: signal.pause()\n"
        "b = os.fork()\n"
        "if b == 0: os.setsid(); print('left', flush=True); signal.pause()\n"
        "print('children', a, b, flush=True); signal.pause()\n"
    )
    await yard.says("left")
    await yard.says("children")
    line = next(text for text in (await yard.placement.logs("rpl-1", 10)).splitlines() if "children" in text)
    children = [int(word) for word in line.split()[1:]]
    started = [start_time(pid) or 0 for pid in children]
    assert all(started)
    pid = (await yard.observe()).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert all(wait_for_end(pid, since, PATIENCE_S) for pid, since in zip(children, started, strict=True))
    await until(lambda: yard.written("exit.json").get("exit_status") == -9, "exit.json")


async def test_a_killed_shim_takes_its_engine_along_and_list_kills_the_rest(yard: Yard) -> None:
    await yard.start(
        "import os, signal\nif os.fork() == 0: signal.pause()\nprint('here', flush=True); signal.pause()\n"
    )
    await yard.says("here")
    identity = yard.written("identity.json")
    group, shim = identity["pid"], identity["shim_pid"]
    assert isinstance(shim, int) and isinstance(group, int)
    os.kill(shim, signal.SIGKILL)
    await until(lambda: start_time(group) is None, "the engine's end")
    assert not (await yard.observe()).alive
    await until(lambda: not _group_lives(group), "the end of the engine's children")
    assert (await yard.observe()).exit_status is None


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return any(_is_member(entry, group) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _is_member(entry: Path, group: int) -> bool:
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and int(fields[2]) == group


async def test_a_replica_that_runs_is_not_started_twice(yard: Yard) -> None:
    await yard.start(WAITS)
    with pytest.raises(Unavailable, match="runs already"):
        await yard.start(WAITS)
    with pytest.raises(Unavailable, match="still runs"):
        await yard.placement.remove("rpl-1")


async def test_a_dead_replica_is_started_again_in_its_folder_with_a_fresh_log(yard: Yard) -> None:
    await yard.start("print('first')")
    await until(lambda: yard.written("exit.json"), "exit.json")
    await yard.start("import signal; print('second', flush=True); signal.pause()")
    await yard.says("second")
    assert await yard.placement.logs("rpl-1", 10) == "second"
    seen = await yard.observe()
    assert (seen.alive, seen.exit_status) == (True, None)


async def test_the_log_keeps_the_newest_output_within_two_mebibytes(yard: Yard) -> None:
    await yard.start("for n in range(60000): print(f'{n:06} ' + 'x' * 60)\nprint('end', flush=True)")
    await until(lambda: yard.written("exit.json"), "exit.json")
    assert (await yard.placement.logs("rpl-1", 1)) == "end"
    kept = [yard.folder() / name for name in ("stderr.log", "stderr.log.1")]
    assert sum(path.stat().st_size for path in kept) <= 2 << 20
    assert len((await yard.placement.logs("rpl-1", 5000)).splitlines()) == 5000


ADOPTED = """
import asyncio, os, sys
from pathlib import Path
from mooring.core.replicas import LaunchPlan
from mooring.placements.local import LocalPlacement
from mooring.settings import Settings

async def main():
    placement = LocalPlacement(Settings(data_dir=Path(sys.argv[1]), orphan_grace_s=60))
    place = placement.place("rpl-1")
    plan = LaunchPlan((sys.executable, "-c", "import signal; signal.pause()"), {}, "unix:x", "toy", 1)
    await placement.start(place, plan, service_id="svc-1", spec_version=1)
    print((await placement.list())[0].pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_replica_survives_the_death_of_control_and_is_seen_by_the_next(yard: Yard) -> None:
    control = subprocess.Popen(
        [sys.executable, "-c", ADOPTED, str(yard.settings.data_dir)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert control.stdout
    pid = int(control.stdout.readline())
    os.killpg(control.pid, signal.SIGKILL)
    control.wait(PATIENCE_S)
    control.stdout.close()
    seen = await yard.observe()
    assert (seen.alive, seen.pid) == (True, pid)
    await yard.placement.stop("rpl-1", 5.0)
    assert start_time(pid) is None


async def test_an_orphan_ends_by_itself_when_no_supervisor_has_held_the_data_directory_for_the_grace(
    yard: Yard,
) -> None:
    await yard.start(WAITS)
    await yard.says("here")
    fcntl.flock(yard.lock, fcntl.LOCK_UN)
    begun = time.monotonic()
    await until(lambda: yard.written("exit.json"), "the orphan's end")
    assert time.monotonic() - begun >= yard.settings.orphan_grace_s
    assert yard.written("exit.json")["exit_status"] == -signal.SIGTERM


async def test_a_pid_that_was_given_to_another_process_is_not_taken_for_the_replica(yard: Yard) -> None:
    await yard.start(WAITS)
    identity = yard.written("identity.json")
    path = yard.folder() / "identity.json"
    path.write_text(json.dumps({**identity, "start_time": 1}))
    assert not (await yard.observe()).alive
    path.write_text(json.dumps({**identity, "boot_id": "another boot"}))
    assert not (await yard.observe()).alive
    path.write_text(json.dumps(identity))
    assert (await yard.observe()).alive


async def test_the_shim_is_small(yard: Yard) -> None:
    await yard.start(WAITS)
    await yard.says("here")
    status = Path(f"/proc/{yard.written('identity.json')['shim_pid']}/status").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident <= 14 * 1024, f"{resident} KiB"


async def test_folders_are_private_and_sockets_short(yard: Yard) -> None:
    place = await yard.start(WAITS)
    assert yard.folder().stat().st_mode & 0o777 == 0o700
    assert (yard.folder() / "plan.json").stat().st_mode & 0o777 == 0o600
    long = yard.placement.place("rpl-" + "x" * 50)
    assert max(len(str(place.socket)), len(str(long.socket))) <= 100
