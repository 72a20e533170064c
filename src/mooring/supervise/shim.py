"""The shim: one small process beside each local engine, so that the engine outlives control and leaves no orphans.

`python -m mooring.supervise.shim <directory>` reads `<directory>/plan.json`, starts the engine and returns when it
runs; the shim itself stays behind in its own session. It holds `<directory>/lock` for life, keeps the engine's output
in `stderr.log`, writes `identity.json` at the start and `exit.json` at the end, and kills the engine's whole group
when it ends, when SIGTERM comes, or when the data directory has had no supervisor for the orphan grace.
There are as many shims as replicas, so this file imports as little as it can.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

from mooring.core.files import is_held, write_private
from mooring.core.parent import adopt_orphans, die_with_parent
from mooring.core.processes import boot_id, start_time

LOG_BYTES = 1 << 20  # then stderr.log becomes stderr.log.1
_LOCK_PATIENCE_S = 1.0  # observers hold the lock for an instant
_LOOK_AFTER_SUPERVISOR_S = 5.0
_REPORTED = b"running"
_EX_CANNOT_START = 71
_MOST_DESCRIPTORS = 1 << 20


class _Log:
    """The engine's output: the newest 1–2 MiB of it."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "stderr.log")
        self._descriptor = self._open()
        self._size = 0

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """Append; a full disk loses output rather than the engine."""
        with contextlib.suppress(OSError):
            if self._size + len(data) > LOG_BYTES:
                os.replace(self._path, self._path + ".1")
                full, self._descriptor, self._size = self._descriptor, self._open(), 0
                os.close(full)
            self._size += os.write(self._descriptor, data)


class _Shim:
    """One engine's life, from its start to its exit.json."""

    def __init__(self, directory: str, plan: dict[str, Any]) -> None:
        self._directory = directory
        self._plan = plan
        self._log = _Log(directory)
        self._engine = 0
        self._engine_end = -1  # pidfd
        self._kill_at: float | None = None
        self._unwatched_since: float | None = None

    def start(self) -> None:
        """Start the engine and write who it is.

        Raises:
            OSError: no process, no pipe or no file could be made.
        """
        output, inlet = os.pipe()
        self._output = output
        shim = os.getpid()
        self._engine = os.fork()
        if self._engine == 0:
            _become_engine(self._plan, self._directory, inlet, shim)
        with contextlib.suppress(OSError):  # the engine does the same; whoever is first
            os.setpgid(self._engine, self._engine)
        os.close(inlet)
        os.set_blocking(output, False)
        self._engine_end = os.pidfd_open(self._engine)
        self._write("identity.json", self._identity(shim))

    def _identity(self, shim: int) -> dict[str, Any]:
        names = ("replica_id", "service_id", "spec_version", "address", "key", "served_model", "slots")
        return {name: self._plan[name] for name in names} | {
            "shim_pid": shim,
            "shim_start_time": start_time(shim),
            "pid": self._engine,
            "start_time": start_time(self._engine),
            "boot_id": boot_id(),
            "started_at": time.time(),
        }

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_private(os.path.join(self._directory, name), json.dumps(content))

    def run(self) -> None:
        """Keep the engine until it ends, then write how it did."""
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        signal.set_wakeup_fd(woken)
        events = select.poll()
        for descriptor in (wake, self._output, self._engine_end):
            events.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in events.poll(self._pause_ms())}
            if wake in ready:
                os.read(wake, 64)
            if self._output in ready and not self._keep_output():
                events.unregister(self._output)
            if self._engine_end in ready:
                break
            self._look_around()
        self._finish()

    def _pause_ms(self) -> float:
        if self._kill_at is not None:
            return max(0.0, self._kill_at - time.monotonic()) * 1000
        return min(_LOOK_AFTER_SUPERVISOR_S, max(0.1, self._plan["orphan_grace_s"] / 4)) * 1000

    def _keep_output(self) -> bool:
        """Move what is there into the log; return False at its end."""
        try:
            while data := os.read(self._output, 65536):
                self._log.write(data)
        except BlockingIOError:
            return True
        return False

    def _look_around(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None:
            if now >= self._kill_at:
                self._signal(signal.SIGKILL)
                self._kill_at = now + 1.0  # again, should one have forked meanwhile
        elif is_held(self._plan["data_lock"]):
            self._unwatched_since = None
        elif self._unwatched_since is None:
            self._unwatched_since = now
        elif now - self._unwatched_since >= self._plan["orphan_grace_s"]:
            self.stop()

    def stop(self) -> None:
        """Ask the engine to end, and kill it after the grace."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._plan["grace_s"]
            self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._engine, number)

    def _finish(self) -> None:
        self._signal(signal.SIGKILL)  # what is left of its group; before reaping, while the number is still its own
        _, status = os.waitpid(self._engine, 0)
        _kill_children()
        self._keep_output()
        with contextlib.suppress(OSError):
            os.unlink(self._plan["socket"])
        ended = {"exit_status": os.waitstatus_to_exitcode(status), "ended_at": time.time()}
        self._write("exit.json", ended)


def _kill_children() -> None:
    """Kill and reap descendants that left the group; as the subreaper we have become their parent."""
    while True:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                children = [int(pid) for pid in file.read().split()]
        except OSError:
            children = []
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _become_engine(plan: dict[str, Any], directory: str, output: int, shim: int) -> None:
    """Turn this forked process into the engine. Never returns."""
    try:
        os.setpgid(0, 0)
        die_with_parent(shim)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and that would be inherited
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump holds prompts and the key
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("300")  # when memory runs out, rather the engine than the platform
        os.chdir(directory)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, _MOST_DESCRIPTORS)
        os.execve(plan["argv"][0], plan["argv"], plan["env"])
    except OSError as error:
        os.write(2, f"error: can't start {plan['argv'][0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _take_lock(directory: str) -> None:
    """Lock the replica's folder; the descriptor stays open, so the lock lasts as long as this process.

    Raises:
        BlockingIOError: another shim has it.
    """
    descriptor = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def main(directory: str) -> int:
    """Start the engine of `directory`, leave the shim behind and return 0, or 71 with the reason on stderr."""
    report, reporter = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        os.close(report)
        _stay_behind(directory, reporter)
    os.close(reporter)
    with open(report, "rb") as file:
        said = file.read()
    if said == _REPORTED:
        return 0
    sys.stderr.write(said.decode(errors="replace") or "the shim ended without a word\n")
    return _EX_CANNOT_START


def _stay_behind(directory: str, reporter: int) -> None:
    status = 1
    try:
        os.setsid()
        os.umask(0o077)
        adopt_orphans()
        _take_lock(directory)
        with open(os.path.join(directory, "plan.json"), encoding="utf-8") as file:
            shim = _Shim(directory, json.load(file))
        shim.start()
        os.write(reporter, _REPORTED)
        os.close(reporter)
        _leave_terminal()
        shim.run()
        status = 0
    except (OSError, ValueError, KeyError) as error:
        with contextlib.suppress(OSError):  # nobody reads any more once the engine runs
            os.write(reporter, f"the shim can't start: {error!r}\n".encode())
    finally:
        os._exit(status)


def _leave_terminal() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
