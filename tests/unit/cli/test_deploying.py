"""`mooring deploy` and what it says, against a scripted platform."""

import json
from typing import Any

import pytest
from tests.unit.cli.scripted import Answer, Asked, Script, run

from mooring.cli import waiting

TOKEN = "hf_very_secret"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAUSE_S", 0.0)
    monkeypatch.setattr(waiting, "SETTLE_S", 0.0)


def status(state: str, reason: str = "", **more: Any) -> dict:
    return {
        "state": state,
        "reason": reason,
        "types": ["chat", "completion"],
        "specVersion": 1,
        "replicas": 1,
        "currentReplicas": 1 if state == "healthy" else 0,
        **more,
    }


def applying(asked: Asked) -> dict:
    """Make of documents what the platform makes of them."""
    items = []
    for document in asked.body["items"]:
        made = {**document, "id": f"{document['kind']}-1", "action": "created", "status": {}}
        if document["kind"] == "ModelService":
            made["status"] = status("pending")
        if document["kind"] == "Endpoint":
            made["id"] = "ep-1"
        if document["kind"] == "ApiKey":
            made["status"] = {"key": "mk-new"}
        items.append(made)
    return {"items": items}


@pytest.fixture
def hub(script: Script) -> Script:
    """A platform that takes everything; how its service fares is the test's."""
    script.on("POST", "/manage/v1/apply", applying)
    script.on("GET", "/manage/v1/keys", {"items": []})
    return script


def fares(script: Script, *statuses: dict) -> None:
    name = {"name": "some-model", "project": "default"}
    found = [
        {"kind": "ModelService", "id": "ModelService-1", "metadata": name, "spec": {}, "status": told}
        for told in statuses
    ]
    script.on("GET", "/manage/v1/services/ModelService-1", *found)


def documents(script: Script, number: int = 0) -> list[dict]:
    return script.sent("POST", "/manage/v1/apply")[number].body["items"]


def downloading(done: int, phase: str = "downloading") -> dict:
    progress = {"phase": phase, "doneBytes": done, "totalBytes": 4_000_000, "totalFiles": 1, "bytesPerSecond": 1000}
    return status("downloading", "org/Some-Model is being downloaded.", progress=progress)


