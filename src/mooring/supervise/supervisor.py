"""The supervisor: keeps one control and N gateways alive, and gives each gateway its public socket.

One thread, one poll: signals and deaths arrive through a pipe, everything else is looked at once a second. The public
sockets are opened once and never closed, so a worker's replacement loses no connection. Children die with this
process (they ask the kernel for it); engines do not, unless the stop is an ordered one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from mooring.core.processes import send_signal
from mooring.settings import Settings, environment
from mooring.supervise.children import Beats, Child, Commands, Pause, Role, is_hung, spawn
from mooring.supervise.start import (
    StartError,
    check_processor,
    listen,
    missing_model_roots,
    raise_descriptor_limit,
    take_data_dir,
)

EX_CONFIG = 78  # a child's way to say: starting me again will not help
_TICK_S = 1.0
_ABORT_PATIENCE_S = 1.0  # time to dump stacks
_DRAIN_EXTRA_S = 5.0
_CONTROL_STOP_S = 20.0  # it stops the engines, all at once
_START_WINDOW_S = 60.0
_START_ATTEMPTS = 5
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Supervisor:
    """Runs the platform until it is told to stop.

    Raises (from the constructor):
        StartError: something is missing or taken; nothing has been started.
    """

    def __init__(self, settings: Settings, commands: Commands | None = None) -> None:
        check_processor(settings)
        raise_descriptor_limit()
        self._commands = commands or Commands()
        settings = replace(settings, data_dir=settings.data_dir.absolute())
        self._lock = take_data_dir(settings)
        self._listeners = listen(settings)
        for root in missing_model_roots(settings):
            _say(f"warning: the model root {root} (--model-roots) is not a folder that can be read")
        self._settings = replace(settings, port=self._listeners[0].getsockname()[1])
        self._workers = settings.gateway_workers
        self._beats = Beats(str(settings.run_dir / "beats"), 2 * self._workers)
        self._ready_file = settings.run_dir / "control.ready"
        self._children: dict[int, Child] = {}
        self._pauses: dict[tuple[Role, int], Pause] = {}
        self._signals: list[int] = []
        self._has_terminal = _terminal_is_there()
        self._stopping = False
        self._killing = False
        self._failure = ""
        self._control_was_ready = False
        self._control_deaths = 0
        self._begun = self._looked = time.monotonic()

    # --- the loop

    def run(self) -> int:
        """Start everything and keep it running; return 0 after an ordered stop, 1 after a failure.

        Raises:
            StartError: control or a gateway said, or showed by dying again and again, that it can't start.
        """
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in _SIGNALS:
            signal.signal(number, lambda received, _: self._signals.append(received))
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        events = select.poll()
        events.register(wake, select.POLLIN)
        if self._commands.banner:
            self._spawn("banner", self._commands.banner)
        while not self._is_over():
            self._start_missing()
            if events.poll(self._wait_s() * 1000):
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            self._take_signals()
            self._reap()
            self._look_around()
        return self._end()

    def _is_over(self) -> bool:
        return self._stopping and not self._children

    def _wait_s(self) -> float:
        """Return how long nothing has to be done: until the next start or kill, at most a tick."""
        now = time.monotonic()
        due = [child.kill_at for child in self._children.values() if child.kill_at is not None]
        if not self._stopping:
            due += [pause.until for key, pause in self._pauses.items() if not self._find(*key)]
        return max(0.0, min([now + _TICK_S, *due]) - now)

    def _take_signals(self) -> None:
        received, self._signals = self._signals, []
        for number in received:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop() if not self._stopping else self._kill_all()
            elif number == signal.SIGHUP and not self._stopping:
                self._stop() if self._has_terminal and not _terminal_is_there() else self._replace_gateways()

    def _end(self) -> int:
        if self._failure:
            raise StartError(self._failure)
        self._stop_engines()
        return 1 if self._killing else 0

    # --- starting

    def _start_missing(self) -> None:
        if self._stopping:
            return
        self._start_if_missing("control", 0, self._start_control)
        for seat in range(self._workers):
            self._start_if_missing("gateway", seat, lambda seat=seat: self._start_gateway(seat, seat))

    def _start_if_missing(self, role: Role, seat: int, start: Callable[[], None]) -> None:
        if not self._find(role, seat) and self._pause(role, seat).until <= time.monotonic():
            start()

    def _find(self, role: Role, seat: int) -> Child | None:
        """Return the child that holds a seat; one that leaves has given it up."""
        found = (c for c in self._children.values() if c.role == role and c.seat == seat and not c.leaving)
        return next(found, None)

    def _pause(self, role: Role, seat: int) -> Pause:
        return self._pauses.setdefault((role, seat), Pause())

    def _start_control(self) -> None:
        self._ready_file.unlink(missing_ok=True)
        self._spawn("control", self._commands.control)

    def _start_gateway(self, seat: int, slot: int, replaces: Child | None = None) -> None:
        slot = self._free_slot(seat, slot)
        self._beats.clear(slot)
        extra = {"MOORING_LISTEN_FD": str(self._listeners[seat].fileno()), "MOORING_WORKER_SLOT": str(slot)}
        self._spawn("gateway", self._commands.gateway, extra, seat, slot, replaces)

    def _free_slot(self, seat: int, wanted: int) -> int:
        """Return one of the two slots of a seat that no living worker, not even a leaving one, writes to."""
        taken = {child.slot for child in self._children.values() if child.role == "gateway"}
        both = (wanted, (wanted + self._workers) % (2 * self._workers))
        return next((slot for slot in both if slot not in taken), wanted)

    def _spawn(
        self,
        role: Role,
        command: Sequence[str],
        extra: dict[str, str] | None = None,
        seat: int = 0,
        slot: int = 0,
        replaces: Child | None = None,
    ) -> None:
        variables = {**os.environ, **environment(self._settings), "MOORING_SUPERVISOR_PID": str(os.getpid())}
        listener = self._listeners[seat] if role == "gateway" else None
        pid = spawn(command, {**variables, **(extra or {})}, listener)
        self._children[pid] = Child(role, pid, time.monotonic(), seat, slot, replaces)

    def _replace_gateways(self) -> None:
        """Start a successor for every gateway; each old one drains once its successor beats."""
        for child in list(self._children.values()):
            successor = any(other.replaces is child for other in self._children.values())
            if child.role == "gateway" and not child.leaving and child.replaces is None and not successor:
                self._start_gateway(child.seat, (child.slot + self._workers) % (2 * self._workers), child)

    # --- deaths

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)  # also strangers, should we be the first process
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                self._mourn(child, os.waitstatus_to_exitcode(status))

    def _mourn(self, child: Child, status: int) -> None:
        for other in self._children.values():
            if other.replaces is child:
                other.replaces = None
        if self._stopping or child.leaving or child.role == "banner":
            return
        now = time.monotonic()
        if child.role == "control":
            self._note_control_death(status)
        beaten = child.role == "gateway" and self._beats.read(child.slot) != 0
        if status == EX_CONFIG and not beaten and not (child.role == "control" and self._control_was_ready):
            self._give_up(f"The {child.role} process can't start; it says why in the lines above.")
        if self._stopping:
            return
        self._pause(child.role, child.seat).after_death(now, now - child.started)
        _say(f"{child.role} (process {child.pid}) {_ending(status)}; it is started again")

    def _note_control_death(self, status: int) -> None:
        self._control_was_ready = self._control_was_ready or self._ready_file.exists()
        self._control_deaths += 1
        early = time.monotonic() - self._begun < _START_WINDOW_S
        if early and not self._control_was_ready and self._control_deaths >= _START_ATTEMPTS:
            attempts = f"It was tried {self._control_deaths} times."
            self._give_up(f"The control process {_ending(status)} before it was ready. {attempts}")

    def _give_up(self, sentence: str) -> None:
        self._failure = self._failure or sentence
        self._kill_all()

    # --- looking after those who live

    def _look_around(self) -> None:
        now = time.monotonic()
        late = now - self._looked > 2 * _TICK_S  # this process itself was held up: its judgement would be unjust
        self._looked = now
        for child in list(self._children.values()):
            if child.kill_at is not None:
                if now >= child.kill_at:
                    _kill(child.pid, signal.SIGKILL)
                    child.kill_at = now + _TICK_S
            elif child.role == "gateway":
                self._look_at_gateway(child, now, late)
        if self._ready_file.exists():
            self._control_was_ready = True
        if self._stopping:
            self._stop_control_last()

    def _look_at_gateway(self, child: Child, now: float, late: bool) -> None:
        beat = self._beats.read(child.slot)
        if child.replaces is not None and beat:
            self._let_go(child.replaces, self._settings.drain_s + _DRAIN_EXTRA_S)
            child.replaces = None
        if not late and is_hung(beat, child.started, now):
            _say(f"gateway (process {child.pid}) does not answer; it is ended")
            _kill(child.pid, signal.SIGABRT)
            child.kill_at = now + _ABORT_PATIENCE_S

    # --- stopping

    def _stop(self) -> None:
        self._stopping = True
        for child in self._children.values():
            if child.role == "gateway":
                self._let_go(child, self._settings.drain_s + _DRAIN_EXTRA_S)
            elif child.role == "banner":
                self._let_go(child, 0.0)

    def _stop_control_last(self) -> None:
        """Tell control to end when the gateways are gone: their answers may still need it."""
        roles = {child.role for child in self._children.values()}
        if "gateway" not in roles:
            for child in self._children.values():
                if child.role == "control" and not child.leaving:
                    self._let_go(child, _CONTROL_STOP_S)

    def _let_go(self, child: Child, patience_s: float) -> None:
        if not child.leaving:
            child.kill_at = time.monotonic() + patience_s
            _kill(child.pid, signal.SIGTERM)

    def _kill_all(self) -> None:
        self._stopping = self._killing = True
        for child in self._children.values():
            child.kill_at = time.monotonic() + _TICK_S
            _kill(child.pid, signal.SIGKILL)

    def _stop_engines(self) -> None:
        """Tell the shims that control left behind to end their engines; they do it by themselves."""
        replicas = self._settings.data_dir / "replicas"
        for path in replicas.glob("*/identity.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                trace = json.loads(path.read_text())
                send_signal(trace["shim_pid"], trace["shim_start_time"], signal.SIGTERM)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # not reaped yet, so the pid can't be another's
        os.kill(pid, number)


def _ending(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _terminal_is_there() -> bool:
    """Return whether stdin is a terminal that still exists: SIGHUP also says that it was closed."""
    try:
        termios.tcgetattr(0)
    except (termios.error, OSError):
        return False
    return True


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be reading any more
        print(f"mooring: {sentence}", file=sys.stderr, flush=True)
