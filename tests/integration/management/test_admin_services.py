"""Deploying, registering, pointing endpoints: the rules, over the API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mooring.control.sealing import Sealer
from mooring.core.snapshot import EndpointEntry, ServiceEntry, decode_endpoint, decode_service
from mooring.settings import Settings
from mooring.store.database import Database
from mooring.store.replicas import set_service_state
from mooring.store.snapshot_rows import load_rows

Make = Callable[..., dict[str, Any]]
SERVICES, EXTERNAL, ENDPOINTS, SECRETS = (
    f"/manage/v1/{noun}" for noun in ("services", "external-services", "endpoints", "secrets")
)

HUB = {"source": "huggingface", "name": "o/r"}


async def service_entry(db: Database, sealer: Sealer, service_id: str) -> ServiceEntry:
    async with db.read() as tx:
        rows = [row async for chunk in load_rows(tx, "service", [service_id], unseal=sealer.unseal) for row in chunk]
    return decode_service(rows[0].data or b"")


async def endpoint_entry(db: Database, sealer: Sealer, endpoint_id: str) -> EndpointEntry:
    async with db.read() as tx:
        rows = [row async for chunk in load_rows(tx, "endpoint", [endpoint_id], unseal=sealer.unseal) for row in chunk]
    return decode_endpoint(rows[0].data or b"")


def service(name: str = "mine", **spec: Any) -> dict[str, Any]:
    model = {"source": "builtin", "name": "mooring-demo"}
    return {"metadata": {"name": name}, "spec": {"model": model, **spec}}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, vllm_command="no-such-program serve")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is the same with another
@pytest.mark.parametrize(
    ("spec", "code", "param"),
    [
        ({"engine": "vllm"}, "unprocessable", "spec.engine"),
        ({"model": {**HUB, "name": "no-organisation"}}, "invalid_document", "spec.model.name"),
        ({"model": {**HUB, "mirror": "ftp://mirror"}}, "unprocessable", "spec.model.mirror"),
        ({"model": {**HUB, "tokenSecret": "none"}}, "unprocessable", "spec.model.tokenSecret"),
        ({"moderation": {"enabled": True}}, "not_supported_yet", "spec.moderation.enabled"),
        ({"model": {"source": "builtin", "name": "gpt"}}, "unprocessable", "spec.model.name"),
        ({"replicas": 65}, "invalid_document", "spec.replicas"),
        ({"replicas": "2"}, "invalid_document", "spec.replicas"),
        ({"env": {"A=B": "x"}}, "invalid_document", None),
    ],
)
async def test_what_this_version_can_not_deploy_is_refused_clearly(
    client: httpx.AsyncClient, spec: dict[str, Any], code: str, param: str | None
) -> None:
    answer = await client.post(SERVICES, json=service(**spec))
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert param is None or answer.json()["param"] == param


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
@pytest.mark.parametrize("args", [["--port=1"], ["--host", "0.0.0.0"], ["--api-key=x"], ["--no-such-flag"]])
async def test_arguments_outside_the_allowed_list_are_refused(client: httpx.AsyncClient, args: list[str]) -> None:
    answer = await client.post(SERVICES, json=service(args=args))
    assert (answer.status_code, answer.json()["param"]) == (400, "spec.args"), answer.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
async def test_a_local_model_stands_under_a_root(client: httpx.AsyncClient, settings: Settings, tmp_path: Path) -> None:
    root = Path(settings.model_roots[0])
    (root / "one").mkdir()
    (root / "one" / "a.gguf").write_bytes(b"GGUF")
    (root / "two").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (root / "two" / name).write_bytes(b"GGUF")
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(b"GGUF")
    (root / "link.gguf").symlink_to(outside)
    (root / "loop.gguf").symlink_to(root / "loop.gguf")
    (root / "folder-with-link").mkdir()
    (root / "folder-with-link" / "x.gguf").symlink_to(outside)
    (root / "text.txt").write_text("no model")

    async def deploy(path: str) -> httpx.Response:
        model = {"source": "local", "path": path}
        return await client.post(SERVICES, json={"metadata": {"name": f"n{len(path)}"}, "spec": {"model": model}})

    bad = ["two", "link.gguf", "loop.gguf", "folder-with-link", "text.txt", "none.gguf", "../outside.gguf"]
    for path in [*(str(root / name) for name in bad), str(outside), "relative.gguf", "/etc/passwd", "/", "\x01"]:
        answer = await deploy(path)
        assert answer.status_code == 422, (path, answer.text)
        assert answer.json()["param"] == "spec.model.path"
        assert "MOORING_MODEL_ROOTS" in answer.json()["nextStep"]
    for path in (str(root / "one"), str(root / "one" / "a.gguf")):
        answer = await deploy(path)
        assert answer.status_code == 201, answer.text
        assert answer.json()["status"]["servedModel"] == ("one" if path.endswith("one") else "a")


async def test_a_name_is_taken_over_both_kinds_and_after_dots_become_dashes(
    client: httpx.AsyncClient, external: Make
) -> None:
    assert (await client.post(SERVICES, json=service("a.b"))).status_code == 201
    for path, body in ((SERVICES, service("a-b")), (EXTERNAL, external("a.b")), (EXTERNAL, external("a-b"))):
        answer = await client.post(path, json=body)
        assert answer.status_code == 409, answer.text
        assert "a.b" in answer.json()["detail"]
    await client.post("/manage/v1/projects", json={"metadata": {"name": "other"}})
    there = service("a-b")
    there["metadata"]["project"] = "other"
    assert (await client.post(SERVICES, json=there)).status_code == 201


async def test_stop_start_and_spec_versions(client: httpx.AsyncClient) -> None:
    await client.post(SERVICES, json=service())
    patched = (await client.patch(f"{SERVICES}/mine", json={"metadata": {"tags": {"a": "b"}}})).json()
    assert patched["status"]["specVersion"] == 1, "tags restart nothing"
    stopped = (await client.post(f"{SERVICES}/mine/stop")).json()
    assert (stopped["status"]["state"], stopped["spec"]["stopped"], stopped["spec"]["replicas"]) == ("stopped", True, 1)
    started = (await client.post(f"{SERVICES}/mine/start")).json()
    assert (started["status"]["state"], started["status"]["specVersion"]) == ("pending", 3)
    again = (await client.post(f"{SERVICES}/mine/start")).json()
    assert again["status"]["specVersion"] == 4, "a start tries a failed one anew"
    await client.patch(f"{SERVICES}/mine", json={"spec": {"replicas": 0}})
    assert (await client.post(f"{SERVICES}/mine/start")).status_code == 409


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://169.254.169.254/v1", 403),
        ("http://[fe80::1]/v1", 403),
        ("http://0.0.0.0/v1", 403),
        ("ftp://models.example.com/v1", 400),
        ("http://user:pw@models.example.com/v1", 400),
        ("http://127.0.0.1:9000/v1", 201),
    ],
)
async def test_where_an_external_service_may_be(
    client: httpx.AsyncClient, external: Make, url: str, status: int
) -> None:
    answer = await client.post(EXTERNAL, json=external(urls=[url]))
    assert answer.status_code == status, answer.text
    assert answer.json().get("param") == (None if status == 201 else "spec.urls")


async def test_the_upstream_key_comes_from_a_secret_and_is_in_use(
    client: httpx.AsyncClient, external: Make, db: Database, sealer: Sealer
) -> None:
    body = external(apiKeySecret="up", urls=["http://127.0.0.1:1/v1/", "http://127.0.0.1:2/v1"])
    answer = await client.post(EXTERNAL, json=body)
    assert (answer.status_code, answer.json()["param"]) == (422, "spec.apiKeySecret")
    await client.post(SECRETS, json={"metadata": {"name": "up"}, "spec": {"stringData": {"a": "1", "b": "2"}}})
    assert (await client.post(EXTERNAL, json=body)).status_code == 422, "which value is the key?"
    await client.put(f"{SECRETS}/up", json={"metadata": {"name": "up"}, "spec": {"stringData": {"any": "sk-1"}}})
    made = (await client.post(EXTERNAL, json=body)).json()

    entry = await service_entry(db, sealer, made["id"])
    assert [(replica.address, replica.key) for replica in entry.replicas] == [
        ("http://127.0.0.1:1/v1", "sk-1"),
        ("http://127.0.0.1:2/v1", "sk-1"),
    ]
    await client.patch(f"{SECRETS}/up", json={"spec": {"stringData": {"token": "sk-2"}}})
    assert (await service_entry(db, sealer, made["id"])).replicas[0].key == "sk-2"
    unusable = await client.patch(f"{SECRETS}/up", json={"spec": {"stringData": {"a": "1", "b": "2"}}})
    assert unusable.status_code == 422
    in_use = await client.delete(f"{SECRETS}/up")
    assert in_use.status_code == 409
    assert "elsewhere" in in_use.json()["detail"]


async def test_an_endpoint_keeps_its_id_when_it_is_pointed_elsewhere(
    client: httpx.AsyncClient, external: Make, endpoint: Make, db: Database, sealer: Sealer
) -> None:
    far = (await client.post(EXTERNAL, json=external())).json()
    made = (await client.post(ENDPOINTS, json=endpoint())).json()
    assert made["id"].startswith("ep-s-")
    assert made["status"] | {"updatedAt": ""} == {
        "state": "Scheduling", "reason": "elsewhere is pending", "specVersion": 1, "updatedAt": "",
    }  # fmt: skip
    both = [{"name": "elsewhere", "weight": 0}, {"name": "mooring-demo", "weight": 3}]
    patched = (await client.patch(f"{ENDPOINTS}/chat", json={"spec": {"services": both}})).json()
    assert patched["id"] == made["id"]
    entry = await endpoint_entry(db, sealer, made["id"])
    assert [(target.service == far["id"], target.weight) for target in entry.targets] == [(True, 0), (False, 3)]
    mixed = await client.post(ENDPOINTS, json=endpoint("mixed") | {"spec": {"services": [*both]}})
    assert mixed.json()["id"].startswith("ep-2")

    for path in (f"{EXTERNAL}/elsewhere", f"{SERVICES}/mooring-demo"):
        answer = await client.delete(path)
        assert answer.status_code == 409
        assert "chat" in answer.json()["detail"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
@pytest.mark.parametrize(
    "services",
    [
        [],
        [{"name": "nowhere"}],
        [{"name": "mooring-demo", "weight": -1}],
        [{"name": "mooring-demo", "weight": 0}],
        [{"name": "mooring-demo", "weight": 1.5}],
        [{"name": "mooring-demo"}, {"name": "mooring-demo"}],
    ],
)
async def test_an_endpoint_needs_services_that_exist_and_a_weight(
    client: httpx.AsyncClient, services: list[dict[str, Any]]
) -> None:
    body = {"metadata": {"name": "x"}, "spec": {"services": services}}
    assert (await client.post(ENDPOINTS, json=body)).status_code == 422


async def test_a_project_with_things_in_it_stays(client: httpx.AsyncClient, endpoint: Make) -> None:
    nowhere = endpoint(service="mooring-demo")
    nowhere["metadata"]["project"] = "nowhere"
    answer = await client.post(ENDPOINTS, json=nowhere)
    assert (answer.status_code, answer.json()["param"]) == (422, "metadata.project")
    await client.post("/manage/v1/projects", json={"metadata": {"name": "p"}})
    mine = service()
    mine["metadata"]["project"] = "p"
    await client.post(SERVICES, json=mine)
    answer = await client.delete("/manage/v1/projects/p")
    assert answer.status_code == 409
    assert "1 service" in answer.json()["detail"]
    assert (await client.delete("/manage/v1/projects/default")).status_code == 409


async def test_an_external_service_is_neither_stopped_nor_read(client: httpx.AsyncClient, external: Make) -> None:
    await client.post(EXTERNAL, json=external("elsewhere"))
    for answer in (
        await client.post(f"{SERVICES}/elsewhere/stop"),
        await client.post(f"{SERVICES}/elsewhere/start"),
        await client.get(f"{SERVICES}/elsewhere/logs"),
    ):
        assert answer.status_code == 404
        assert answer.json()["detail"] == "'elsewhere' is an external service: it runs elsewhere."
        assert answer.json()["nextStep"].startswith(("Disable it instead", "Read its logs where it runs"))


async def test_an_accepted_change_is_an_update_at_once(client: httpx.AsyncClient, db: Database) -> None:
    made = (await client.get(f"{SERVICES}/mooring-demo")).json()
    async with db.transaction() as tx:
        await set_service_state(tx, made["id"], state="healthy", reason="")
    changed = (await client.patch(f"{SERVICES}/mooring-demo", json={"spec": {"replicas": 2}})).json()["status"]
    assert (changed["state"], changed["specVersion"], changed["replicas"]) == ("updating", 2, 2)
    assert (changed["readyReplicas"], changed["currentReplicas"]) == (0, 0)
    async with db.transaction() as tx:
        await set_service_state(tx, made["id"], state="healthy", reason="")
    tagged = (await client.patch(f"{SERVICES}/mooring-demo", json={"metadata": {"tags": {"a": "b"}}})).json()
    assert tagged["status"]["state"] == "healthy"


async def test_a_name_that_exists_is_told_in_plain_words(client: httpx.AsyncClient, external: Make) -> None:
    assert (await client.post("/manage/v1/keys", json={"metadata": {"name": "x"}})).status_code == 201
    answer = (await client.post("/manage/v1/keys", json={"metadata": {"name": "x"}})).json()
    assert answer["detail"] == "There is already an API key 'x' in the project 'default'."
    assert answer["nextStep"] == "Choose another name, or change the existing one."
