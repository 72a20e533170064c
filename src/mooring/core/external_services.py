"""External service: a service that runs elsewhere and is only registered here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mooring.core.objects import Metadata, Resource
from mooring.core.services import Chip, Count, ServiceSpecBase, ServiceStatus, Short

Url = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class ExternalServiceSpec(ServiceSpecBase, frozen=True):
    """`urls` are OpenAI base URLs, up to and including `/v1`."""

    urls: Annotated[list[Url], Field(min_length=1, max_length=64)]
    api_key_secret: Short | None = None  # name of a Secret in the same project
    chip: Chip = "cpu"
    context_length: Count = 0  # tokens; 0 = unknown


class ExternalService(Resource[Metadata, ExternalServiceSpec, ServiceStatus], frozen=True):
    """A registered service of one project."""

    kind: Literal["ExternalService"] = "ExternalService"
    status: ServiceStatus = ServiceStatus()


def served_model(name: str, spec: ExternalServiceSpec) -> str:
    """Return the value of `model` that the service wants; `name` is the service's own."""
    return spec.served_model or name


def types_of(spec: ExternalServiceSpec) -> tuple[str, ...]:
    """Return the kinds of call the service takes."""
    return tuple(spec.types) if spec.types else ("chat", "completion")
