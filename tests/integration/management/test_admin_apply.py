"""Apply: all documents or none, in any order, again and again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

APPLY = "/manage/v1/apply"
DOCUMENTS: list[dict[str, Any]] = [
    {"kind": "ApiKey", "metadata": {"name": "app-key"}, "spec": {"description": "for the app", "endpoints": ["chat"]}},
    {
        "kind": "Endpoint",
        "metadata": {"name": "chat", "project": "default", "tags": {"tier": "gold"}},
        "spec": {
            "services": [{"name": "elsewhere", "weight": 1}],
            "limits": {"rpm": 600, "tpm": 100000, "concurrency": 32},
            "moderation": {"enabled": False},
            "enabled": True,
        },
    },
    {
        "kind": "ExternalService",
        "metadata": {"name": "elsewhere"},
        "spec": {
            "urls": ["http://127.0.0.1:9000/v1"],
            "servedModel": "some-model",
            "apiKeySecret": "elsewhere-key",
            "chip": "nvidia",
            "types": ["chat", "completion"],
        },
    },
    {
        "kind": "ModelService",
        "metadata": {"name": "demo2", "tags": {"team": "search"}},
        "spec": {
            "model": {"source": "builtin", "name": "mooring-demo"},
            "engine": "auto",
            "args": ["--ctx-size=2048"],
            "env": {},
            "resources": {"cpu": 1, "memory": "1Gi", "gpus": 0},
            "chip": "cpu",
            "replicas": 1,
        },
    },
    {
        "kind": "Secret",
        "metadata": {"name": "elsewhere-key"},
        "spec": {"type": "Opaque", "stringData": {"token": "sk"}},
    },
    {"kind": "Project", "metadata": {"name": "p2"}, "spec": {"limits": {"rpm": 10}}},
    {"kind": "User", "metadata": {"name": "ann"}, "spec": {"password": "correct horse"}},
]


async def actions(client: httpx.AsyncClient, documents: Any, **query: Any) -> list[str]:
    answer = await client.post(APPLY, json=documents, params=query)
    assert answer.status_code == 200, answer.text
    return [item["action"] for item in answer.json()["items"]]


async def test_documents_in_any_order_are_created_then_unchanged_then_updated(client: httpx.AsyncClient) -> None:
    assert await actions(client, {"items": DOCUMENTS}, dryRun=True) == ["created"] * 7
    assert (await client.get("/manage/v1/endpoints/chat")).status_code == 404, "a dry run keeps nothing"

    answer = (await client.post(APPLY, json=DOCUMENTS)).json()["items"]
    assert [item["kind"] for item in answer] == [document["kind"] for document in DOCUMENTS]
    assert answer[0]["status"]["key"].startswith("mk-")
    assert answer[0]["status"]["accessKey"].startswith("llmos-")

    known_password = [*DOCUMENTS[:-1], {"kind": "User", "metadata": {"name": "ann"}}]
    assert await actions(client, known_password) == ["unchanged"] * 7
    again = (await client.post(APPLY, json=DOCUMENTS[0])).json()["items"][0]
    assert "key" not in again["status"]

    changed = DOCUMENTS[1] | {"spec": {**DOCUMENTS[1]["spec"], "enabled": False}}
    assert await actions(client, [changed, DOCUMENTS[2]]) == ["updated", "unchanged"]


async def test_what_get_gives_can_be_applied_again(client: httpx.AsyncClient) -> None:
    await actions(client, DOCUMENTS)
    for noun in ("projects", "services", "external-services", "endpoints", "keys", "secrets", "users"):
        items = (await client.get(f"/manage/v1/{noun}")).json()["items"]
        assert await actions(client, {"items": items}) == ["unchanged"] * len(items), noun


async def test_every_bad_document_is_listed_and_nothing_is_applied(client: httpx.AsyncClient) -> None:
    bad: list[Any] = [
        DOCUMENTS[5],
        {"kind": "Endpoint", "metadata": {"name": "Big"}, "spec": {"services": []}},
        {"kind": "Moon"},
        "text",
        {
            "kind": "ModelService",
            "metadata": {"name": "v"},
            "spec": {"model": {"source": "huggingface", "name": "a/b", "mirror": "no URL"}},
        },
        DOCUMENTS[5],
    ]
    answer = await client.post(APPLY, json=bad)
    assert answer.status_code == 422
    faults = [(fault["index"], fault["field"]) for fault in answer.json()["errors"]]
    assert faults == [
        (1, "metadata.name"),
        (1, "spec.services"),
        (2, "kind"),
        (3, ""),
        (4, "spec.model.mirror"),
        (5, "metadata.name"),
    ]
    assert (await client.get("/manage/v1/projects/p2")).status_code == 404


async def test_a_refusal_while_writing_names_the_document_and_undoes_the_rest(client: httpx.AsyncClient) -> None:
    lost = {"kind": "Endpoint", "metadata": {"name": "lost"}, "spec": {"services": [{"name": "nowhere"}]}}
    answer = await client.post(APPLY, json=[DOCUMENTS[5], lost])
    assert answer.status_code == 422
    assert "Document 2 (Endpoint 'lost')" in answer.json()["detail"]
    assert "nowhere" in answer.json()["detail"]
    assert (await client.get("/manage/v1/projects/p2")).status_code == 404


async def test_a_single_document_is_refused_without_a_number(client: httpx.AsyncClient) -> None:
    lost = {"kind": "Endpoint", "metadata": {"name": "lost"}, "spec": {"services": [{"name": "nowhere"}]}}
    bad = {"kind": "Endpoint", "metadata": {"name": "Big"}, "spec": {"services": []}}
    confined = {"kind": "ApiKey", "metadata": {"name": "k"}, "spec": {"access": "full", "endpoints": ["demo"]}}
    for document, told in (
        (lost, "There is no service 'nowhere'"),
        (bad, "metadata.name: a name is"),
        (confined, "A key with full access"),
    ):
        detail = (await client.post(APPLY, json=[document])).json()["detail"]
        assert detail.startswith(told)
        assert "document" not in detail.lower() and "Nothing" not in detail
    detail = (await client.post(APPLY, json=[DOCUMENTS[5], bad])).json()["detail"]
    assert detail.startswith("Document 2, metadata.name: a name is")
    assert detail.endswith("Also wrong: document 2 spec.services. Nothing was applied.")


async def test_an_immutable_field_is_not_changed_by_apply(client: httpx.AsyncClient) -> None:
    await actions(client, DOCUMENTS)
    other = DOCUMENTS[0] | {"spec": {**DOCUMENTS[0]["spec"], "description": "for another"}}
    answer = await client.post(APPLY, json=[other])
    assert (answer.status_code, answer.json()["code"]) == (409, "immutable_field")


async def test_two_applies_at_once_both_succeed_or_conflict_clearly(client: httpx.AsyncClient) -> None:
    backwards = list(reversed(DOCUMENTS[:6]))
    answers = await asyncio.gather(*[client.post(APPLY, json=part) for part in (DOCUMENTS[:6], backwards) * 3])
    assert {answer.status_code for answer in answers} == {200}
    created = [item for answer in answers for item in answer.json()["items"] if item["action"] == "created"]
    assert len(created) == 6


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
@pytest.mark.parametrize("body", [{}, {"items": 3}, "x", 3])
async def test_a_body_without_documents_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    assert (await client.post(APPLY, json=body)).status_code == 422
