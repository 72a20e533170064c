"""The groups of commands: what they send, and what they print."""

import io
import json
from pathlib import Path

import pytest
from tests.unit.cli.scripted import Answer, Asked, Script, run

SERVICE = {
    "kind": "ModelService",
    "id": "svc-1",
    "metadata": {"name": "demo", "project": "default"},
    "spec": {"replicas": 1},
    "status": {"state": "healthy", "replicas": 2},
}
INSTRUCTIONS = {
    "id": "svc-1",
    "name": "demo",
    "urls": {"api": "http://127.0.0.1:8080/v1"},
    "dialects": [
        {
            "name": "openai",
            "title": "OpenAI",
            "baseUrl": "http://127.0.0.1:8080/v1",
            "model": "demo",
            "samples": [
                {"language": "curl", "title": "Chat", "code": "curl http://127.0.0.1:8080/v1/models\n"},
                {"language": "python-openai", "title": "Chat", "code": "from openai import OpenAI\n"},
            ],
        }
    ],
}


# --- secrets


@pytest.fixture
def secrets(script: Script) -> Script:
    def made(asked: Asked) -> dict:
        document = asked.body if "kind" in asked.body else asked.body["items"][0]
        item = {**document, "id": "sec-1", "spec": {"type": "Opaque"}, "status": {}, "action": "created"}
        return item if "kind" in asked.body else {"items": [item]}

    script.on("POST", "/manage/v1/secrets", made)
    script.on("POST", "/manage/v1/apply", made)
    return script


def sent_values(script: Script) -> dict:
    asked = script.asked[-1].body
    return (asked if "kind" in asked else asked["items"][0])["spec"]["stringData"]


