"""What an administrator does, by HTTP and on the command line, with two gateway workers that must both hear of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.callers import Ledger, busy, check_usage, until_async
from tests.e2e.conftest import MakePlatform, MakeUpstream
from tests.e2e.running import Platform, until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
HEARD_S = 1.0  # within which every worker must know
WORKERS = 2
ASKED = 24  # new connections, which the kernel spreads over the workers


@pytest.fixture(scope="module")
def platform(make_module_platform: MakePlatform, model_root: Path) -> Platform:
    return make_module_platform("--gateway-workers", str(WORKERS), "--model-roots", str(model_root)).start()


@pytest.fixture(scope="module")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def statuses(platform: Platform, key: str, path: str = "/v1/models") -> Counter[int]:
    """Return how often each status came on new connections, so many that every worker was asked."""
    return Counter(platform.call("GET", path, key=key).status for _ in range(ASKED))


def said(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


# --- keys -------------------------------------------------------------------------------------------------


def test_a_new_key_works_at_once_on_every_worker_in_both_forms(platform: Platform) -> None:
    made = platform.create("keys", "both-forms", {"description": "for the test"})["status"]
    assert made["key"].startswith("mk-")
    assert made["accessKey"].startswith("llmos-") and ":" in made["accessKey"]
    assert statuses(platform, made["key"]) == {200: ASKED}
    assert statuses(platform, made["accessKey"]) == {200: ASKED}
    assert platform.chat(key=made["accessKey"]).status == 200


def test_a_key_is_shown_once(platform: Platform) -> None:
    made = platform.create("keys", "shown-once", {})
    read = json.dumps([platform.manage("GET", "keys"), platform.manage("GET", f"keys/{made['id']}")])
    assert made["id"] in read
    for secret in (made["status"]["key"], made["status"]["accessKey"].partition(":")[2]):
        assert secret not in read


def test_a_deleted_key_is_refused_within_a_second_on_every_worker(platform: Platform) -> None:
    made = platform.create("keys", "to-be-deleted", {})
    key = made["status"]["key"]
    assert statuses(platform, key) == {200: ASKED}
    begun = time.monotonic()
    platform.manage("DELETE", f"keys/{made['id']}")
    assert time.monotonic() - begun < HEARD_S
    assert statuses(platform, key) == {401: ASKED}
    assert platform.chat(key=key).json["error"]["code"] == "invalid_api_key"


async def test_a_stream_of_a_deleted_key_finishes(platform: Platform, make_upstream: MakeUpstream) -> None:
    upstream = make_upstream(chunks=50)
    external(platform, "paced", upstream.url)
    made = platform.create("keys", "deleted-in-a-stream", {})
    headers = {"Authorization": f"Bearer {made['status']['key']}"}
    body = {"model": "paced", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    lines = []
    async with (
        platform.client(headers=headers) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        async for line in answer.aiter_lines():
            if not lines:
                await asyncio.to_thread(platform.manage, "DELETE", f"keys/{made['id']}")
            lines.append(line)
    assert "data: [DONE]" in lines
    assert platform.chat(key=made["status"]["key"]).status == 401


def test_a_switched_off_key_is_refused_and_comes_back(platform: Platform) -> None:
    made = platform.create("keys", "switched", {})
    key, path = made["status"]["key"], f"keys/{made['id']}"
    platform.manage("PATCH", path, {"spec": {"enabled": False}})
    assert statuses(platform, key) == {401: ASKED}
    platform.manage("PATCH", path, {"spec": {"enabled": True}})
    assert statuses(platform, key) == {200: ASKED}


def test_a_key_expires_by_itself(platform: Platform) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=1.5)
    key = platform.create("keys", "short", {"expiresAt": ends.isoformat()})["status"]["key"]
    assert platform.chat(key=key, max_tokens=1).status == 200
    until(lambda: statuses(platform, key) == {401: ASKED}, "its end", 5)
    assert datetime.now(UTC) > ends
    assert "expired" in platform.chat(key=key).json["error"]["message"]


def test_a_scoped_key_sees_and_calls_only_its_endpoint(platform: Platform) -> None:
    other = platform.create("endpoints", "other", {"services": [{"name": "mooring-demo"}]})
    key = platform.create("keys", "scoped", {"endpoints": ["other"]})["status"]["key"]
    assert platform.chat(model=other["id"], key=key).status == 200
    for model in (platform.endpoint, "mooring-demo", "nobody"):
        refused = platform.chat(model=model, key=key)
        assert (refused.status, refused.json["error"]["code"]) == (404, "model_not_found")
    listed = platform.call("GET", "/v1/models", key=key).json["data"]
    assert [model["id"] for model in listed] == [other["id"]]


def test_an_inference_key_manages_nothing(platform: Platform) -> None:
    key = platform.create("keys", "inference-only", {})["status"]["key"]
    assert platform.call("GET", "/manage/v1/keys", key=key).status in (401, 403)
    assert platform.call("GET", "/manage/v1/usage/requests", key=key).status in (401, 403)


# --- endpoints --------------------------------------------------------------------------------------------


def external(platform: Platform, name: str, *urls: str, **more: Any) -> dict[str, Any]:
    """Register a service elsewhere and wait until it is taken for healthy."""
    made = platform.create("external-services", name, {"urls": list(urls), "servedModel": name, **more})
    path = f"external-services/{made['id']}"
    until(lambda: platform.manage("GET", path)["status"]["state"] == "healthy", f"{name} to be healthy")
    return made


def test_a_stopped_endpoint_says_so_and_comes_back(platform: Platform) -> None:
    path = f"endpoints/{platform.create('endpoints', 'switch', {'services': [{'name': 'mooring-demo'}]})['id']}"
    endpoint = path.rpartition("/")[2]
    platform.manage("PATCH", path, {"spec": {"enabled": False}})
    refused = [platform.chat(model=endpoint) for _ in range(ASKED)]
    assert {(one.status, one.json["error"]["code"]) for one in refused} == {(400, "endpoint_stopped")}
    assert platform.manage("GET", path)["status"]["state"] == "Stopped"
    platform.manage("PATCH", path, {"spec": {"enabled": True}})
    assert {platform.chat(model=endpoint, max_tokens=1).status for _ in range(ASKED)} == {200}


async def test_an_endpoint_is_re_pointed_under_load_without_a_failed_request(
    platform: Platform, make_upstream: MakeUpstream
) -> None:
    one, two = make_upstream(name="one", chunks=5), make_upstream(name="two", chunks=5)
    external(platform, "one", one.url)
    external(platform, "two", two.url)
    made = platform.create("endpoints", "moving", {"services": [{"name": "one"}]})
    ledger = Ledger()

    async def point_to(name: str) -> None:
        spec = {"spec": {"services": [{"name": name}]}}
        changed = await asyncio.to_thread(platform.manage, "PATCH", f"endpoints/{made['id']}", spec)
        assert changed["id"] == made["id"]

    async with busy(platform, ledger, callers=8, model=made["id"]):
        for target, name in ((two, "two"), (one, "one"), (two, "two")):
            await point_to(name)
            heard = len(target.calls)
            await until_async(lambda target=target, heard=heard: len(target.calls) > heard + 10, f"calls at {name}")
    assert ledger.broken == []
    assert {heard.status for heard in ledger.heard} == {200}
    last = [len(one.calls), len(two.calls)]
    assert said(platform.chat(model=made["id"]).json) == "Hello from two."
    assert [len(one.calls), len(two.calls)] == [last[0], last[1] + 1]
    check_usage(platform, ledger)


def test_weights_are_kept(platform: Platform, make_upstream: MakeUpstream) -> None:
    heavy, light, never = (make_upstream(name=name) for name in ("heavy", "light", "never"))
    for upstream in (heavy, light, never):
        external(platform, upstream.name, upstream.url)
    services = [{"name": "heavy", "weight": 3}, {"name": "light", "weight": 1}, {"name": "never", "weight": 0}]
    made = platform.create("endpoints", "weighted", {"services": services})
    answers = Counter(said(platform.chat(model=made["id"]).json) for _ in range(200))
    assert set(answers) == {"Hello from heavy.", "Hello from light."}
    assert 25 <= answers["Hello from light."] <= 80
    assert never.calls == []


def test_an_external_service_gets_its_own_key_and_model_and_never_ours(
    platform: Platform, make_upstream: MakeUpstream
) -> None:
    upstream = make_upstream(name="their-model")
    platform.create("secrets", "their-key", {"type": "Opaque", "stringData": {"token": "sk-theirs"}})
    spec = {"urls": [upstream.url], "servedModel": "their-model", "apiKeySecret": "their-key"}
    platform.create("external-services", "theirs", spec)
    made = platform.create("endpoints", "theirs", {"services": [{"name": "theirs"}]})
    assert made["id"].startswith("ep-s-")
    until(lambda: platform.chat(model=made["id"]).status == 200, "the first answer")
    assert upstream.calls[-1]["authorization"] == "Bearer sk-theirs"
    assert upstream.calls[-1]["body"]["model"] == "their-model"
    assert "sk-theirs" not in json.dumps([platform.manage("GET", "secrets"), platform.manage("GET", "services")])


def test_a_metadata_address_is_refused_also_for_an_administrator(platform: Platform) -> None:
    spec = {"urls": ["http://169.254.169.254/v1"], "servedModel": "x"}
    body = {"kind": "ExternalService", "metadata": {"name": "metadata"}, "spec": spec}
    answer = platform.call("POST", "/manage/v1/external-services", body)
    assert answer.status == 403, answer.body
    assert "169.254.169.254" in answer.body.decode()


# --- deployed services ------------------------------------------------------------------------------------


def test_a_broken_model_file_ends_as_failed_and_harms_nobody(platform: Platform, model_root: Path) -> None:
    file = model_root / "broken.gguf"
    file.write_bytes(b"GGUF" + b"\xff" * 4096)
    made = platform.create("services", "broken", {"model": {"source": "local", "path": str(file)}})
    path = f"services/{made['id']}"
    status = until(lambda: (s := platform.manage("GET", path)["status"])["state"] == "failed" and s, "failed", 40)
    assert "no usable GGUF file" in status["reason"], status

    def refusal() -> Any:
        answer = platform.chat(model="broken")
        return answer if answer.status == 503 and "failed" in answer.json["error"]["message"] else None

    refused = until(refusal, "the gateway's word that it failed")
    assert ".." not in refused.json["error"]["message"]
    assert platform.chat().status == 200, "nobody else is harmed"
    platform.manage("DELETE", path)


def test_a_model_outside_the_roots_is_refused(platform: Platform, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.gguf"
    file.write_bytes(b"GGUF")
    body = {"kind": "ModelService", "metadata": {"name": "outside"}, "spec": {"model": {"source": "local"}}}
    body["spec"]["model"]["path"] = str(file)  # type: ignore[index]
    answer = platform.call("POST", "/manage/v1/services", body)
    assert answer.status == 422, answer.body
    assert str(file) in answer.body.decode()


def test_a_model_is_deployed_stopped_started_and_deleted(platform: Platform, model_root: Path) -> None:
    file = model_root / "own.gguf"
    file.write_bytes((ROOT / "src" / "mooring" / "assets" / "mooring-demo.gguf").read_bytes())
    made = platform.create("services", "own", {"model": {"source": "local", "path": str(file)}})
    path = f"services/{made['id']}"

    def state() -> str:
        return platform.manage("GET", path)["status"]["state"]

    until(lambda: state() == "healthy", "healthy")
    until(lambda: platform.chat(model="own").status == 200, "an answer")
    platform.manage("POST", f"{path}/stop")
    until(lambda: state() == "stopped", "stopped")
    refused = until(lambda: "stopped" in (a := platform.chat(model="own")).body.decode() and a, "the gateways' word", 3)
    assert refused.status == 503
    assert ".." not in refused.json["error"]["message"]
    platform.manage("POST", f"{path}/start")
    until(lambda: state() == "healthy", "healthy again")
    engines = len(platform.pids("engine"))
    platform.manage("DELETE", path)
    until(lambda: len(platform.pids("engine")) == engines - 1, "the end of its engine")
    assert platform.chat(model="own").status == 404


# --- the command line -------------------------------------------------------------------------------------


def test_the_examples_are_applied_twice_and_work(platform: Platform) -> None:
    done = platform.cli("apply", "-f", str(EXAMPLES), "--wait", "--timeout", "60", "-o", "json")
    assert done.status == 0, done.err
    items = {item["kind"]: item for item in done.json["items"]}
    assert {item["action"] for item in items.values()} == {"created"}
    key = items["ApiKey"]["status"]["key"]
    assert platform.chat(model=items["Endpoint"]["id"], key=key).status == 200
    assert platform.chat(model=platform.endpoint, key=key).status == 404, "its scope is the endpoint `chat`"
    made = platform.cli("services", "get", items["ModelService"]["id"], "-o", "json")
    assert made.json["status"]["state"] == "healthy", "the result is printed before the waiting"
    again = platform.cli("apply", "-f", str(EXAMPLES), "-o", "json")
    assert again.status == 0, again.err
    assert {item["action"] for item in again.json["items"]} == {"unchanged"}
    assert "key" not in {name for item in again.json["items"] for name in item.get("status", {})}


def test_the_external_example_is_applied(platform: Platform) -> None:
    done = platform.cli("apply", "-f", str(EXAMPLES / "external"), "-o", "json")
    assert done.status == 0, done.err
    assert [item["action"] for item in done.json["items"]] == ["created"] * 3
    refused = platform.chat(model="elsewhere")
    assert refused.status in (502, 503)


def test_apply_is_all_or_nothing(platform: Platform) -> None:
    good = {"kind": "Secret", "metadata": {"name": "half"}, "spec": {"type": "Opaque", "stringData": {"a": "b"}}}
    bad = {"kind": "Endpoint", "metadata": {"name": "half"}, "spec": {"services": [{"name": "not-there"}]}}
    done = platform.cli("apply", "-f", "-", stdin=json.dumps({"items": [good, bad]}))
    assert done.status == 1
    assert "not-there" in done.err and "Traceback" not in done.err
    assert platform.cli("get", "secret", "half").status == 1


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("get", "services", "-o", "json"), 0),
        (("get", "endpoints", "-o", "json"), 0),
        (("get", "keys", "-o", "json"), 0),
        (("services", "list", "-o", "json"), 0),
        (("usage", "-o", "json"), 0),
        (("usage", "--requests", "--limit", "3", "-o", "json"), 0),
        (("chat", "Hello", "-o", "json"), 0),
        (("get", "service", "not-there", "-o", "json"), 1),
        (("delete", "endpoint", "not-there"), 1),
        (("get", "nonsense"), 2),
        (("apply",), 2),
        (("no-such-command",), 2),
    ],
)
def test_the_exit_status_of_commands(platform: Platform, command: tuple[str, ...], status: int) -> None:
    done = platform.cli(*command)
    assert done.status == status, done
    assert "Traceback" not in done.err
    if status == 0:
        assert isinstance(done.json, dict)
    else:
        assert done.err.strip() and not done.out.strip()


def test_a_key_is_made_used_and_deleted_on_the_command_line(platform: Platform) -> None:
    done = platform.cli("keys", "create", "from-cli", "-d", "made by a test", "-o", "json")
    assert done.status == 0, done.err
    key = done.json["status"]["key"] if "status" in done.json else done.json["items"][0]["status"]["key"]
    assert platform.chat(key=key).status == 200
    assert platform.cli("keys", "delete", "from-cli").status == 0
    assert platform.chat(key=key).status == 401


def test_chat_prints_the_answer(platform: Platform) -> None:
    done = platform.cli("chat", "Say this is a test")
    assert done.status == 0, done.err
    assert done.out.rstrip().endswith("This is a test.")


def test_doctor_finds_a_running_platform_well_and_an_absent_one_not(shared: Platform, tmp_path: Path) -> None:
    well = shared.cli("doctor", "--offline", "-o", "json")
    bad = [item for item in well.json["items"] if not item["fine"]]
    assert (well.status, bad) == (0, [])
    ill = shared.cli("doctor", "--offline", "--data-dir", str(tmp_path))
    assert ill.status == 1 and "BAD" in ill.out
