"""What travels between an engine's recipe, a placement and the loop: plans, observations, probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mooring.core.models import ModelFiles

ReplicaState = Literal["pending", "starting", "ready", "draining", "gone", "failed"]


@dataclass(frozen=True, slots=True)
class Replica:
    """One running copy of a service, as the platform remembers it. Times are Unix seconds."""

    id: str
    service_id: str
    spec_version: int
    recipe: str = ""  # digest of what its engine was started with; another digest means: start anew
    state: ReplicaState = "pending"
    reason: str = ""
    address: str = ""
    engine_key: str = ""
    served_model: str = ""
    adapters: tuple[str, ...] = ()  # in the order in which its engine was given them
    slots: int = 0
    context_length: int = 0  # tokens per request
    pid: int | None = None
    restarts: int = 0  # exits in a row, none of them after being ready for long
    next_start_at: float | None = None  # when a pending one starts, or a draining one is stopped
    started_at: float | None = None
    ready_at: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicaPlace:
    """Where a replica will live, chosen by the placement before the engine writes its recipe."""

    replica_id: str
    directory: Path  # the replica's own folder (0700): stderr.log, identity.json, lock
    socket: Path  # Unix socket the engine must listen on (path ≤ 100 bytes)
    key: str  # random bearer the engine must demand
    threads: int  # CPU threads this replica may use
    gpus: tuple[int, ...] = ()  # indexes of the GPUs that are this replica's alone


@dataclass(frozen=True, slots=True)
class Reserved:
    """What is set aside for one replica. 0 = nothing: the cores are then shared with all others."""

    cpu: float = 0.0  # cores
    memory_bytes: int = 0
    gpus: int = 0


NOTHING_RESERVED = Reserved()


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A LoRA adapter that lies on this machine: a GGUF file, or a folder as PEFT writes it."""

    name: str  # callers ask for `<model>:<name>`
    path: Path


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What a replica shall run, as far as an engine must know it."""

    model: ModelFiles
    served_model: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    adapters: tuple[AdapterFiles, ...] = ()
    types: tuple[str, ...] = ()  # kinds of call asked for; () = the engine's usual ones
    gpus: int = 0
    program: tuple[str, ...] = ()  # how to start an engine that is a program of its own; () = its usual command
    cache: Path | None = None  # folder for what engines compile and want again; None = the replica's own, lost with it


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a replica will take, estimated before it starts: `parts` are (what, bytes) and add up to `total`."""

    parts: tuple[tuple[str, int], ...]
    device: Literal["memory", "GPU memory"] = "memory"

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(size for _, size in self.parts)

    def told(self) -> str:
        """The sum for people: `1.4 GiB (weights 1.1 GiB + KV cache 0.2 GiB + …)`."""
        parts = " + ".join(f"{what} {gib(size)}" for what, size in self.parts)
        return f"{gib(self.total)} ({parts})"


def gib(size: int) -> str:
    """Return a number of bytes for people: `12.3 GiB`, `340 MiB`."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{max(1, round(size / (1 << 20)))} MiB"


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """A recipe: what to execute. `env` is the whole environment of the engine, never an addition to ours."""

    argv: tuple[str, ...]
    env: dict[str, str]
    address: str  # "unix:/path/e.sock" or "http://127.0.0.1:port"; the OpenAI paths stand below /v1 there
    served_model: str  # value of `model` this engine answers to
    slots: int  # requests it runs at once


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """What a placement sees of a replica. `alive` is the truth about the process; the table is not."""

    replica_id: str
    service_id: str
    spec_version: int
    alive: bool
    pid: int | None
    started_at: float  # Unix seconds
    exit_status: int | None  # of a dead one; negative = signal
    address: str
    key: str
    served_model: str
    slots: int
    engine: str = "llamacpp"  # registry name; replicas of version 0.1 did not write it down
    adapters: tuple[str, ...] = ()
    reserved: Reserved = NOTHING_RESERVED
    gpus: tuple[int, ...] = ()  # indexes


@dataclass(frozen=True, slots=True)
class Figures:
    """What one replica uses now, all its processes together."""

    cpu_percent: float  # of one core, over the last moment
    cpu_s: float  # since it started
    memory_bytes: int  # resident, shared pages counted by share
    read_bytes: int  # from disk, since it started
    write_bytes: int
    gpu_memory_bytes: int | None = None  # None = it has no GPU, or nobody can tell
    gpu_percent: float | None = None  # busiest of its GPUs


@dataclass(frozen=True, slots=True)
class Probe:
    """An engine's answer about itself."""

    state: Literal["starting", "ready", "unreachable", "stranger"]  # stranger: answers, but not to our key
    reason: str = ""
    context_length: int = 0  # tokens per request
    slots: int = 0
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a placement offers in all."""

    cpu: float  # cores
    memory_mib: int
    gpus: int
    chips: tuple[str, ...] = field(default=("cpu",))
    available_mib: int | None = None  # memory that nobody uses at this moment; None = unknown
