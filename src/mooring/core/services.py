"""Model service: a model that we deploy, and what is common to it and to a service that runs elsewhere."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from mooring.core.models import FetchOrder, ModelFormat
from mooring.core.models import Wanted as WantedFiles
from mooring.core.objects import (
    ADAPTER_PATTERN,
    MEMORY_PATTERN,
    REPO_PATTERN,
    REVISION_PATTERN,
    SERVED_NAME_PATTERN,
    Limits,
    Metadata,
    Moderation,
    Noun,
    Resource,
    Status,
    Text,
    to_wire,
)

ServiceState = Literal[
    "pending", "downloading", "starting", "healthy", "unhealthy", "updating", "upgrading", "sleeping", "stopping",
    "stopped", "failed",
]  # fmt: skip
CallType = Literal["chat", "completion", "embedding", "rerank", "vision", "image", "audio", "video", "other"]
CALLABLE_STATES: frozenset[str] = frozenset({"healthy", "updating", "upgrading", "sleeping"})
COMING_STATES: frozenset[str] = frozenset({"pending", "downloading", "starting"})
MAX_REPLICAS = 64
CALL_TYPES: tuple[CallType, ...] = get_args(CallType)  # in the order in which they are listed

Chip = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
Short = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Argument = Annotated[str, StringConstraints(max_length=4096)]
Revision = Annotated[str, StringConstraints(pattern=REVISION_PATTERN)]
ServedName = Annotated[str, StringConstraints(pattern=SERVED_NAME_PATTERN)]
RepoName = Annotated[str, StringConstraints(pattern=REPO_PATTERN)]
AdapterName = Annotated[str, StringConstraints(pattern=ADAPTER_PATTERN)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Count = Annotated[int, Field(strict=True, ge=0, le=10**9)]


class BuiltinModel(Noun, frozen=True):
    """A model that ships with the platform."""

    source: Literal["builtin"]
    name: Short


class LocalModel(Noun, frozen=True):
    """A GGUF file, a folder with one model in GGUF, or a folder with config.json and *.safetensors, on this machine."""

    source: Literal["local"]
    path: Short


class HubModel(Noun, frozen=True):
    """A model from a hub. `file` picks among its weights (`*q8_0.gguf`); `mirror` stands for the hub's own URL."""

    source: Literal["huggingface", "modelscope"]
    name: RepoName
    revision: Revision | None = None  # branch, tag or commit; default: the hub's default branch
    file: Short | None = None
    mirror: Short | None = None
    token_secret: Short | None = None  # name of a Secret in the same project; its value `token` is sent to the hub

    def order(self, project: str, want: WantedFiles = "model") -> FetchOrder:
        """Return what is to be fetched for a service of `project`."""
        revision, file, mirror = self.revision or "", self.file or "", self.mirror or ""
        owner = f"{project}/{self.token_secret}" if self.token_secret else ""
        return FetchOrder(self.source, self.name, revision, file, mirror, want, owner)


ModelSource = Annotated[BuiltinModel | LocalModel | HubModel, Field(discriminator="source")]


class Adapter(Noun, frozen=True):
    """A LoRA adapter; callers ask for `<model>:<name>`."""

    name: AdapterName
    model: Annotated[LocalModel | HubModel, Field(discriminator="source")]


class Resources(Noun, frozen=True):
    """What one replica asks for. `memory` as in Kubernetes: `512Mi`, `1Gi`.

    What is not given is not set aside: the cores are shared, and the memory is what the model is estimated to take.
    """

    cpu: Annotated[float, Field(ge=0, le=4096)] | None = None
    memory: Annotated[str, StringConstraints(pattern=MEMORY_PATTERN)] | None = None
    gpus: Annotated[int, Field(strict=True, ge=0, le=1024)] = 0


class ServiceSpecBase(Noun, frozen=True):
    """What every callable service has."""

    description: Text = ""
    served_model: ServedName | None = None
    types: Annotated[list[CallType], Field(min_length=1)] | None = None
    limits: Limits = Limits()
    moderation: Moderation | None = None
    enabled: bool = True  # whether calls that address the service itself are taken
    direct_access: bool = True  # False closes the paths that address the service itself


