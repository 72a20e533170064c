"""The documents of a deployment, and how they go together with what exists."""

import pytest

from mooring.cli.deployment import (
    flags_for,
    free_label,
    label_for,
    merge_endpoint,
    merge_service,
    name_for,
    needs_token,
    pairs,
    plan_documents,
    with_token,
)  # fmt: skip
from mooring.cli.problems import CommandError, UsageError

DEMO = {"source": "builtin", "name": "mooring-demo"}
HUB = {"source": "huggingface", "name": "org/Some_Model"}


def service(model: dict, **given: object) -> dict:
    return plan_documents(model, "", given, "default")[0]


@pytest.mark.parametrize(
    ("model", "name"),
    [("Qwen3-0.6B_Q8_0", "qwen3-0.6b-q8-0"), ("模型", "model"), ("-x-", "x"), ("a" * 80, "a" * 63)],
)
def test_a_models_name_becomes_a_valid_object_name(model: str, name: str) -> None:
    assert name_for(model) == name


def test_service_and_endpoint_are_named_after_the_model_and_hold_only_what_was_given() -> None:
    first, endpoint = plan_documents(HUB, "", {"replicas": 2}, "default")
    assert first["metadata"] == {"name": "some-model", "project": "default"}
    assert first["spec"] == {"model": HUB, "replicas": 2}
    assert endpoint["spec"] == {"services": [{"name": "some-model"}]}
    assert plan_documents(HUB, "mine", {}, "default")[1]["metadata"]["name"] == "mine"
    assert label_for("some.model") == "some-model-key"


def test_a_token_becomes_a_secret_that_all_hub_models_of_the_service_use() -> None:
    wanted = service(HUB, adapters=[{"name": "a", "model": HUB}, {"name": "b", "model": {"source": "local"}}])
    secret, changed = with_token(wanted, "hf_secret")
    assert secret["metadata"] == {"name": "some-model-hub-token", "project": "default"}
    assert secret["spec"] == {"stringData": {"token": "hf_secret"}}
    assert changed["spec"]["model"]["tokenSecret"] == "some-model-hub-token"
    assert [adapter["model"].get("tokenSecret") for adapter in changed["spec"]["adapters"]] == [
        "some-model-hub-token", None,
    ]  # fmt: skip
    long, _ = with_token({**wanted, "metadata": {"name": "a" * 52 + "-" + "b" * 10, "project": "p"}}, "t")
    assert len(long["metadata"]["name"]) <= 63 and "--" not in long["metadata"]["name"]


def test_only_what_comes_from_a_hub_needs_a_token() -> None:
    assert needs_token(service(HUB))
    assert not needs_token(service(DEMO))
    assert needs_token(service(DEMO, adapters=[{"name": "a", "model": HUB}]))


def test_deploying_again_keeps_what_was_set_and_another_model_needs_update() -> None:
    wanted = service(DEMO)
    spec = {"model": DEMO, "replicas": 3, "args": ["--parallel=2"]}
    existing = {"metadata": wanted["metadata"], "spec": spec}
    assert merge_service(existing, wanted, update=False)["spec"] == spec
    assert merge_service(existing, service(DEMO, replicas=2), update=False)["spec"] == {**spec, "replicas": 2}
    other = {**existing, "spec": {**spec, "model": {"source": "local", "path": "/a.gguf"}}}
    with pytest.raises(CommandError, match=r"runs another model \(/a.gguf\)"):
        merge_service(other, wanted, update=False)
    assert merge_service(other, wanted, update=True)["spec"] == spec


def test_other_settings_change_only_with_update_and_resources_are_merged() -> None:
    wanted = service(DEMO, args=["--parallel=4"], resources={"cpu": 2.0})
    existing = {"metadata": wanted["metadata"], "spec": {"model": DEMO, "resources": {"cpu": 1.0, "memory": "1Gi"}}}
    with pytest.raises(CommandError, match="set otherwise: args, resources"):
        merge_service(existing, wanted, update=False)
    merged = merge_service(existing, wanted, update=True)["spec"]
    assert merged["resources"] == {"cpu": 2.0, "memory": "1Gi"}
    assert merged["args"] == ["--parallel=4"]


def test_another_file_of_the_same_repository_is_named_and_needs_no_update_before_it_ever_ran() -> None:
    wanted = service({**HUB, "file": "*q8*"}, args=["--parallel=4"])
    before = {"model": {**HUB, "file": "*q4*", "tokenSecret": "hf"}, "args": []}
    existing = {"metadata": wanted["metadata"], "spec": before, "status": {"state": "healthy", "readyReplicas": 1}}
    with pytest.raises(CommandError, match=r"runs org/Some_Model with another file \(\*q4\*\)"):
        merge_service(existing, wanted, update=False)
    for state in ("failed", "pending", "downloading"):
        existing["status"] = {"state": state, "readyReplicas": 0}
        spec = merge_service(existing, wanted, update=False)["spec"]
        assert spec == {"model": {**HUB, "file": "*q8*", "tokenSecret": "hf"}, "args": ["--parallel=4"]}
        with pytest.raises(CommandError, match="another model"):
            merge_service(existing, service({**HUB, "name": "org/Other"}), update=False)
    existing["status"] = {"state": "failed", "readyReplicas": 1}
    with pytest.raises(CommandError, match="another file"):
        merge_service(existing, wanted, update=False)


def test_fields_of_documents_are_told_as_flags() -> None:
    assert flags_for("Name it in spec.model.file, or spec.model.mirror.") == " (With mooring deploy: --file, --mirror.)"
    assert flags_for("Nothing is named.") == ""


def test_a_label_is_numbered_where_it_is_taken() -> None:
    assert free_label("some.model", set()) == "some-model-key"
    assert free_label("some.model", {"some-model-key", "some-model-key-2"}) == "some-model-key-3"


def test_the_credential_of_before_stays_where_none_is_given() -> None:
    wanted = service(HUB)
    existing = {"metadata": wanted["metadata"], "spec": {"model": {**HUB, "tokenSecret": "hf"}}}
    assert merge_service(existing, wanted, update=False)["spec"]["model"]["tokenSecret"] == "hf"


def test_deploying_does_not_take_an_endpoint_away_from_another_service() -> None:
    _, wanted = plan_documents(DEMO, "", {}, "default")
    shared = {"services": [{"name": "mooring-demo", "weight": 1}, {"name": "other", "weight": 1}]}
    assert merge_endpoint({"metadata": {}, "spec": shared}, wanted, update=False)["spec"] == shared
    elsewhere = {"metadata": {}, "spec": {"services": [{"name": "other"}], "enabled": True}}
    with pytest.raises(CommandError, match="leads to other"):
        merge_endpoint(elsewhere, wanted, update=False)
    assert merge_endpoint(elsewhere, wanted, update=True)["spec"]["services"] == [{"name": "mooring-demo"}]


def test_pairs_keep_what_stands_behind_the_first_equals_sign() -> None:
    assert pairs("--env", ["A=1", "B=x=y", "C="]) == {"A": "1", "B": "x=y", "C": ""}


@pytest.mark.parametrize("text", ["hf_secret_value", "=hf_secret_value"])
def test_what_is_no_pair_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE") as refused:
        pairs("--env", [text])
    assert text not in refused.value.message + refused.value.next_step
