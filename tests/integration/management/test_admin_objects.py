"""The routes that every noun has, over real databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

Make = Callable[..., dict[str, Any]]

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("projects", {"metadata": {"name": "search", "tags": {"team": "a"}}}, {"spec": {"limits": {"rpm": 5}}}),
    ("users", {"metadata": {"name": "ann"}, "spec": {"password": "correct horse"}}, {"spec": {"enabled": False}}),
    (
        "secrets",
        {"metadata": {"name": "hf"}, "spec": {"stringData": {"token": "s3cret-value"}}},
        {"metadata": {"tags": {"team": "b"}}},
    ),
    (
        "services",
        {"metadata": {"name": "demo2"}, "spec": {"model": {"source": "builtin", "name": "mooring-demo"}}},
        {"spec": {"replicas": 2}},
    ),
    (
        "external-services",
        {"metadata": {"name": "far"}, "spec": {"urls": ["http://127.0.0.1:9000/v1"]}},
        {"spec": {"servedModel": "other"}},
    ),
    (
        "endpoints",
        {"metadata": {"name": "chat"}, "spec": {"services": [{"name": "mooring-demo"}]}},
        {"spec": {"enabled": False}},
    ),
    ("keys", {"metadata": {"name": "App_1"}, "spec": {"description": "for the app"}}, {"spec": {"limits": {"tpm": 9}}}),
]


@pytest.mark.parametrize(("path", "document", "patch"), CASES, ids=[case[0] for case in CASES])
async def test_a_noun_is_created_read_listed_patched_replaced_and_deleted(
    client: httpx.AsyncClient, path: str, document: dict[str, Any], patch: dict[str, Any]
) -> None:
    base, name = f"/manage/v1/{path}", document["metadata"]["name"]
    created = await client.post(base, json=document)
    assert created.status_code == 201, created.text
    object_id = created.json()["id"]

    again = await client.post(base, json=document)
    assert (again.status_code, again.json()["code"]) == (409, "already_exists"), again.text

    by_id, by_name = await client.get(f"{base}/{object_id}"), await client.get(f"{base}/{name}?project=default")
    assert by_id.status_code == 200
    assert by_id.json() == by_name.json()
    assert set(by_id.json()) == {"kind", "id", "metadata", "spec", "status"}
    assert "s3cret-value" not in by_id.text
    assert "correct horse" not in by_id.text

    listed = (await client.get(base, params={"q": name})).json()
    assert object_id in [item["id"] for item in listed["items"]]
    assert listed["nextCursor"] is None

    patched = await client.patch(f"{base}/{object_id}", json=patch)
    assert patched.status_code == 200, patched.text
    assert patched.headers["ETag"] != by_id.headers["ETag"]

    replaced = await client.put(f"{base}/{object_id}", json=by_id.json())
    assert replaced.status_code == 200, replaced.text
    assert replaced.json()["spec"] == by_id.json()["spec"]
    assert replaced.headers["ETag"] == by_id.headers["ETag"]

    deleted = await client.delete(f"{base}/{name}?project=default")
    assert deleted.status_code == 200, deleted.text
    assert (await client.get(f"{base}/{object_id}")).status_code == 404
    assert (await client.delete(f"{base}/{object_id}")).status_code == 404


async def test_a_stale_etag_is_refused(client: httpx.AsyncClient) -> None:
    path = "/manage/v1/endpoints/demo"
    seen = (await client.get(path)).headers["ETag"]
    assert (await client.patch(path, json={"spec": {"enabled": False}}, headers={"If-Match": seen})).status_code == 200
    for answer in (
        await client.patch(path, json={"spec": {"enabled": True}}, headers={"If-Match": seen}),
        await client.delete(path, headers={"If-Match": seen}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")


async def test_patches_at_the_same_time_are_all_kept(client: httpx.AsyncClient) -> None:
    patches = [{"metadata": {"tags": {f"tag{number}": "x"}}} for number in range(4)]
    answers = await asyncio.gather(*[client.patch("/manage/v1/endpoints/demo", json=patch) for patch in patches])
    assert [answer.status_code for answer in answers] == [200] * 4
    tags = (await client.get("/manage/v1/endpoints/demo")).json()["metadata"]["tags"]
    assert set(tags) == {"tag0", "tag1", "tag2", "tag3"}


async def test_of_two_creations_at_once_one_gets_a_clear_conflict(client: httpx.AsyncClient, external: Make) -> None:
    body = external("far")
    answers = await asyncio.gather(*[client.post("/manage/v1/external-services", json=body) for _ in range(5)])
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]


@pytest.mark.parametrize("field", ["name", "project"])
async def test_name_and_project_can_not_be_changed(client: httpx.AsyncClient, field: str) -> None:
    await client.post("/manage/v1/projects", json={"metadata": {"name": "other"}})
    answer = await client.patch("/manage/v1/endpoints/demo", json={"metadata": {field: "other"}})
    assert answer.status_code in (404, 422), answer.text
    assert (await client.get("/manage/v1/endpoints/demo")).status_code == 200


async def test_lists_go_page_by_page_and_filter_by_tag_state_text_and_project(
    client: httpx.AsyncClient, endpoint: Make
) -> None:
    for number in range(7):
        body = endpoint(f"e{number}", "mooring-demo", enabled=number % 2 == 0)
        body["metadata"]["tags"] = {"tier": "gold" if number < 3 else "tin", "a.b": 'q"uote'}
        assert (await client.post("/manage/v1/endpoints", json=body)).status_code == 201

    async def names(**query: Any) -> list[str]:
        found: list[str] = []
        cursor = ""
        while True:
            page = (await client.get("/manage/v1/endpoints", params={**query, "cursor": cursor, "limit": 2})).json()
            assert len(page["items"]) <= 2
            found += [item["metadata"]["name"] for item in page["items"]]
            if page["nextCursor"] is None:
                return found
            cursor = page["nextCursor"]

    assert await names() == ["demo", *[f"e{number}" for number in range(7)]]
    assert await names(tag="tier:gold") == ["e0", "e1", "e2"]
    assert await names(tag='a.b:q"uote', q="E6") == ["e6"]
    assert await names(state="Stopped") == ["e1", "e3", "e5"]
    assert await names(q="%") == []
    assert await names(project="default", q="dem") == ["demo"]
    assert await names(project="nowhere") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1001", "cursor=%21", "cursor=bnVsbA", "tag=nocolon"])
async def test_a_bad_query_is_400_and_names_the_parameter(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/manage/v1/endpoints?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["param"] == query.partition("=")[0]


async def test_values_that_no_database_holds_are_refused_not_failed(client: httpx.AsyncClient) -> None:
    for path in ("/manage/v1/endpoints/a%00b", "/manage/v1/endpoints?q=%00", "/manage/v1/endpoints?tag=a:%00"):
        answer = await client.get(path)
        assert answer.status_code in (200, 400, 404), (path, answer.text)
    body = {"metadata": {"name": "n"}, "spec": {"description": "a\x00b", "services": [{"name": "mooring-demo"}]}}
    assert (await client.post("/manage/v1/endpoints", json=body)).status_code == 400


async def test_the_order_waits_for_the_gateways_and_names_the_late_ones(
    client: httpx.AsyncClient, gateways: Any
) -> None:
    gateways.late = ["w1", "w2"]
    answer = await client.post("/manage/v1/keys", json={"metadata": {"name": "k"}})
    assert answer.headers["Mooring-Unacknowledged"] == "w1,w2"
    count = len(gateways.awaited)
    gateways.late = []
    answer = await client.put("/manage/v1/keys/k", json={"metadata": {"name": "k"}})
    assert answer.status_code == 200, answer.text
    assert "Mooring-Unacknowledged" not in answer.headers
    assert len(gateways.awaited) == count, "nothing changed, so nobody is waited for"


async def test_a_deletion_during_changes_ends_them_clearly(client: httpx.AsyncClient) -> None:
    path = "/manage/v1/endpoints/demo"
    patches = [client.patch(path, json={"spec": {"reserveTokens": number}}) for number in range(6)]
    answers = await asyncio.gather(*patches[:3], client.delete(path), client.delete(path), *patches[3:])
    assert {answer.status_code for answer in answers} <= {200, 404}
    assert sorted(answer.status_code for answer in answers[3:5]) == [200, 404]
    assert (await client.get(path)).status_code == 404


async def test_a_service_and_its_first_endpoint_never_miss_each_other(
    client: httpx.AsyncClient, external: Make, endpoint: Make
) -> None:
    for _ in range(5):
        await client.post("/manage/v1/external-services", json=external())
        made, gone = await asyncio.gather(
            client.post("/manage/v1/endpoints", json=endpoint()),
            client.delete("/manage/v1/external-services/elsewhere"),
        )
        assert (made.status_code, gone.status_code) in ((201, 409), (422, 200)), (made.text, gone.text)
        await client.delete("/manage/v1/endpoints/chat")
        await client.delete("/manage/v1/external-services/elsewhere")