def test_one_line_leads_from_a_hub_to_endpoint_and_key(hub: Script, capsys: pytest.CaptureFixture[str]) -> None:
    fares(hub, downloading(0), downloading(2_000_000), downloading(4_000_000, "verifying"), status("healthy"))
    assert run("deploy", "org/Some-Model", "--file", "*q8_0.gguf", "--arg=--ctx-size=4096", "--memory", "2Gi") == 0
    said = capsys.readouterr()
    service, endpoint = documents(hub)
    assert service["spec"] == {
        "model": {"source": "huggingface", "name": "org/Some-Model", "file": "*q8_0.gguf"},
        "args": ["--ctx-size=4096"],
        "resources": {"memory": "2Gi"},
    }
    assert endpoint["spec"] == {"services": [{"name": "some-model"}]}
    assert said.err.splitlines() == [
        "some-model: downloading 4.0 MB", "some-model: verifying", "some-model: healthy", "Ready.",
    ]  # fmt: skip
    lines = said.out.splitlines()
    assert lines[:4] == [
        "ModelService some-model created",
        "Endpoint some-model created",
        "Endpoint: ep-1",
        "Key:      mk-new   (shown only now)",
    ]
    assert f"curl {hub.url}/v1/chat/completions \\" in lines
    assert lines[-1] == "mooring chat some-model"


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_a_token_becomes_a_secret_and_is_never_printed(
    hub: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    fares(hub, status("healthy"))
    given = ["--token", TOKEN] if way == "flag" else []
    if way == "variable":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run("deploy", "org/Some-Model", *given) == 0
    secret, service, _ = documents(hub)
    assert (secret["kind"], secret["spec"]["stringData"]) == ("Secret", {"token": TOKEN})
    assert service["spec"]["model"]["tokenSecret"] == secret["metadata"]["name"] == "some-model-hub-token"
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert "kept as the secret some-model-hub-token" in said.err


def test_a_named_secret_stands_before_the_variable_and_a_local_model_takes_no_token(
    hub: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fares(hub, status("healthy"))
    assert run("deploy", "org/Some-Model", "--token-secret", "mine") == 0
    assert [document["kind"] for document in documents(hub)] == ["ModelService", "Endpoint"]
    assert documents(hub)[0]["spec"]["model"]["tokenSecret"] == "mine"
    assert run("deploy", "mooring-demo") == 0
    assert TOKEN not in json.dumps([asked.body for asked in hub.asked])


def test_everything_that_can_be_said_of_a_service_arrives_in_its_spec(hub: Script) -> None:
    fares(hub, status("healthy"))
    wanted = [
        "--engine", "vllm", "--env", "A=b=c", "--gpus", "2", "--cpu", "1.5", "--replicas", "3", "--type", "chat",
        "--lora", "poems=org/poems", "--source", "modelscope", "--revision", "v1", "--mirror", "http://127.0.0.1:1",
    ]  # fmt: skip
    assert run("deploy", "org/Some-Model", *wanted) == 0
    hub_model = {"source": "modelscope", "mirror": "http://127.0.0.1:1"}
    assert documents(hub)[0]["spec"] == {
        "model": {**hub_model, "name": "org/Some-Model", "revision": "v1"},
        "engine": "vllm",
        "env": {"A": "b=c"},
        "adapters": [{"name": "poems", "model": {**hub_model, "name": "org/poems"}}],
        "types": ["chat"],
        "resources": {"cpu": 1.5, "gpus": 2},
        "replicas": 3,
    }


def test_a_rehearsal_makes_nothing_and_waits_for_nothing(hub: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("deploy", "org/Some-Model", "--dry-run") == 0
    (asked,) = hub.sent("POST", "/manage/v1/apply")
    assert asked.query == {"dryRun": "true"}
    assert "ModelService some-model would be created" in capsys.readouterr().out


def test_whoever_does_not_wait_hears_how_to_watch(hub: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("deploy", "org/Some-Model", "--no-wait") == 0
    said = capsys.readouterr()
    assert "Watch: mooring services events -f some-model" in said.err
    assert "curl" in said.out


def test_a_failure_is_told_with_reason_and_next_steps_and_the_key_was_shown(
    hub: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = {"phase": "waiting", "doneBytes": 0, "totalBytes": 0}
    reason = "org/Some-Model can't be fetched: the repository is gated. Accept its licence, and give a token."
    fares(hub, status("failed", reason, progress=progress))
    assert run("deploy", "org/Some-Model") == 1
    said = capsys.readouterr()
    assert f"Error: some-model failed: {reason}" in said.err
    assert "mooring services events some-model" in said.err
    assert "mooring services delete some-model --with-endpoints" in said.err
    assert "mk-new" in said.out
    assert "curl" not in said.out


def test_programs_get_the_objects_and_nothing_else(hub: Script, capsys: pytest.CaptureFixture[str]) -> None:
    fares(hub, status("healthy"))
    assert run("deploy", "org/Some-Model", "-o", "json") == 0
    kinds = [item["kind"] for item in json.loads(capsys.readouterr().out)["items"]]
    assert kinds == ["ModelService", "Endpoint", "ApiKey"]


def test_a_service_for_embeddings_is_shown_how_to_be_called(hub: Script, capsys: pytest.CaptureFixture[str]) -> None:
    fares(hub, status("healthy", types=["embedding"]))
    assert run("deploy", "org/Some-Model", "--type", "embedding") == 0
    out = capsys.readouterr().out
    assert "/v1/embeddings" in out
    assert "mooring chat" not in out


def test_terms_of_use_are_agreed_to_only_when_asked(hub: Script, capsys: pytest.CaptureFixture[str]) -> None:
    def taking(asked: Asked) -> Answer | dict:
        if asked.headers.get("mooring-agree-terms") == "v7":
            return applying(asked)
        return Answer(403, {"detail": "The terms are not agreed to.", "nextStep": "…", "code": "terms_not_accepted"})

    hub.on("POST", "/manage/v1/apply", taking)
    hub.on("GET", "/manage/v1/terms", {"text": "Be kind.", "version": "v7"})
    fares(hub, status("healthy"))
    assert run("deploy", "org/Some-Model") == 1
    said = capsys.readouterr().err
    assert "mooring terms show" in said and "--agree-terms" in said
    assert run("deploy", "org/Some-Model", "--agree-terms") == 0


def found_service(state: str, **more: Any) -> dict:
    return {
        "kind": "ModelService", "id": "ModelService-1", "metadata": {"name": "some-model", "project": "default"},
        "spec": {"model": {"source": "huggingface", "name": "org/Some-Model"}}, "status": status(state, **more),
    }  # fmt: skip


def test_the_same_command_again_starts_a_service_that_failed(hub: Script, capsys: pytest.CaptureFixture[str]) -> None:
    def unchanged(asked: Asked) -> dict:
        items = applying(asked)["items"]
        return {"items": [{**item, "action": "unchanged", "status": status("failed", "Gone.")} for item in items[:2]]}

    hub.on("GET", "/manage/v1/services/some-model", found_service("failed"))
    hub.on("GET", "/manage/v1/keys", {"items": [key("some-model-key", "ep-1")]})
    hub.on("POST", "/manage/v1/apply", unchanged)
    hub.on("POST", "/manage/v1/services/ModelService-1/start", found_service("pending"))
    fares(hub, status("starting"), status("healthy"))
    assert run("deploy", "org/Some-Model") == 0
    said = capsys.readouterr()
    assert "ModelService some-model started" in said.out
    assert len(hub.sent("POST", "/manage/v1/services/ModelService-1/start")) == 1


def test_a_service_that_is_well_is_not_started_again(hub: Script) -> None:
    hub.on("POST", "/manage/v1/apply", lambda asked: {
        "items": [{**item, "action": "unchanged", "status": status("healthy")} for item in applying(asked)["items"]]
    })  # fmt: skip
    hub.on("GET", "/manage/v1/keys", {"items": [key("some-model-key", "ep-1")]})
    fares(hub, status("healthy"))
    assert run("deploy", "org/Some-Model") == 0
    assert [asked.path for asked in hub.asked if asked.method == "POST"] == ["/manage/v1/apply"]


def test_after_a_roll_back_nobody_is_told_to_delete_what_serves(
    hub: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"version": 1, "reason": "The engine exited: bad flag."}
    fares(hub, status("healthy", detail={"rolledBack": told}, readyReplicas=1))
    assert run("deploy", "org/Some-Model") == 1
    said = capsys.readouterr().err
    assert "bad flag" in said and "keeps serving" in said and "--update" in said
    assert "mooring services logs some-model" in said
    assert "delete" not in said


def key(label: str, *endpoints: str, made_by: str = "made by mooring deploy for some-model") -> dict:
    spec = {"endpoints": list(endpoints), "description": made_by}
    return {"kind": "ApiKey", "id": f"id-{label}", "metadata": {"name": label}, "spec": spec, "status": {}}


@pytest.mark.parametrize(
    ("held", "label", "deleted"),
    [
        ([key("some-model-key", "ep-gone")], "some-model-key", True),
        ([key("some-model-key", "ep-gone", made_by="mine")], "some-model-key-2", False),
        ([key("some-model-key", "ep-other")], "some-model-key-2", False),
        ([key("some-model-key", "ep-1")], "", False),
        ([key("some-model-key", "ep-other"), key("some-model-key-2", "ep-1")], "", False),
        ([key("some-model-key")], "", False),
    ],
)
def test_a_key_that_does_not_open_the_endpoint_is_replaced_or_joined_by_one_that_does(
    hub: Script, capsys: pytest.CaptureFixture[str], held: list[dict], label: str, deleted: bool
) -> None:
    endpoints = [{"kind": "Endpoint", "id": ref, "metadata": {"name": f"of-{ref}"}} for ref in ("ep-1", "ep-other")]
    hub.on("GET", "/manage/v1/keys", {"items": held})
    hub.on("GET", "/manage/v1/endpoints", {"items": endpoints})
    hub.on("DELETE", "/manage/v1/keys/id-some-model-key", {})
    fares(hub, status("healthy"))
    assert run("deploy", "org/Some-Model") == 0
    said = capsys.readouterr()
    assert bool(hub.sent("DELETE", "/manage/v1/keys/id-some-model-key")) is deleted
    applied = [request.body["items"] for request in hub.sent("POST", "/manage/v1/apply")]
    assert [made["metadata"]["name"] for made, *_ in applied[1:]] == ([label] if label else [])
    assert ("mk-new   (shown only now)" in said.out) is bool(label)
    assert label or f"Key:      {held[-1]['metadata']['name']} exists" in said.out


def test_errors_name_the_flags_that_stand_for_fields(hub: Script, capsys: pytest.CaptureFixture[str]) -> None:
    fares(hub, status("failed", "Several files fit. Name the file in spec.model.file, such as *q4_k_m.gguf."))
    assert run("deploy", "org/Some-Model") == 1
    assert "(With mooring deploy: --file.)" in capsys.readouterr().err
    refusal = {"detail": "Not a URL.", "nextStep": "Correct it.", "errors": [{"field": "spec.model.mirror"}]}
    hub.on("POST", "/manage/v1/apply", Answer(422, refusal))
    assert run("deploy", "org/Some-Model") == 1
    assert "Correct it. (With mooring deploy: --mirror.)" in capsys.readouterr().err
