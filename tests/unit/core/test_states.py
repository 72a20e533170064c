"""States that are derived: of endpoints, keys and services."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mooring.core.endpoints import TargetState, endpoint_state
from mooring.core.keys import ApiKeySpec, expiry, key_state
from mooring.core.services import (
    ModelServiceSpec,
    engine_for,
    guessed_engine,
    memory_bytes,
    next_state,
    orders_of,
    recipe_part,
    served_model,
    types_of,
    wanted_replicas,
    with_recipe,
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
    assert guessed_engine(spec()) == "llamacpp"
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


def test_the_files_of_a_model_choose_the_engine_unless_the_spec_does():
    hub = {"source": "huggingface", "name": "org/model"}
    assert guessed_engine(spec(model=hub)) == "", "its files are not known yet"
    assert engine_for(spec(model=hub), "gguf") == "llamacpp"
    assert engine_for(spec(model=hub), "safetensors") == "vllm"
    assert engine_for(spec(model=hub, engine="llamacpp"), "safetensors") == "llamacpp"
    assert guessed_engine(spec(model={"source": "local", "path": "/models/a.gguf"})) == "llamacpp"
    assert guessed_engine(spec(model={"source": "local", "path": "/models/a"})) == ""


def test_what_must_be_fetched_is_named_with_what_the_engine_needs():
    hub = {"source": "huggingface", "name": "org/model", "file": "*q8_0.gguf", "tokenSecret": "hf"}
    adapters = [{"name": "poet", "model": {"source": "modelscope", "name": "org/poet"}}]
    (model, order), (_, adapter) = orders_of(spec(model=hub, engine="vllm", adapters=adapters), "p")
    assert (model.token_secret, order.want, order.file, adapter.want) == ("hf", "safetensors", "*q8_0.gguf", "adapter")
    assert order.key != orders_of(spec(model=hub), "p")[0][1].key
    assert orders_of(spec(), "p") == []


def test_what_is_fetched_with_a_projects_credential_is_that_projects_alone():
    hub = {"source": "huggingface", "name": "org/model"}
    (_, ours), *_ = orders_of(spec(model={**hub, "tokenSecret": "hf"}), "a")
    (_, theirs), *_ = orders_of(spec(model={**hub, "tokenSecret": "hf"}), "b")
    (_, anybodys), *_ = orders_of(spec(model=hub), "a")
    assert len({ours.key, theirs.key, anybodys.key}) == 3
    assert anybodys == orders_of(spec(model=hub), "b")[0][1]


def test_a_recipe_can_be_taken_out_of_a_spec_and_put_into_another():
    old = spec(args=["--ctx-size=64"], replicas=2, resources={"cpu": 2})
    new = spec(args=["--bad"], replicas=5, description="kept", limits={"rpm": 7})
    back = with_recipe(new, recipe_part(old))
    assert (back.args, back.resources.cpu) == (["--ctx-size=64"], 2)
    assert (back.replicas, back.description, back.limits.rpm) == (5, "kept", 7)
