"""A dry run judges everything and keeps nothing, for every kind and every deed; and patches at once all land."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from mooring.control.context import Actor, Context
from mooring.control.orders import Orders
from mooring.control.sealing import Sealer
from mooring.settings import Settings
from mooring.store.database import Database

DEMO = "/manage/v1/services/mooring-demo"
DRY = {"dryRun": "true"}
MODEL = {"model": {"source": "builtin", "name": "mooring-demo"}}
NEW: list[tuple[str, dict[str, Any]]] = [
    ("projects", {"metadata": {"name": "new"}}),
    ("users", {"metadata": {"name": "new"}, "spec": {"password": "correct horse"}}),
    ("secrets", {"metadata": {"name": "new"}, "spec": {"stringData": {"token": "sk-hidden"}}}),
    ("services", {"metadata": {"name": "new"}, "spec": MODEL}),
    ("external-services", {"metadata": {"name": "new"}, "spec": {"urls": ["http://127.0.0.1:9/v1"]}}),
    ("endpoints", {"metadata": {"name": "new"}, "spec": {"services": [{"name": "mooring-demo"}]}}),
    ("keys", {"metadata": {"name": "new"}, "spec": {"description": "for the test"}}),
]


@pytest.mark.parametrize(("noun", "document"), NEW, ids=[noun for noun, _ in NEW])
async def test_nothing_of_any_kind_is_kept(
    client: httpx.AsyncClient, gateways: Any, noun: str, document: dict[str, Any]
) -> None:
    path, awaited = f"/manage/v1/{noun}", len(gateways.awaited)
    made = await client.post(path, json=document, params=DRY)
    assert (made.status_code, made.json()["action"], made.json()["metadata"]["name"]) == (200, "created", "new")
    for secret in ("mk-", "llmos-", "sk-hidden", "correct horse"):
        assert secret not in made.text
    assert "etag" not in made.headers
    assert (await client.get(f"{path}/new")).status_code == 404
    assert len(gateways.awaited) == awaited, "there is nothing for the gateways to hear"

    assert (await client.post(path, json=document)).status_code == 201
    before = (await client.get(f"{path}/new")).json()
    change = {"spec": {"enabled": False}} if noun == "users" else {"metadata": {"tags": {"a": "b"}}}
    for answer, action in (
        (await client.patch(f"{path}/new", json=change, params=DRY), "updated"),
        (await client.patch(f"{path}/new", json={}, params=DRY), "unchanged"),
        (await client.put(f"{path}/new", json=before, params=DRY), "unchanged"),
        (await client.delete(f"{path}/new", params=DRY), "deleted"),
    ):
        assert (answer.status_code, answer.json()["action"]) == (200, action), answer.text
    assert (await client.get(f"{path}/new")).json() == before


async def test_stop_start_and_scale_are_judged_and_not_done(client: httpx.AsyncClient) -> None:
    before = (await client.get(DEMO)).json()
    stopped = (await client.post(f"{DEMO}/stop", params=DRY)).json()
    scaled = (await client.post(f"{DEMO}/scale", json={"replicas": 3}, params=DRY)).json()
    started = (await client.post(f"{DEMO}/start", params=DRY)).json()
    same = (await client.post(f"{DEMO}/scale", json={"replicas": 1}, params=DRY)).json()
    assert (stopped["action"], stopped["status"]["state"]) == ("updated", "stopped")
    assert (scaled["action"], scaled["status"]["replicas"]) == ("updated", 3)
    assert (started["action"], started["status"]["specVersion"]) == ("updated", 2)
    assert same["action"] == "unchanged"
    assert (await client.get(DEMO)).json() == before


async def test_what_would_be_refused_is_refused(client: httpx.AsyncClient) -> None:
    lost = {"metadata": {"name": "x"}, "spec": {"services": [{"name": "nowhere"}]}}
    taken = {"metadata": {"name": "mooring-demo"}, "spec": MODEL}
    for answer, status in (
        (await client.post("/manage/v1/endpoints", json=lost, params=DRY), 422),
        (await client.post("/manage/v1/services", json=taken, params=DRY), 409),
        (await client.delete(DEMO, params=DRY), 409),
        (await client.patch(DEMO, json={"spec": {"replicas": 65}}, params=DRY), 422),
        (await client.patch(DEMO, json={}, params=DRY, headers={"If-Match": '"old"'}), 412),
        (await client.delete("/manage/v1/keys/none", params=DRY), 404),
    ):  # fmt: skip
        assert answer.status_code == status, answer.text


async def test_twenty_patches_at_once_all_land(
    client: httpx.AsyncClient, app: FastAPI, db: Database, settings: Settings, sealer: Sealer, actor: Actor
) -> None:
    async def heard(version: int, timeout_s: float) -> list[str]:
        return []

    other = Orders(db, Context(settings, sealer), heard)  # as a second control process

    async def patch(number: int) -> None:
        tags = {"metadata": {"tags": {f"t{number}": "x"}}}
        if number % 4 == 0:
            await other.patch("ModelService", "mooring-demo", "default", tags, actor)
            return
        answer = await client.patch(DEMO, json=tags)
        assert answer.status_code == 200, answer.text

    await asyncio.gather(*[patch(number) for number in range(20)])
    assert len((await client.get(DEMO)).json()["metadata"]["tags"]) == 20


async def test_of_patches_that_name_what_they_saw_one_lands(client: httpx.AsyncClient) -> None:
    seen = (await client.get(DEMO)).headers["etag"]
    bodies = [{"metadata": {"tags": {f"t{number}": "x"}}} for number in range(5)]
    answers = await asyncio.gather(*[client.patch(DEMO, json=body, headers={"If-Match": seen}) for body in bodies])
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]