def test_a_secret_takes_its_values_from_options_and_files(secrets: Script, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_secret\n")
    assert (
        run("secrets", "create", "hf", "--from-literal", "user=me=you", "--from-file", f"token={tmp_path}/token") == 0
    )
    assert sent_values(secrets) == {"user": "me=you", "token": "hf_secret"}


def test_a_secret_is_read_from_a_pipe_and_never_printed(
    secrets: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_secret\n"))
    assert run("secrets", "create", "hf") == 0
    assert sent_values(secrets) == {"token": "hf_secret"}
    said = capsys.readouterr()
    assert "hf_secret" not in said.out + said.err
    assert "The secret hf is created: token." in said.err


def test_a_secret_is_asked_for_without_echo_at_a_terminal(secrets: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "typed ")
    assert run("secrets", "create", "hf", "--update") == 0
    assert sent_values(secrets) == {"token": "typed"}
    assert secrets.asked[-1].path == "/manage/v1/apply"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from-literal", "secretword"], "KEY=VALUE"),
        (["--from-literal", "a=1", "--from-file", "a=-"], "given twice"),
        (["--from-literal", "a="], "'a' is empty"),
        (["--from-file", "a=/no/where"], "can't be read"),
    ],
)
def test_what_is_no_value_is_refused(
    secrets: Script, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run("secrets", "create", "hf", *options) in (1, 2)
    said = capsys.readouterr().err
    assert message in said and "secretword" not in said
    assert secrets.asked == []


# --- services


def test_scaling_stopping_and_deleting_can_be_rehearsed(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.on("GET", "/manage/v1/services/demo", SERVICE)
    script.on("POST", "/manage/v1/services/demo/scale", SERVICE)
    script.on("POST", "/manage/v1/services/demo/stop", SERVICE)
    script.on("DELETE", "/manage/v1/services/svc-1", SERVICE)
    script.on("PATCH", "/manage/v1/services/svc-1", SERVICE)
    assert run("services", "scale", "demo", "2") == 0
    assert (script.asked[-1].body, script.asked[-1].query) == ({"replicas": 2}, {"project": "default"})
    for command in (["scale", "demo", "3"], ["stop", "demo"], ["delete", "demo"], ["disable", "demo"]):
        capsys.readouterr()
        assert run("services", *command, "--dry-run") == 0
        assert script.asked[-1].query["dryRun"] == "true"
        assert ("Nothing was changed" in (said := capsys.readouterr().err)) or "Would delete" in said


def test_replicas_are_listed_with_what_they_use(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    usage = {"cpuPercent": 51.4, "memoryBytes": 61_000_000, "gpuMemoryBytes": None, "gpuPercent": None}
    first = {
        "id": "rep-a", "state": "ready", "reason": "", "specVersion": 2, "current": True, "pid": 7, "restarts": 0,
        "startedAt": "2026-01-31T08:00:00Z", "slots": 4, "contextLength": 2048, "gpus": [], "usage": usage,
    }  # fmt: skip
    second = {**first, "id": "rep-b", "state": "failed", "current": False, "specVersion": 1, "usage": None, "pid": None}
    script.on("GET", "/manage/v1/services/demo/replicas", {"items": [first, second]})
    assert run("services", "replicas", "demo") == 0
    title, *rows = capsys.readouterr().out.splitlines()
    assert "GPU" not in title and "RESTARTS" not in title
    assert all(part in rows[0] for part in ("rep-a", "ready", "51%", "61.0 MB", "2048"))
    assert "1 (old)" in rows[1]


def test_instructions_are_samples_with_their_addresses_or_only_those_of_one_language(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script.on("GET", "/manage/v1/services/demo/instructions", INSTRUCTIONS)
    script.on("GET", "/manage/v1/endpoints/demo/instructions", INSTRUCTIONS)
    assert run("services", "instructions", "demo") == 0
    whole = capsys.readouterr().out
    assert "from openai import OpenAI" in whole and "model:    demo" in whole
    assert run("endpoints", "instructions", "demo", "-l", "curl") == 0
    assert "openai import" not in capsys.readouterr().out
    assert run("services", "instructions", "demo", "-l", "cobol") == 1
    said = capsys.readouterr().err
    assert "There is no sample in cobol" in said and "There are samples in: curl, python-openai." in said


def test_a_notebook_is_written_once_and_to_a_pipe(
    script: Script, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script.on("GET", "/manage/v1/services/demo/notebook", {"cells": []})
    assert run("services", "notebook", "demo") == 0
    assert json.loads((tmp_path / "demo.ipynb").read_text()) == {"cells": []}
    assert run("services", "notebook", "demo") == 1
    assert "demo.ipynb exists" in capsys.readouterr().err
    assert run("services", "notebook", "demo", "--force") == 0
    assert run("services", "notebook", "demo", "--file", "/no/where/x.ipynb") == 1


def test_logs_of_one_replica_are_asked_for(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.on("GET", "/manage/v1/services/demo", SERVICE)
    unknown = Answer(
        404, {"detail": "There is no replica 'rep-x' of this service.", "nextStep": "Its replicas: rep-a."}
    )
    script.on("GET", "/manage/v1/services/svc-1/logs", unknown)
    assert run("logs", "demo", "--replica", "rep-x") == 1
    assert "Its replicas: rep-a." in capsys.readouterr().err
    assert script.asked[-1].query["replica"] == "rep-x"


def test_logs_of_a_service_without_an_engine_say_so_with_its_state(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    status = {"state": "downloading", "reason": "org/repo is downloaded."}
    script.on(
        "GET", "/manage/v1/services/demo", {**SERVICE, "status": status}, SERVICE | {"status": {"state": "stopped"}}
    )
    script.on("GET", "/manage/v1/services/svc-1/replicas", {"items": []})
    script.on("GET", "/manage/v1/services/svc-1/logs", {})
    assert run("logs", "demo") == 0
    said = capsys.readouterr().err
    assert "No engine of demo has started yet; it is downloading: org/repo is downloaded." in said
    assert "mooring services events demo" in said
    assert run("services", "logs", "demo") == 0
    assert "No engine of demo runs now; it is stopped." in capsys.readouterr().err


# --- endpoints, projects, keys


def test_an_endpoint_is_pointed_elsewhere_by_weights(script: Script) -> None:
    endpoint = {"kind": "Endpoint", "id": "ep-1", "metadata": {"name": "chat"}, "spec": {"services": []}, "status": {}}
    script.on("PATCH", "/manage/v1/endpoints/chat", endpoint)
    assert run("endpoints", "point", "chat", "-s", "old:9", "-s", "new", "--dry-run") == 0
    services = [{"name": "old", "weight": 9}, {"name": "new", "weight": 1}]
    assert script.asked[-1].body == {"spec": {"services": services}}
    assert script.asked[-1].query["dryRun"] == "true"
    assert run("endpoints", "point", "chat", "-s", "old:many") == 2


def test_a_project_is_made_and_a_key_only_rehearsed(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.on("POST", "/manage/v1/projects", lambda asked: {**asked.body, "id": "prj-1"})
    assert run("projects", "create", "search", "-d", "the search team") == 0
    assert script.asked[-1].body["spec"] == {"description": "the search team"}
    script.on("POST", "/manage/v1/keys", lambda asked: {**asked.body, "action": "created", "status": {}})
    assert run("keys", "create", "my-key", "--dry-run") == 0
    assert script.asked[-1].query == {"dryRun": "true"}
    assert "Would make the key my-key." in capsys.readouterr().err


# --- cache, terms


def test_the_cache_is_listed_and_pruned(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {
        "key": "0a1b", "source": "huggingface", "name": "org/repo", "revision": "c0ffee" * 6, "file": "*q8_0.gguf",
        "state": "complete", "bytes": 639_000_000, "files": 1, "fetchedAt": "2026-01-31T08:00:00Z",
        "usedBy": [{"id": "svc-1", "name": "demo", "project": "default"}],
    }  # fmt: skip
    script.on("GET", "/manage/v1/cache", {"items": [entry], "bytes": 639_000_000})
    assert run("cache", "ls") == 0
    said = capsys.readouterr()
    assert all(part in said.out for part in ("org/repo", "*q8_0.gguf", "c0ffeec0ffee ", "639.0 MB", "demo"))
    assert "639.0 MB in all." in said.err
    script.on("POST", "/manage/v1/cache/prune", {"keys": ["0a1b"], "freedBytes": 639_000_000})
    assert run("cache", "prune", "--older-than", "30", "--dry-run") == 0
    assert (script.asked[-1].body, script.asked[-1].query) == ({"olderThanDays": 30}, {"dryRun": "true"})
    assert "1 model would be removed, 639.0 MB would be freed." in capsys.readouterr().err


def test_terms_are_shown_set_and_taken_away(
    script: Script, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.on("GET", "/manage/v1/terms", {"text": "Be kind.\n", "version": "v1"}, {"text": "", "version": ""})
    script.on("PUT", "/manage/v1/terms", lambda asked: {**asked.body, "version": "v2"})
    assert run("terms", "show") == 0
    assert run("terms", "show") == 0
    said = capsys.readouterr()
    assert (said.out, "There are no terms of use" in said.err) == ("Be kind.\n", True)
    (tmp_path / "terms.txt").write_text("Be kinder.\n")
    assert run("terms", "set", "terms.txt") == 0
    assert script.asked[-1].body == {"text": "Be kinder."}
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run("terms", "set", "-") == 0
    assert script.asked[-1].body == {"text": ""}
    asked = len(script.asked)
    assert run("terms", "set", "terms.txt", "--dry-run") == 0
    assert len(script.asked) == asked
    assert run("terms", "set", "missing.txt") == 2
