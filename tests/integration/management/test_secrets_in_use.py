"""Secrets that fetch models: used by services, so not deleted, and their change is heard of."""

from __future__ import annotations

from typing import Any

import httpx

from mooring.store.changes import since, version
from mooring.store.database import Database

SERVICES, SECRETS = "/manage/v1/services", "/manage/v1/secrets"


def hub(secret: str = "") -> dict[str, Any]:
    return {"source": "huggingface", "name": "org/repo", **({"tokenSecret": secret} if secret else {})}


async def make(client: httpx.AsyncClient, name: str, **spec: Any) -> str:
    answer = await client.post(SERVICES, json={"metadata": {"name": name}, "spec": spec})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def test_a_secret_that_fetches_models_and_adapters_is_in_use(client: httpx.AsyncClient, db: Database) -> None:
    for name in ("hub", "free"):
        await client.post(SECRETS, json={"metadata": {"name": name}, "spec": {"stringData": {"token": "hf-1"}}})
    adapters = [{"name": "a", "model": hub()}, {"name": "b", "model": hub("hub")}]
    users = [
        await make(client, "model", model=hub("hub")),
        await make(client, "adapter", model=hub(), adapters=adapters),
    ]
    await make(client, "other", model=hub(), description="hub")

    in_use = await client.delete(f"{SECRETS}/hub")
    assert in_use.status_code == 409
    assert in_use.json()["detail"] == "The secret 'hub' is used by: adapter, model."
    unusable = await client.patch(f"{SECRETS}/hub", json={"spec": {"stringData": {"a": "1", "b": "2", "token": None}}})
    assert unusable.status_code == 422

    async with db.read() as tx:
        before = await version(tx)
    await client.patch(f"{SECRETS}/hub", json={"spec": {"stringData": {"token": "hf-2"}}})
    async with db.read() as tx:
        assert sorted(await since(tx, before) or []) == sorted(("service", service_id) for service_id in users)

    assert (await client.delete(f"{SECRETS}/free")).status_code == 200
    for name in ("model", "adapter"):
        await client.delete(f"{SERVICES}/{name}")
    assert (await client.delete(f"{SECRETS}/hub")).status_code == 200


async def test_a_secret_of_the_same_name_in_another_project_is_another(client: httpx.AsyncClient) -> None:
    await client.post("/manage/v1/projects", json={"metadata": {"name": "p"}})
    for project in ("default", "p"):
        document = {"metadata": {"name": "hub", "project": project}, "spec": {"stringData": {"token": "hf"}}}
        await client.post(SECRETS, json=document)
    await make(client, "model", model=hub("hub"))
    assert (await client.delete(f"{SECRETS}/hub?project=p")).status_code == 200
    assert (await client.delete(f"{SECRETS}/hub")).status_code == 409
