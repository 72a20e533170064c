"""Model service: a model that we deploy, and what is common to it and to a service that runs elsewhere."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from mooring.core.objects import Limits, Metadata, Moderation, Noun, Resource, Status, Text

ServiceState = Literal[
    "pending", "downloading", "starting", "healthy", "unhealthy", "updating", "upgrading", "sleeping", "stopping",
    "stopped", "failed",
]  # fmt: skip
CallType = Literal["chat", "completion", "embedding", "rerank", "vision", "image", "audio", "video", "other"]
CALLABLE_STATES: frozenset[str] = frozenset({"healthy", "updating", "upgrading", "sleeping"})
COMING_STATES: frozenset[str] = frozenset({"pending", "downloading", "starting"})
MAX_REPLICAS = 64

Chip = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
Short = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Argument = Annotated[str, StringConstraints(max_length=4096)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Count = Annotated[int, Field(strict=True, ge=0, le=10**9)]


class BuiltinModel(Noun, frozen=True):
    """A model that ships with the platform."""

    source: Literal["builtin"]
    name: Short


class LocalModel(Noun, frozen=True):
    """A GGUF file, or a folder with exactly one, on this machine."""

    source: Literal["local"]
    path: Short


class HubModel(Noun, frozen=True):
    """A model from a hub."""

    source: Literal["huggingface", "modelscope"]
    name: Short
    revision: Short = "main"
    file: Short | None = None
    mirror: Short | None = None
    token_secret: Short | None = None


ModelSource = Annotated[BuiltinModel | LocalModel | HubModel, Field(discriminator="source")]


class Resources(Noun, frozen=True):
    """What one replica asks for. `memory` as in Kubernetes: `512Mi`, `1Gi`."""

    cpu: Annotated[float, Field(ge=0, le=4096)] = 1
    memory: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|K|M|G|T)?$")] = "1Gi"
    gpus: Annotated[int, Field(strict=True, ge=0, le=1024)] = 0


class ServiceSpecBase(Noun, frozen=True):
    """What every callable service has."""

    description: Text = ""
    served_model: Short | None = None
    types: Annotated[list[CallType], Field(min_length=1)] | None = None
    limits: Limits = Limits()
    moderation: Moderation | None = None
    enabled: bool = True  # whether calls that address the service itself are taken
    direct_access: bool = True  # False closes the paths that address the service itself


class ModelServiceSpec(ServiceSpecBase, frozen=True):
    """What is deployed: model, engine, arguments, size."""

    model: ModelSource
    engine: Literal["auto", "llamacpp", "vllm"] = "auto"
    args: Annotated[list[Argument], Field(max_length=200)] = Field(default_factory=list)
    env: Annotated[dict[VariableName, Argument], Field(max_length=200)] = Field(default_factory=dict)
    resources: Resources = Resources()
    chip: Chip = "cpu"
    replicas: Annotated[int, Field(strict=True, ge=0, le=MAX_REPLICAS)] = 1
    stopped: bool = False  # keeps the configuration and runs nothing


class ServiceStatus(Status, frozen=True):
    """What the loop found; `detail` is for people.

    A change of the spec is carried out when `currentReplicas`, those ready that run as the spec of `specVersion` says,
    has reached `replicas`, the number wanted. `readyReplicas` also counts those of earlier specs.
    """

    state: str = "pending"
    progress: dict[str, Any] = Field(default_factory=dict)
    detail: dict[str, Any] = Field(default_factory=dict)
    spec_version: int = 1
    served_model: str = ""
    engine: str = ""
    types: list[str] = Field(default_factory=list)
    replicas: int = 0
    ready_replicas: int = 0
    current_replicas: int = 0
    updated_at: datetime | None = None


class ModelService(Resource[Metadata, ModelServiceSpec, ServiceStatus], frozen=True):
    """A deployed model of one project."""

    kind: Literal["ModelService"] = "ModelService"
    status: ServiceStatus = ServiceStatus()


def served_model(name: str, spec: ModelServiceSpec) -> str:
    """Return the value of `model` that the service's engine answers to; `name` is the service's own."""
    if spec.served_model:
        return spec.served_model
    if isinstance(spec.model, LocalModel):
        return PurePath(spec.model.path).stem or name
    return spec.model.name


def engine_of(spec: ModelServiceSpec) -> str:
    """Return the engine's registry name."""
    return "llamacpp" if spec.engine == "auto" else spec.engine


def types_of(spec: ModelServiceSpec) -> tuple[str, ...]:
    """Return the kinds of call the service takes."""
    if spec.types:
        return tuple(spec.types)
    embeds = isinstance(spec.model, BuiltinModel) or any(arg.startswith("--embedding") for arg in spec.args)
    return ("chat", "completion", "embedding") if embeds else ("chat", "completion")


def wanted_replicas(spec: ModelServiceSpec) -> int:
    """Return how many replicas should run now."""
    return 0 if spec.stopped else spec.replicas


def next_state(spec: ModelServiceSpec, current: str) -> str:
    """Return the state right after a change of the spec, before the loop has looked."""
    if wanted_replicas(spec) == 0:
        return "stopped" if current in ("stopped", "pending") else "stopping"
    if current in ("stopped", "stopping", "failed"):
        return "pending"
    return "updating" if current == "healthy" else current


def memory_bytes(text: str) -> float:
    """Return the bytes that `resources.memory` stands for: `1Gi` is 1024 MiB, `1G` a thousand million bytes."""
    number = text.rstrip("KMGTi")
    unit = text[len(number) :]
    base = 1024 if unit.endswith("i") else 1000
    return float(number) * base ** ("KMGT".index(unit[0]) + 1 if unit else 0)
