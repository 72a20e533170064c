"""Local placement: each replica is a process of this machine under its own shim, in a folder of its own.

`<data_dir>/replicas/<id>/` holds plan.json (what to start), lock (held by the shim for life), identity.json (which
process it is), exit.json (how it ended) and stderr.log. `list` reads these and asks the kernel: it is the truth about
what runs, also for a control that has just started and adopts what its predecessor left. Whether the replica also
answers to its own key is the engine's `probe`: one that does not is a stranger and must be stopped.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mooring.core.errors import Invalid, Unavailable
from mooring.core.files import is_held, private_folder, write_private
from mooring.core.processes import boot_id, kill_group, send_signal, start_time, wait_for_end
from mooring.core.replicas import (
    NOTHING_RESERVED,
    Capacity,
    Figures,
    LaunchPlan,
    ObservedReplica,
    ReplicaPlace,
    Reserved,
)
from mooring.placements import machine, replica_logs
from mooring.settings import Settings

STOP_GRACE_S = 5.0  # after SIGTERM the shim gives the engine this long
_START_TIMEOUT_S = 30.0
_KILL_PATIENCE_S = 5.0
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LONGEST_SOCKET_NAME = 32
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_SHIM = (sys.executable, "-S", "-P", "-m", "mooring.supervise.shim")  # -S: less to load, and it needs no packages


class LocalPlacement:
    """Starts, finds and stops replicas on this machine. State is in files only; two of these see the same."""

    def __init__(self, settings: Settings) -> None:
        self._data_dir = settings.data_dir.absolute()
        self._replicas = self._data_dir / "replicas"
        self._run_dir = settings.run_dir
        self._orphan_grace_s = settings.orphan_grace_s
        self._starting: set[str] = set()
        self._claims: dict[str, tuple[int, ...]] = {}  # GPUs of the replicas that are about to start

    def place(self, replica_id: str, reserved: Reserved = NOTHING_RESERVED, share: int = 1) -> ReplicaPlace:
        """Choose where a replica will live, and make its folder.

        Args:
            replica_id: a new one, or one that is started again.
            reserved: what is set aside for it; its GPUs are chosen here.
            share: how many replicas share the cores where none are set aside.

        Raises:
            Invalid: the id can't name a folder.
            Unavailable: too few GPUs are free.
            OSError: the folders can't be made.
        """
        directory = self._directory(replica_id)
        gpus = self._free_gpus(replica_id, reserved.gpus)
        private_folder(self._replicas)
        private_folder(self._run_dir)
        return ReplicaPlace(
            replica_id=replica_id,
            directory=private_folder(directory),
            socket=self._run_dir / f"{_short(replica_id)}.sock",
            key=secrets.token_urlsafe(32),
            threads=_threads(reserved.cpu, share),
            gpus=gpus,
        )

    def _free_gpus(self, replica_id: str, wanted: int) -> tuple[int, ...]:
        if not wanted:
            return ()
        taken = {gpu for claimant, claimed in self._claims.items() if claimant != replica_id for gpu in claimed}
        taken |= {gpu for replica in self._observe() if replica.alive for gpu in replica.gpus}
        free = [gpu for gpu in range(self.capacity().gpus) if gpu not in taken][:wanted]
        if len(free) < wanted:
            raise Unavailable(f"{wanted} GPUs are wanted and {len(free)} are free.", next_step="")
        self._claims[replica_id] = tuple(free)
        return tuple(free)

    def _directory(self, replica_id: str) -> Path:
        if not _ID.fullmatch(replica_id):
            raise Invalid(f"'{replica_id}' is not the id of a replica.")
        return self._replicas / replica_id

    async def start(
        self,
        place: ReplicaPlace,
        plan: LaunchPlan,
        *,
        service_id: str,
        spec_version: int,
        engine: str = "llamacpp",
        adapters: Sequence[str] = (),
        reserved: Reserved = NOTHING_RESERVED,
    ) -> None:
        """Start a replica; return when its shim has spawned the engine, which may then still load for long.

        Raises:
            Unavailable: the shim could not start, or the replica runs already.
        """
        content = {
            "replica_id": place.replica_id,
            "service_id": service_id,
            "spec_version": spec_version,
            "engine": engine,
            "adapters": list(adapters),
            "argv": list(plan.argv),
            "env": plan.env,
            "address": plan.address,
            "key": place.key,
            "served_model": plan.served_model,
            "slots": plan.slots,
            "reserved": asdict(reserved),
            "gpus": list(place.gpus),
            "socket": str(place.socket),
            "data_lock": str(self._data_dir / "lock"),
            "orphan_grace_s": self._orphan_grace_s,
            "grace_s": STOP_GRACE_S,
        }
        self._starting.add(place.replica_id)
        try:
            await asyncio.to_thread(_spawn, place.directory, content)
        finally:
            self._starting.discard(place.replica_id)
            self._claims.pop(place.replica_id, None)

    async def stop(self, replica_id: str, grace_s: float = STOP_GRACE_S) -> None:
        """End a replica and everything it started; return when it is gone. Nothing happens if it is already.

        Its engine hears SIGTERM first, and SIGKILL after `grace_s` or STOP_GRACE_S, whichever is shorter.
        """
        await asyncio.to_thread(_stop, self._directory(replica_id), grace_s)

    async def list(self) -> list[ObservedReplica]:
        """Return every replica that has a folder here, alive or dead. Survivors of dead shims are killed first."""
        return await asyncio.to_thread(self._observe)

    def _observe(self) -> builtins.list[ObservedReplica]:
        if not self._replicas.is_dir():
            return []
        folders = sorted(path for path in self._replicas.iterdir() if _ID.fullmatch(path.name))
        return [self._observe_one(folder) for folder in folders if (folder / "plan.json").exists()]

    def _observe_one(self, folder: Path) -> ObservedReplica:
        plan, trace = _read_json(folder / "plan.json"), _Trace.read(folder)
        held = is_held(folder / "lock")
        if not held and trace is not None:
            trace.kill_rest()
        alive = folder.name in self._starting or (held and (trace is None or trace.engine_runs()))
        return ObservedReplica(
            replica_id=folder.name,
            service_id=str(plan.get("service_id", "")),
            spec_version=int(plan.get("spec_version", 0)),
            alive=alive,
            pid=trace.pid if trace and alive else None,
            started_at=trace.started_at if trace else 0.0,
            exit_status=None if alive else _read_json(folder / "exit.json").get("exit_status"),
            address=str(plan.get("address", "")),
            key=str(plan.get("key", "")),
            served_model=str(plan.get("served_model", "")),
            slots=int(plan.get("slots", 0)),
            engine=str(plan.get("engine", "llamacpp")),
            adapters=tuple(plan.get("adapters", ())),
            reserved=Reserved(**plan.get("reserved", {})),
            gpus=tuple(plan.get("gpus", ())),
        )

    async def logs(self, replica_id: str, tail_lines: int = 200) -> str:
        """Return the newest lines of the engine's output; "" if there is none."""
        return await asyncio.to_thread(replica_logs.tail, self._directory(replica_id), tail_lines)

    def follow(self, replica_id: str, tail_lines: int = 200) -> AsyncIterator[str]:
        """Yield the newest lines, then whole lines as they are written, also beyond a rotation.

        Ends when the replica's folder is gone.
        """
        return replica_logs.follow(self._directory(replica_id), tail_lines)

    async def figures(self, replica_ids: Collection[str]) -> dict[str, Figures]:
        """Return what those of the replicas that run use now, by id."""
        return await asyncio.to_thread(self._figures, replica_ids)

    def _figures(self, replica_ids: Collection[str]) -> dict[str, Figures]:
        sessions: dict[str, int] = {}
        gpus: dict[str, tuple[int, ...]] = {}
        for replica_id in replica_ids:
            folder = self._directory(replica_id)
            trace = _Trace.read(folder)
            if trace is not None and trace.engine_runs():
                sessions[replica_id] = trace.shim_pid
                gpus[replica_id] = tuple(_read_json(folder / "plan.json").get("gpus", ()))
        return machine.figures(sessions, gpus)

    async def remove(self, replica_id: str) -> None:
        """Delete the folder of a dead replica.

        Raises:
            Unavailable: it still runs; stop it first.
        """
        await asyncio.to_thread(_remove, self._directory(replica_id))

    def capacity(self) -> Capacity:
        """Return what this machine, or the container we are in, offers."""
        return machine.capacity()


