"""States that are derived: of endpoints, keys and services."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mooring.core.endpoints import TargetState, endpoint_state
from mooring.core.keys import ApiKeySpec, expiry, key_state
from mooring.core.services import (
    ModelServiceSpec,
    engine_of,
    memory_bytes,
    next_state,
    served_model,
    types_of,
    wanted_replicas,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def target(state: str, weight: int = 1, reason: str = "") -> TargetState:
    return TargetState("s", weight, state, reason)


@pytest.mark.parametrize(
    ("enabled", "targets", "expected"),
    [
        (False, [target("healthy")], ("Stopped", "The endpoint is switched off.")),
        (True, [target("healthy")], ("Healthy", "")),
        (True, [target("updating")], ("Healthy", "")),
        (True, [target("sleeping")], ("Healthy", "")),
        (True, [target("healthy"), target("failed", reason="no memory")], ("Healthy", "s is failed: no memory")),
        (True, [target("starting"), target("failed")], ("Scheduling", "s is starting · s is failed")),
        (True, [target("healthy", weight=0), target("failed")], ("Abnormal", "s is failed")),
        (True, [target("stopped")], ("Abnormal", "s is stopped")),
        (True, [target("gone")], ("Abnormal", "s is gone")),
    ],
)
def test_an_endpoint_is_as_well_as_the_services_it_uses(
    enabled: bool, targets: list[TargetState], expected: tuple[str, str]
) -> None:
    assert endpoint_state(enabled=enabled, targets=targets) == expected


@pytest.mark.parametrize(
    ("enabled", "owner", "ends", "state"),
    [
        (True, True, None, "Active"),
        (True, True, NOW + timedelta(seconds=1), "Active"),
        (True, True, NOW, "Expired"),
        (False, True, None, "Disabled"),
        (True, False, NOW, "Disabled"),
    ],
)
def test_a_key_works_while_it_and_its_owner_do(enabled: bool, owner: bool, ends: datetime | None, state: str) -> None:
    assert key_state(enabled=enabled, owner_enabled=owner, expires_at=ends, now=NOW)[0] == state


def test_a_key_ends_at_a_time_or_after_days() -> None:
    assert expiry(ApiKeySpec(), NOW) is None
    assert expiry(ApiKeySpec(ttl_days=2), NOW) == NOW + timedelta(days=2)
    assert expiry(ApiKeySpec(expires_at=NOW), NOW) == NOW


def spec(source: str = "builtin", **fields: object) -> ModelServiceSpec:
    place = {"name": "mooring-demo"} if source == "builtin" else {"path": "/models/tiny.Q8.gguf"}
    return ModelServiceSpec.model_validate({"model": {"source": source, **place}, **fields})


def test_what_a_model_service_is_called_runs_on_and_takes() -> None:
    assert served_model("mine", spec()) == "mooring-demo"
    assert served_model("mine", spec("local")) == "tiny.Q8"
    assert served_model("mine", spec(servedModel="org/m")) == "org/m"
    assert engine_of(spec()) == "llamacpp"
    assert types_of(spec()) == ("chat", "completion", "embedding")
    assert types_of(spec("local")) == ("chat", "completion")
    assert types_of(spec("local", args=["--embeddings"])) == ("chat", "completion", "embedding")
    assert types_of(spec(types=["rerank"])) == ("rerank",)


@pytest.mark.parametrize(
    ("text", "amount"), [("512Mi", 512 << 20), ("1Gi", 1 << 30), ("1.5G", 1.5e9), ("2Ti", 2 << 40), ("100", 100)]
)
def test_memory_is_written_as_in_kubernetes(text: str, amount: float) -> None:
    assert memory_bytes(text) == amount


@pytest.mark.parametrize(
    ("fields", "current", "after"),
    [
        ({"replicas": 0}, "pending", "stopped"),
        ({"stopped": True}, "healthy", "stopping"),
        ({"stopped": True}, "stopped", "stopped"),
        ({}, "stopped", "pending"),
        ({}, "stopping", "pending"),
        ({}, "failed", "pending"),
        ({}, "healthy", "updating"),
        ({}, "unhealthy", "unhealthy"),
    ],
)
def test_the_state_right_after_a_change(fields: dict[str, object], current: str, after: str) -> None:
    assert next_state(spec(**fields), current) == after
    assert wanted_replicas(spec(**fields)) == (1 if not fields else 0)