class ModelServiceSpec(ServiceSpecBase, frozen=True):
    """What is deployed: model, engine, arguments, size."""

    model: ModelSource
    adapters: Annotated[list[Adapter], Field(max_length=32)] = Field(default_factory=list[Adapter])
    engine: Literal["auto", "llamacpp", "vllm"] = "auto"
    args: Annotated[list[Argument], Field(max_length=200)] = Field(default_factory=list)
    env: Annotated[dict[VariableName, Argument], Field(max_length=200)] = Field(default_factory=dict)
    resources: Resources = Resources()
    chip: Chip = "cpu"
    replicas: Annotated[int, Field(strict=True, ge=0, le=MAX_REPLICAS)] = 1
    update: Literal["rolling", "recreate"] = "rolling"  # recreate: the old ones end first, for want of room
    stopped: bool = False  # keeps the configuration and runs nothing

    @model_validator(mode="after")
    def _adapters_differ(self) -> Self:
        names = [adapter.name for adapter in self.adapters]
        if len(set(names)) < len(names):
            raise ValueError("adapters: a name is given twice")
        return self


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
    engine: str = ""  # "" until the files of a model from a hub are known
    types: list[str] = Field(default_factory=list)
    adapters: list[str] = Field(default_factory=list)
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


def engine_for(spec: ModelServiceSpec, model_format: ModelFormat) -> str:
    """Return the registry name of the engine that runs files of this format; a choice in the spec stands."""
    if spec.engine != "auto":
        return spec.engine
    return "llamacpp" if model_format == "gguf" else "vllm"


def types_of(spec: ModelServiceSpec) -> tuple[str, ...]:
    """Return the kinds of call the service takes."""
    if spec.types:
        return tuple(spec.types)
    embeds = isinstance(spec.model, BuiltinModel) or any(arg.startswith("--embedding") for arg in spec.args)
    return ("chat", "completion", "embedding") if embeds else ("chat", "completion")


_WANTED: dict[str, WantedFiles] = {"auto": "model", "llamacpp": "gguf", "vllm": "safetensors"}


def hubs_of(spec: ModelServiceSpec) -> list[HubModel]:
    """Return what of the service comes from hubs: the model first, then the adapters."""
    models = (spec.model, *(adapter.model for adapter in spec.adapters))
    return [model for model in models if isinstance(model, HubModel)]


def orders_of(spec: ModelServiceSpec, project: str) -> list[tuple[HubModel, FetchOrder]]:
    """Return what must be fetched from hubs before a replica can start: the model first, then the adapters."""
    orders = [(spec.model, spec.model.order(project, _WANTED[spec.engine]))] if isinstance(spec.model, HubModel) else []
    hubs = (adapter.model for adapter in spec.adapters if isinstance(adapter.model, HubModel))
    return orders + [(hub, hub.order(project, "adapter")) for hub in hubs]


def guessed_engine(spec: ModelServiceSpec) -> str:
    """Return the engine's registry name as far as the spec tells it; "" when the model's files decide."""
    if spec.engine != "auto":
        return spec.engine
    is_gguf = isinstance(spec.model, LocalModel) and spec.model.path.endswith(".gguf")
    return "llamacpp" if is_gguf or isinstance(spec.model, BuiltinModel) else ""


RECIPE = ("model", "adapters", "engine", "args", "env", "resources", "chip", "served_model", "types")
"""What of a spec a replica is started with: another value means another version, and this is what is rolled back."""


def recipe_part(spec: ModelServiceSpec) -> dict[str, Any]:
    """Return the part of the spec that a replica is started with, JSON-ready."""
    return to_wire(spec, only=RECIPE)


def with_recipe(spec: ModelServiceSpec, part: dict[str, Any]) -> ModelServiceSpec:
    """Return the spec with the recipe that `recipe_part` gave; what is not of the recipe stays as it is."""
    kept = {name: value for name, value in to_wire(spec).items() if name not in {to_camel(field) for field in RECIPE}}
    return ModelServiceSpec.model_validate({**kept, **part})


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