# --- one replica's folder ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Trace:
    """Which processes a replica is, as its shim wrote it down."""

    boot: str
    pid: int
    start_time: int
    shim_pid: int
    shim_start_time: int
    started_at: float  # Unix seconds

    @classmethod
    def read(cls, folder: Path) -> _Trace | None:
        """Return the trace of a replica whose engine was started, else None."""
        content = _read_json(folder / "identity.json")
        try:
            return cls(
                boot=content["boot_id"],
                pid=content["pid"],
                start_time=content["start_time"] or 0,
                shim_pid=content["shim_pid"],
                shim_start_time=content["shim_start_time"] or 0,
                started_at=content["started_at"],
            )
        except KeyError:
            return None

    def engine_runs(self) -> bool:
        return self.boot == boot_id() and start_time(self.pid) == self.start_time

    def kill_rest(self) -> None:
        """Kill what is left of a replica whose shim is gone."""
        if self.boot == boot_id() and start_time(self.shim_pid) != self.shim_start_time:
            kill_group(self.pid, session=self.shim_pid)


def _short(replica_id: str) -> str:
    if len(replica_id) <= _LONGEST_SOCKET_NAME:
        return replica_id
    return hashlib.blake2b(replica_id.encode(), digest_size=8).hexdigest()


def _threads(cpu: float, share: int) -> int:
    """Return the CPU threads of one replica: its own cores, else its share of all but one."""
    return max(1, int(cpu)) if cpu else max(1, (int(machine.cores()) - 1) // max(1, share))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _spawn(folder: Path, content: dict[str, Any]) -> None:
    for name in ("identity.json", "exit.json", "stderr.log", "stderr.log.1"):
        if is_held(folder / "lock"):
            raise Unavailable(f"The replica {folder.name} runs already.")
        (folder / name).unlink(missing_ok=True)
    write_private(folder / "plan.json", json.dumps(content))
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(_PACKAGE_ROOT)}
    try:
        shim = subprocess.run(
            [*_SHIM, str(folder)],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_START_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"The shim of replica {folder.name} could not start: {error}.") from error
    if shim.returncode != 0:
        said = shim.stderr.decode(errors="replace").strip()[-500:]
        raise Unavailable(f"The shim of replica {folder.name} could not start: {said}")


def _stop(folder: Path, grace_s: float) -> None:
    trace = _Trace.read(folder)
    if trace is None or trace.boot != boot_id():
        return
    if send_signal(trace.shim_pid, trace.shim_start_time, 15) and not wait_for_end(
        trace.shim_pid, trace.shim_start_time, grace_s
    ):
        send_signal(trace.pid, trace.start_time, 9)
        if not wait_for_end(trace.shim_pid, trace.shim_start_time, _KILL_PATIENCE_S):
            send_signal(trace.shim_pid, trace.shim_start_time, 9)
            wait_for_end(trace.shim_pid, trace.shim_start_time, _KILL_PATIENCE_S)
    trace.kill_rest()
    wait_for_end(trace.pid, trace.start_time, _KILL_PATIENCE_S)


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    if is_held(folder / "lock"):
        raise Unavailable(f"The replica {folder.name} still runs.", next_step="Stop it first.")
    trace = _Trace.read(folder)
    if trace is not None:
        trace.kill_rest()
    socket = _read_json(folder / "plan.json").get("socket")
    if isinstance(socket, str):
        Path(socket).unlink(missing_ok=True)
    shutil.rmtree(folder)
