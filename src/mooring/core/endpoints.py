"""Endpoint: what callers put into `model`. Spreads calls over services and can be re-pointed without them noticing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mooring.core.objects import Limits, Metadata, Moderation, Name, Noun, Resource, Status, Text
from mooring.core.services import CALLABLE_STATES, COMING_STATES

RESERVE_TOKENS = 256  # reserved for an answer when the caller names no max_tokens
Weight = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]


class Target(Noun, frozen=True):
    """A service by name, with its share of the calls."""

    name: Name
    weight: Weight = 1


class EndpointSpec(Noun, frozen=True):
    """What an endpoint points to, and what bounds its calls."""

    description: Text = ""
    services: Annotated[list[Target], Field(min_length=1, max_length=64)]
    limits: Limits = Limits()
    moderation: Moderation | None = None
    enabled: bool = True
    reserve_tokens: Annotated[int, Field(strict=True, ge=0, le=10**9)] = RESERVE_TOKENS

    @model_validator(mode="after")
    def _weights_add_up(self) -> Self:
        names = [target.name for target in self.services]
        if len(set(names)) < len(names):
            raise ValueError("services: a service is named twice; give it once with its weight")
        if not any(target.weight for target in self.services):
            raise ValueError("services: at least one weight must be above 0")
        return self


class EndpointStatus(Status, frozen=True):
    """State and reason are derived from the services behind it."""

    spec_version: int = 1
    updated_at: datetime | None = None


class Endpoint(Resource[Metadata, EndpointSpec, EndpointStatus], frozen=True):
    """An endpoint of one project."""

    kind: Literal["Endpoint"] = "Endpoint"
    status: EndpointStatus = EndpointStatus()


@dataclass(frozen=True, slots=True)
class TargetState:
    """What an endpoint's state is derived from, per service."""

    name: str
    weight: int
    state: str
    reason: str


def endpoint_state(*, enabled: bool, targets: Sequence[TargetState]) -> tuple[str, str]:
    """Return (Scheduling | Healthy | Abnormal | Stopped, reason)."""
    if not enabled:
        return "Stopped", "The endpoint is switched off."
    used = [target for target in targets if target.weight > 0]
    missing = [target for target in used if target.state not in CALLABLE_STATES]
    reason = " · ".join(_told(target) for target in missing)
    if len(missing) < len(used):
        return "Healthy", reason
    if any(target.state in COMING_STATES for target in missing):
        return "Scheduling", reason
    return "Abnormal", reason


def _told(target: TargetState) -> str:
    return f"{target.name} is {target.state}" + (f": {target.reason}" if target.reason else "")
