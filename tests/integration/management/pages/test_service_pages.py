"""What can be seen of a service over the API: replicas, logs, how to call it; and scaling, machine and model cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import nbformat
import pytest
from tests.integration.management.conftest import Connect, FakeCache, FakeRunning

from mooring.control.cache import list_cache, prune_cache
from mooring.control.context import Actor
from mooring.core.errors import Unavailable
from mooring.core.models import CacheEntry, FetchOrder
from mooring.core.services import HubModel, ModelService, recipe_part
from mooring.store.database import Database
from mooring.store.services import get_service, set_good
from mooring.store.tables import audit as audit_table

Make = Callable[..., dict[str, Any]]
SERVICES, EXTERNAL, ENDPOINTS = (f"/manage/v1/{noun}" for noun in ("services", "external-services", "endpoints"))
DEMO = f"{SERVICES}/mooring-demo"
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is the same with another


async def audited(db: Database, action: str) -> list[dict[str, Any]]:
    """Return the details of the audit entries of one action."""
    async with db.read() as tx:
        found = await tx.execute(audit_table.select().where(audit_table.c.action == action))
        return [row.detail for row in found]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


# --- replicas and logs ------------------------------------------------------------------------------------


@only_sqlite
async def test_replicas_of_a_deployed_service_are_listed_and_those_elsewhere_are_not_known(
    client: httpx.AsyncClient, external: Make
) -> None:
    items = (await client.get(f"{DEMO}/replicas")).json()["items"]
    assert [item["id"] for item in items] == list(FakeRunning.REPLICAS)
    await client.post(EXTERNAL, json=external())
    answer = await client.get(f"{SERVICES}/elsewhere/replicas")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "'elsewhere' is an external service: it runs elsewhere."


@only_sqlite
async def test_the_last_lines_of_all_replicas_or_of_one(client: httpx.AsyncClient) -> None:
    made = (await client.get(DEMO)).json()
    assert (await client.get(f"{DEMO}/logs?tail=5")).text == f"last 5 lines of {made['id']}\n"
    assert (await client.get(f"{DEMO}/logs?tail=7&replica=rep-b")).text == "last 7 lines of rep-b\n"
    assert (await client.get(f"{SERVICES}/none/logs")).status_code == 404
    for follow in ("false", "true"):
        answer = await client.get(f"{DEMO}/logs?replica=rep-x&follow={follow}")
        assert answer.status_code == 404
        assert answer.json()["nextStep"] == "Its replicas: rep-a, rep-b."


@only_sqlite
async def test_followed_lines_leave_as_they_come_and_following_ends_when_the_caller_leaves(
    streaming: httpx.AsyncClient, running: FakeRunning
) -> None:
    async with streaming.stream("GET", f"{DEMO}/logs?follow=true") as answer:
        assert answer.headers["content-type"].startswith("text/plain")
        lines = answer.aiter_lines()
        for text in ("[rep-a] one", "[rep-b] two"):
            running.lines.put_nowait(f"{text}\n")
            assert await anext(lines) == text, "the answer waits for more"
        assert running.followers == 1
    await until(lambda: running.followers == 0)


@only_sqlite
async def test_following_ends_with_the_service(streaming: httpx.AsyncClient, running: FakeRunning) -> None:
    for text in ("last words\n", ""):
        running.lines.put_nowait(text)
    assert (await streaming.get(f"{DEMO}/logs?follow=true")).text == "last words\n"


@only_sqlite
async def test_a_member_reads_no_logs(connect: Connect, client: httpx.AsyncClient) -> None:
    await client.post("/manage/v1/users", json={"metadata": {"name": "ann"}, "spec": {"password": "correct horse"}})
    member = connect(basic=("ann", "correct horse"))
    for path in (f"{DEMO}/logs", f"{DEMO}/logs?follow=true", "/manage/v1/cache"):
        assert (await member.get(path)).status_code == 403, path
    for path in (f"{DEMO}/replicas", f"{DEMO}/instructions", "/manage/v1/machine", "/manage/v1/terms"):
        assert (await member.get(path)).status_code == 200, path
    assert (await member.post(f"{DEMO}/scale", json={"replicas": 2})).status_code == 403
    assert (await member.post("/manage/v1/cache/prune", json={})).status_code == 403


# --- scaling ----------------------------------------------------------------------------------------------


async def test_a_service_is_scaled_and_a_stopped_one_stays_stopped(client: httpx.AsyncClient, db: Database) -> None:
    async def scale(count: Any, **headers: str) -> httpx.Response:
        return await client.post(f"{DEMO}/scale", json={"replicas": count}, headers=headers)

    seen = (await client.get(DEMO)).headers["etag"]
    scaled = await scale(3, **{"If-Match": seen})
    assert (scaled.status_code, scaled.json()["spec"]["replicas"], scaled.json()["status"]["replicas"]) == (200, 3, 3)
    assert (await scale(4, **{"If-Match": seen})).status_code == 412
    assert (await scale(3)).json()["status"]["specVersion"] == scaled.json()["status"]["specVersion"]

    await client.post(f"{DEMO}/stop")
    stopped = (await scale(2)).json()
    assert (stopped["spec"]["stopped"], stopped["spec"]["replicas"], stopped["status"]["replicas"]) == (True, 2, 0)
    assert (await client.post(f"{DEMO}/start")).json()["status"]["replicas"] == 2
    assert (await scale(0)).json()["status"]["state"] == "stopped"
    assert [detail["replicas"] for detail in await audited(db, "scale")] == [3, 2, 0]


@only_sqlite
@pytest.mark.parametrize("body", [{}, {"replicas": 65}, {"replicas": -1}, {"replicas": "2"}, {"replicas": 1.5}, 3])
async def test_a_wrong_number_of_replicas_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    answer = await client.post(f"{DEMO}/scale", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_document"), answer.text


@only_sqlite
async def test_stop_and_start_honour_what_the_caller_saw(client: httpx.AsyncClient) -> None:
    seen = (await client.get(DEMO)).headers["etag"]
    await client.post(f"{DEMO}/scale", json={"replicas": 2})
    for deed in ("stop", "start"):
        answer = await client.post(f"{DEMO}/{deed}", headers={"If-Match": seen})
        assert answer.status_code == 412
    assert (await client.post(f"{DEMO}/stop", headers={"If-Match": "*"})).status_code == 200


# --- how to call it ---------------------------------------------------------------------------------------


@only_sqlite
async def test_how_to_call_services_of_both_kinds_and_endpoints(
    client: httpx.AsyncClient, external: Make, endpoint: Make
) -> None:
    await client.post(EXTERNAL, json=external(types=["embedding"]))
    made = (await client.post(ENDPOINTS, json=endpoint())).json()
    for path, model, languages in (
        (f"{DEMO}/instructions", "mooring-demo", 5),
        (f"{SERVICES}/elsewhere/instructions", "elsewhere", 5),
        (f"{EXTERNAL}/elsewhere/instructions", "elsewhere", 5),
        (f"{ENDPOINTS}/chat/instructions", made["id"], 5),
    ):
        told = (await client.get(path)).json()
        assert told["urls"] == {"api": "http://127.0.0.1:8080", "internal": "http://127.0.0.1:8080"}
        openai = told["dialects"][0]
        assert (openai["baseUrl"], openai["model"]) == ("http://127.0.0.1:8080/v1", model)
        assert len({sample["language"] for sample in openai["samples"]}) == languages
        assert all(model in sample["code"] for sample in openai["samples"])
    assert {path["operation"] for path in openai["paths"]} == {"embedding", "models"}, "what its service takes"
    assert (await client.get(f"{ENDPOINTS}/none/instructions")).status_code == 404
    assert (await client.get(f"{SERVICES}/none/notebook")).status_code == 404


@only_sqlite
async def test_an_endpoint_offers_what_all_its_services_take(
    client: httpx.AsyncClient, external: Make, endpoint: Make
) -> None:
    await client.post(EXTERNAL, json=external("both", types=["chat", "embedding"]))
    await client.post(EXTERNAL, json=external("idle", types=["rerank"]))
    services = [{"name": "both"}, {"name": "mooring-demo"}, {"name": "idle", "weight": 0}]
    await client.post(ENDPOINTS, json=endpoint(services=services))
    told = (await client.get(f"{ENDPOINTS}/chat/instructions")).json()
    operations = [path["operation"] for path in told["dialects"][0]["paths"]]
    assert operations == ["chat", "embedding", "tokenize", "detokenize", "models"]


@only_sqlite
async def test_a_service_closed_for_direct_calls_names_the_way_in(client: httpx.AsyncClient) -> None:
    await client.patch(DEMO, json={"spec": {"directAccess": False}})
    told = (await client.get(f"{DEMO}/instructions")).json()
    assert told["dialects"] == []
    assert told["note"] == "The service takes no direct calls. Call an endpoint in front of it: demo."
    refused = await client.get(f"{DEMO}/notebook")
    assert (refused.status_code, refused.json()["detail"]) == (409, told["note"])


@only_sqlite
async def test_a_notebook_is_a_valid_file_to_save(client: httpx.AsyncClient) -> None:
    for path, name in ((f"{ENDPOINTS}/demo", "demo"), (DEMO, "mooring-demo")):
        answer = await client.get(f"{path}/notebook")
        assert answer.headers["content-type"] == "application/x-ipynb+json"
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}.ipynb"'
        nbformat.validate(nbformat.reads(answer.text, as_version=4))


# --- machine and model cache ------------------------------------------------------------------------------


@only_sqlite
async def test_the_machine_is_told(client: httpx.AsyncClient) -> None:
    assert (await client.get("/manage/v1/machine")).json() == {"cpu": {"total": 2.0, "reserved": 1.0}}


HUB: dict[str, Any] = {"source": "huggingface", "name": "org/repo", "file": "*q8_0.gguf"}


def fetched(order: FetchOrder, **known: Any) -> CacheEntry:
    facts = {"revision": "abc", "state": "complete", "bytes": 100, "files": 2, "fetched_at": 1767225600.0, **known}
    return CacheEntry(key=order.key, order=order, **facts)


def order_of(file: str = "*q8_0.gguf") -> FetchOrder:
    return HubModel(**{**HUB, "file": file}).order("default")


async def test_who_uses_a_fetched_model_and_what_of_them_may_go(
    client: httpx.AsyncClient, cache: FakeCache, db: Database
) -> None:
    made = (await client.post(SERVICES, json={"metadata": {"name": "mine"}, "spec": {"model": HUB}})).json()
    good, unused = order_of("*q4_0.gguf"), FetchOrder("modelscope", "org/other", "v1")
    async with db.transaction() as tx:
        service = await get_service(tx, made["id"])
        assert isinstance(service, ModelService)
        before = service.spec.model_copy(update={"model": HubModel(**{**HUB, "file": "*q4_0.gguf"})})
        await set_good(tx, made["id"], 1, recipe_part(before))
    cache.found = [fetched(order_of()), fetched(good), fetched(unused, state="failed", revision="", fetched_at=0)]

    listed = (await client.get("/manage/v1/cache")).json()
    assert listed["bytes"] == 300
    user = {"id": made["id"], "name": "mine", "project": "default"}
    assert [item["usedBy"] for item in listed["items"]] == [[user], [user], []]
    assert listed["items"][0] == {
        "key": order_of().key, "source": "huggingface", "name": "org/repo", "revision": "abc", "file": "*q8_0.gguf",
        "mirror": "", "state": "complete", "bytes": 100, "files": 2, "fetchedAt": "2026-01-01T00:00:00Z",
        "usedBy": [user],
    }  # fmt: skip
    assert (listed["items"][2]["revision"], listed["items"][2]["fetchedAt"]) == ("v1", None)

    gone = {"keys": [unused.key], "freedBytes": 100}
    assert (await client.post("/manage/v1/cache/prune?dryRun=true", json={})).json() == gone
    assert len(cache.found) == 3, "a dry run removes nothing"
    assert (await client.post("/manage/v1/cache/prune", json={"olderThanDays": 2})).json() == gone
    assert (cache.older_than_s, len(cache.found)) == (2 * 86_400, 2)
    assert await audited(db, "prune") == [gone]
    assert (await client.post("/manage/v1/cache/prune", json={"olderThanDays": -1})).status_code == 422


@only_sqlite
async def test_a_disk_that_refuses_is_named(db: Database, actor: Actor, cache: Any) -> None:
    assert await list_cache(db, cache, actor) == {"items": [], "bytes": 0}
    cache.broken = True
    with pytest.raises(Unavailable, match="/cache/one can't be removed: Permission denied"):
        await prune_cache(db, cache, actor, older_than_s=0, dry_run=False)
