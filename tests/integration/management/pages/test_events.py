"""What happened to services: newest first, since the last one seen, and as it happens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from mooring.control import events as rules
from mooring.store.database import Database
from mooring.store.events import Event, Level, add, forget_deleted, last_id

Make = Callable[..., dict[str, Any]]
DEMO, ALL = "/manage/v1/services/mooring-demo", "/manage/v1/events"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "LOOK_S", 0.02)


@pytest.fixture
async def demo(client: httpx.AsyncClient) -> str:
    return (await client.get(DEMO)).json()["id"]


async def tell(db: Database, service_id: str, *messages: str, level: Level = "info") -> None:
    async with db.transaction(serial=False) as tx:
        await add(tx, [Event(service_id, "rep-a", datetime.now(UTC), level, "Told", message) for message in messages])


def told(items: list[dict[str, Any]]) -> list[str]:
    return [item["message"] for item in items]


async def followed(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line:
            yield json.loads(line)


async def test_events_come_newest_first_with_an_id_that_grows(
    client: httpx.AsyncClient, db: Database, demo: str
) -> None:
    await tell(db, demo, "one", "two", "three")
    items = (await client.get(f"{DEMO}/events?limit=2")).json()["items"]
    assert told(items) == ["three", "two"]
    assert items[0]["id"] > items[1]["id"]
    assert (items[0]["serviceId"], items[0]["replicaId"], items[0]["level"]) == (demo, "rep-a", "info")
    assert told((await client.get(f"{DEMO}/events?after={items[1]['id']}")).json()["items"]) == ["three"]
    assert (await client.get(f"{DEMO}/events?after=x")).status_code == 400
    assert (await client.get("/manage/v1/services/none/events?follow=true")).status_code == 404


async def test_events_of_all_services_by_project_and_level(
    client: httpx.AsyncClient, db: Database, demo: str, external: Make
) -> None:
    await client.post("/manage/v1/projects", json={"metadata": {"name": "p"}})
    document = external()
    document["metadata"]["project"] = "p"
    far = (await client.post("/manage/v1/external-services", json=document)).json()["id"]
    await tell(db, demo, "here")
    await tell(db, far, "slow", level="warning")
    await tell(db, far, "lost", level="error")
    for query, wanted in (
        ("", ["lost", "slow", "here"]),
        ("project=p", ["lost", "slow"]),
        ("project=default", ["here"]),
        ("level=error", ["lost"]),
        ("level=warning&limit=1", ["lost"]),
        ("level=warning", ["lost", "slow"]),
    ):
        assert told((await client.get(f"{ALL}?{query}")).json()["items"]) == wanted, query
    assert (await client.get(f"{ALL}?level=loud")).status_code == 400


async def test_followed_events_come_oldest_first_and_then_as_they_happen(
    streaming: httpx.AsyncClient, db: Database, demo: str
) -> None:
    await tell(db, demo, "one", "two", "three")
    async with streaming.stream("GET", f"{DEMO}/events?follow=true&limit=2") as answer:
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        events = followed(answer)
        assert [(await anext(events))["message"] for _ in range(2)] == ["two", "three"]
        for message in ("four", "five"):
            await tell(db, demo, message)
            seen = await anext(events)
            assert seen["message"] == message
    await tell(db, demo, "six", "seven")
    async with streaming.stream("GET", f"{DEMO}/events?follow=true&limit=1&after={seen['id']}") as answer:
        events = followed(answer)
        assert [(await anext(events))["message"] for _ in range(2)] == ["six", "seven"], "nothing is left out"


async def test_following_ends_when_the_service_is_deleted(
    streaming: httpx.AsyncClient, db: Database, external: Make
) -> None:
    made = (await streaming.post("/manage/v1/external-services", json=external())).json()
    async with streaming.stream("GET", f"/manage/v1/external-services/{made['id']}/events?follow=true") as answer:
        events = followed(answer)
        await tell(db, made["id"], "still there")
        assert (await anext(events))["message"] == "still there"
        await streaming.delete(f"/manage/v1/external-services/{made['id']}")
        assert [event async for event in events] == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is the same with another
async def test_a_silent_stream_shows_that_it_stands(
    streaming: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "HEARTBEAT_S", 0.1)
    async with streaming.stream("GET", f"{ALL}?follow=true") as answer:
        lines = answer.aiter_lines()
        assert [await anext(lines) for _ in range(2)] == ["", ""]


async def test_an_id_is_not_given_again_when_its_service_is_deleted(
    client: httpx.AsyncClient, db: Database, demo: str, external: Make
) -> None:
    made = (await client.post("/manage/v1/external-services", json=external())).json()
    await tell(db, demo, "stays")
    await tell(db, made["id"], "goes", "goes too")
    async with db.read() as tx:
        last = await last_id(tx)
    await client.delete(f"/manage/v1/external-services/{made['id']}")
    for _ in range(2):
        async with db.transaction(serial=False) as tx:
            await forget_deleted(tx)
    assert told((await client.get(ALL)).json()["items"]) == ["stays"]
    await tell(db, demo, "new")
    (new,) = (await client.get(f"{ALL}?after={last}")).json()["items"]
    assert new["message"] == "new"
