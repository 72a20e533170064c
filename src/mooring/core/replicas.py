"""What travels between an engine's recipe, a placement and the loop: plans, observations, probes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
