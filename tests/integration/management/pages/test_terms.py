"""Terms of use: set by an administrator, agreed to by whoever makes something that can be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.integration.management.conftest import Connect

from mooring.store.database import Database
from mooring.store.tables import audit

Make = Callable[..., dict[str, Any]]
TERMS, HEADER = "/manage/v1/terms", "Mooring-Agree-Terms"
SERVICE = {
    "kind": "ModelService",
    "metadata": {"name": "mine"},
    "spec": {"model": {"source": "builtin", "name": "mooring-demo"}},
}


async def put(client: httpx.AsyncClient, text: str) -> str:
    answer = await client.put(TERMS, json={"text": text})
    assert answer.status_code == 200, answer.text
    return answer.json()["version"]


async def test_there_are_none_until_an_administrator_sets_them(client: httpx.AsyncClient, connect: Connect) -> None:
    assert (await client.get(TERMS)).json() == {"text": "", "version": "", "updatedAt": None}
    version = await put(client, "Be kind.")
    told = (await client.get(TERMS)).json()
    assert (told["text"], told["version"]) == ("Be kind.", version)
    assert told["updatedAt"].endswith("Z")
    assert await put(client, "Be kind.") == version, "the same text is the same version"
    assert await put(client, "Be very kind.") != version
    assert await put(client, " \n") == ""

    await client.post("/manage/v1/users", json={"metadata": {"name": "ann"}, "spec": {"password": "correct horse"}})
    member = connect(basic=("ann", "correct horse"))
    assert (await member.put(TERMS, json={"text": "No."})).status_code == 403
    for body in ({}, {"text": 3}, {"text": "x" * 100_001}):
        assert (await client.put(TERMS, json=body)).status_code == 422


async def test_what_can_be_called_is_made_only_by_who_agrees(
    client: httpx.AsyncClient, db: Database, external: Make, endpoint: Make
) -> None:
    version = await put(client, "Be kind.")
    made: list[str] = []
    for noun, document in (
        ("services", SERVICE),
        ("external-services", external()),
        ("endpoints", endpoint(service="mooring-demo")),
    ):
        path = f"/manage/v1/{noun}"
        for headers in ({}, {HEADER: "another"}):
            refused = await client.post(path, json=document, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "terms_not_accepted")
            assert "GET /manage/v1/terms" in refused.json()["nextStep"]
            assert f"'{HEADER}: {version}'" in refused.json()["nextStep"]
            assert (await client.post("/manage/v1/apply", json=document, headers=headers)).status_code == 403
        dry = await client.post(path, json=document, params={"dryRun": "true"})
        assert dry.status_code == 403, "a dry run tells of it, too"
        created = await client.post(path, json=document, headers={HEADER: version})
        assert created.status_code == 201, created.text
        made.append(created.json()["id"])
        name = document["metadata"]["name"]
        tags = {"metadata": {"tags": {"a": "b"}}}
        assert (await client.patch(f"{path}/{name}", json=tags)).status_code == 200, "changes don't ask"
    async with db.read() as tx:
        found = (await tx.execute(audit.select().where(audit.c.object_id.in_(made), audit.c.action == "create"))).all()
    assert [row.detail["agreedTerms"] for row in found] == [version] * 3
    assert (await client.post("/manage/v1/projects", json={"metadata": {"name": "p"}})).status_code == 201


async def test_an_agreement_is_to_the_terms_as_they_are(client: httpx.AsyncClient) -> None:
    old = await put(client, "Be kind.")
    new = await put(client, "Be very kind.")
    refused = await client.post("/manage/v1/apply", json={"items": [SERVICE, SERVICE | {"metadata": {"name": "two"}}]},
                                headers={HEADER: old})  # fmt: skip
    assert refused.status_code == 403
    assert refused.json()["nextStep"].startswith("They have changed")
    assert (await client.post("/manage/v1/apply", json=SERVICE, headers={HEADER: new})).status_code == 200
    await put(client, "")
    assert (await client.post("/manage/v1/apply", json=SERVICE | {"metadata": {"name": "two"}})).status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is the same with another
async def test_agreeing_where_there_are_no_terms_changes_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.post("/manage/v1/services", json=SERVICE, headers={HEADER: "x"})).status_code == 201
