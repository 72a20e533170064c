"""A placement and an engine that exist only in memory, for tests of the loop that drives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mooring.core.errors import Unavailable
from mooring.core.replicas import (
    NOTHING_RESERVED,
    Capacity,
    Figures,
    LaunchPlan,
    LaunchRequest,
    MemoryNeed,
    ObservedReplica,
    Probe,
    ReplicaPlace,
    Reserved,
)


@dataclass
class FakeProcess:
    """What stands for an engine process."""

    place: ReplicaPlace
    service_id: str
    spec_version: int
    pid: int
    alive: bool = True
    exit_status: int | None = None
    answer: Probe = field(default_factory=lambda: Probe("starting"))
    output: str = ""
    in_flight: int | None = 0
    engine: str = "llamacpp"
    reserved: Reserved = NOTHING_RESERVED
    adapters: tuple[str, ...] = ()


class FakePlacement:
    """Keeps processes in a dict. Tests let them become ready, die or fall silent.

    Attributes:
        starts: the ids that were started, in order.
        refuses: the next starts fail with this text, if it is not empty.
    """

    def __init__(self, gpus: int = 0) -> None:
        self.processes: dict[str, FakeProcess] = {}
        self.starts: list[str] = []
        self.stops: list[str] = []
        self.refuses = ""
        self._gpus = gpus
        self._next_pid = 1000

    def place(self, replica_id: str, reserved: Reserved = NOTHING_RESERVED, share: int = 1) -> ReplicaPlace:
        """Choose a place that does not exist."""
        folder = Path("/nowhere") / replica_id
        return ReplicaPlace(replica_id, folder, folder / "e.sock", f"key-{self._next_pid}", 1)

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
        """Begin a process."""
        if self.refuses:
            raise Unavailable(self.refuses, next_step="")
        self._next_pid += 1
        self.starts.append(place.replica_id)
        self.processes[place.replica_id] = FakeProcess(
            place, service_id, spec_version, self._next_pid, engine=engine, reserved=reserved, adapters=tuple(adapters)
        )

    async def stop(self, replica_id: str, grace_s: float = 5.0) -> None:
        """End a process."""
        self.stops.append(replica_id)
        process = self.processes.get(replica_id)
        if process is not None and process.alive:
            process.alive, process.exit_status = False, -15

    async def list(self) -> list[ObservedReplica]:
        """Show all processes."""
        return [
            ObservedReplica(
                replica_id=replica_id,
                service_id=process.service_id,
                spec_version=process.spec_version,
                alive=process.alive,
                pid=process.pid if process.alive else None,
                started_at=float(process.pid),
                exit_status=process.exit_status,
                address=f"unix:{process.place.socket}",
                key=process.place.key,
                served_model="fake",
                slots=4,
                engine=process.engine,
                reserved=process.reserved,
                adapters=process.adapters,
            )
            for replica_id, process in self.processes.items()
        ]

    async def logs(self, replica_id: str, tail_lines: int = 200) -> str:
        """Return what the process said."""
        process = self.processes.get(replica_id)
        return process.output if process is not None else ""

    async def remove(self, replica_id: str) -> None:
        """Forget a process."""
        self.processes.pop(replica_id, None)

    def capacity(self) -> Capacity:
        """Return a machine with the GPUs asked for."""
        return Capacity(cpu=8, memory_mib=16384, gpus=self._gpus)

    async def figures(self, replica_ids: Collection[str]) -> dict[str, Figures]:
        """Return the same figures for every process that lives."""
        alive = (name for name in replica_ids if name in self.processes and self.processes[name].alive)
        return {name: Figures(12.5, 3.5, 64 << 20, 4096, 8192) for name in alive}

    async def follow(self, replica_id: str, tail_lines: int = 200) -> AsyncIterator[str]:
        """Yield what the process said."""
        if output := await self.logs(replica_id, tail_lines):
            yield output

    def crash(self, replica_id: str, status: int = -9, output: str = "") -> None:
        """Let a process end by itself."""
        process = self.processes[replica_id]
        process.alive, process.exit_status, process.output = False, status, output


class FakeEngine:
    """Answers for the processes of a FakePlacement."""

    CAPABILITIES = frozenset({"chat"})

    def __init__(self, placement: FakePlacement) -> None:
        self._placement = placement
        self.weights_bytes = 64 << 20
        self.requests: dict[str, LaunchRequest] = {}  # by replica id

    def launch_plan(self, request: LaunchRequest, place: ReplicaPlace) -> LaunchPlan:
        """Write a recipe nobody will execute."""
        self.requests[place.replica_id] = request
        return LaunchPlan(("fake",), {}, f"unix:{place.socket}", request.served_model, 4)

    def capabilities(self, request: LaunchRequest) -> frozenset[str]:
        """Say that everything a text model does is answered."""
        return frozenset({"chat", "completion", "embedding"})

    def memory_need(self, request: LaunchRequest) -> MemoryNeed:
        """Say what the test wants said."""
        return MemoryNeed((("weights", self.weights_bytes),))

    def progress(self, stderr: str) -> str:
        """Return the last line."""
        return self.last_error(stderr)

    async def probe(self, address: str, key: str) -> Probe:
        """Say what the test wants said."""
        process = self._find(address)
        if process is None or not process.alive:
            return Probe("unreachable", "nobody listens")
        return process.answer if process.place.key == key else Probe("stranger", "another key")

    async def in_flight(self, address: str, key: str) -> int | None:
        """Return the requests under way."""
        process = self._find(address)
        return process.in_flight if process is not None else None

    def last_error(self, stderr: str) -> str:
        """Return the last line."""
        return stderr.splitlines()[-1] if stderr else ""

    def _find(self, address: str) -> FakeProcess | None:
        found = (process for process in self._placement.processes.values() if f"unix:{process.place.socket}" == address)
        return next(found, None)
