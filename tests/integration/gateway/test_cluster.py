"""One service by its place in a cluster: the path chooses it, the key must be its project's, `model` is ignored."""

from __future__ import annotations

import json

import pytest

from mooring.testing.gateway import key_row, service_row
from mooring.testing.raw_client import CHAT, request
from mooring.testing.upstream import STREAM_HEAD, chat_answer, chunk, delta

ROOT = "/api/v1/namespaces/default/services/modelservice-elsewhere:http/proxy"
CHAT_PATH = f"{ROOT}/v1/chat/completions"
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"model": "anything", "messages": []}, {"model": "up", "messages": []}),
        ({"messages": []}, {"model": "up", "messages": []}),
        ({"model": None, "messages": []}, {"model": "up", "messages": []}),
        ({"model": {"a": 1}, "messages": []}, {"model": "up", "messages": []}),
        ({"model": "gpt:4", "messages": []}, {"model": "up", "messages": []}),
        (b"{ }", {"model": "up"}),
        (b' {"messages":[]} ', {"model": "up", "messages": []}),
    ],
)
async def test_the_path_chooses_the_service_whatever_the_body_says(client, upstream, gateway, body, sent):
    answer = await client.ask(body, CHAT_PATH)
    assert (answer.status, answer.json) == (200, chat_answer())
    assert upstream.received[0].json == sent
    [record] = gateway.records()
    assert (record.service_id, record.endpoint_id, record.dialect) == ("svc-1", "", "cluster")
    assert (record.prompt_tokens, record.completion_tokens) == (7, 3)


async def test_a_stream_gains_its_model_and_its_usage(client, upstream):
    async def script(received, line):
        await line.send(STREAM_HEAD + chunk(delta("a")) + chunk(DONE) + chunk(b""))

    upstream.script = script
    answer = await client.ask({"stream": True, "messages": []}, CHAT_PATH)
    assert answer.body == delta("a") + DONE
    assert upstream.received[0].json == {
        "model": "up",
        "stream": True,
        "messages": [],
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("path", "reached"),
    [
        ("/v1/completions", "/v1/completions"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/tokenize", "/tokenize"),
        ("/detokenize", "/detokenize"),
    ],
)
async def test_every_operation_has_its_path(client, upstream, path, reached):
    assert (await client.ask({"prompt": "a"}, ROOT + path + "?x=1")).status == 200
    assert upstream.received[0].path == reached


@pytest.mark.parametrize(
    "service", ["modelservice-qwen-2-5-0:http", "modelservice-svc-9:http", "modelservice-svc-9%3Ahttp"]
)
async def test_a_service_is_named_with_dashes_for_dots_or_by_its_id(client, gateway, upstream, service):
    gateway.rows(service_row(upstream.address, id="svc-9", name="qwen-2.5.0"))
    path = f"/api/v1/namespaces/default/services/{service}/proxy/v1/chat/completions"
    assert (await client.ask(CHAT, path)).status == 200
    assert [record.service_id for record in gateway.records()] == ["svc-9"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"{ROOT}/v1/nothing", 404, "path_not_found"),
        (f"{ROOT}/", 404, "path_not_found"),
        (ROOT, 404, "path_not_found"),
        ("/api/v1/namespaces", 404, "path_not_found"),
        ("/api/v1/namespaces/default/pods/modelservice-elsewhere:http/proxy/v1/models", 404, "path_not_found"),
        ("/api/v1/namespaces/default/services/elsewhere:http/proxy/v1/chat/completions", 404, "path_not_found"),
        ("/api/v1/namespaces/default/services/modelservice-elsewhere/proxy/v1/chat/completions", 404, "path_not_found"),
        (CHAT_PATH.replace("elsewhere", "nope"), 404, "model_not_found"),
        (CHAT_PATH.replace("default", "other"), 404, "model_not_found"),
        (f"{ROOT}/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_told_in_openais_body(client, upstream, path, status, code):
    answer = await client.ask(CHAT, path)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert upstream.received == []


async def test_only_keys_of_the_project_see_it(client, gateway, upstream):
    assert (await client.ask(CHAT, CHAT_PATH, key=None)).status == 401
    gateway.rows(key_row("mk-theirs", project="other"), key_row("mk-all", project="other", admin=True))
    gateway.rows(key_row("mk-confined", endpoints=("ep-1",)))
    for key in ("mk-theirs", "mk-confined"):
        for path, method, body in ((CHAT_PATH, "POST", CHAT), (f"{ROOT}/health", "GET", None)):
            answer = await client.ask(body, path, method=method, key=key)
            assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert (await client.ask(CHAT, CHAT_PATH, key="mk-all")).status == 200


async def test_a_closed_a_disabled_and_a_typeless_service_refuse(client, gateway, upstream):
    gateway.rows(service_row(upstream.address, direct_access=False))
    assert (await client.ask(CHAT, CHAT_PATH)).error["code"] == "model_not_found"
    gateway.rows(service_row(upstream.address, enabled=False))
    assert (await client.ask(CHAT, CHAT_PATH)).error["code"] == "service_disabled"
    gateway.rows(service_row(upstream.address, types=("image",)))
    assert (await client.ask(CHAT, CHAT_PATH)).error["code"] == "unsupported_type"


async def test_its_health_says_whether_it_can_be_called_and_why_not(client, gateway, upstream):
    path = f"{ROOT}/health"
    answer = await client.ask(None, path, method="GET")
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    await client.send(request(None, path, method="HEAD"))
    assert (await client.read_answer(head_only=True)).status == 200
    gateway.rows(service_row([], state="starting", reason="loading the model"))
    answer = await client.ask(None, path, method="GET")
    assert (answer.status, answer.error["code"]) == (503, "service_not_ready")
    assert "loading the model" in answer.error["message"]
    gateway.rows(service_row(upstream.address, enabled=False))
    answer = await client.ask(None, path, method="GET")
    assert answer.status == 503
    assert "disabled" in answer.error["message"]
    assert (await client.ask(None, path, method="GET", key=None)).status == 401


async def test_its_models_are_itself_and_its_adapters(client, gateway, upstream):
    gateway.rows(
        service_row(upstream.address, external=False, engine="vllm", adapters=("sql",)),
        service_row(upstream.address, id="svc-2", name="twin"),
    )
    answer = await client.ask(None, f"{ROOT}/v1/models", method="GET")
    assert [(model["id"], model["parent"], model["name"]) for model in answer.json["data"]] == [
        ("up", None, "elsewhere"),
        ("up:sql", "up", "elsewhere"),
    ]
    await client.ask({**CHAT, "model": "up:sql"}, CHAT_PATH)
    await client.ask({**CHAT, "model": "up:other"}, CHAT_PATH)
    assert [received.json["model"] for received in upstream.received] == ["up:sql", "up"]


async def test_its_description_holds_only_what_it_offers(client, gateway, upstream):
    gateway.rows(service_row(upstream.address, name="a.b", types=("chat",), adapters=("sql",), description="Ours."))
    root = ROOT.replace("elsewhere", "a-b")
    document = (await client.ask(None, f"{root}/openapi.json", method="GET")).json
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/tokenize",
        "/detokenize",
        "/v1/models",
        "/health",
        "/openapi.json",
    }
    assert document["servers"] == [{"url": root}]
    told = document["info"]["description"]
    assert all(word in told for word in ("Ours.", "up", "2048 tokens", "sql"))
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["messages"]
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    gateway.rows(service_row(upstream.address, name="a.b", types=("embedding",)))
    document = (await client.ask(None, f"{root}/openapi.json", method="GET")).json
    assert "/v1/embeddings" in document["paths"]
    assert "/v1/chat/completions" not in document["paths"]


async def test_the_document_of_a_service_without_calls_has_none(client, gateway, upstream):
    gateway.rows(service_row(upstream.address, types=("image",), context_length=0))
    document = json.loads((await client.ask(None, f"{ROOT}/openapi.json", method="GET")).body)
    assert set(document["paths"]) == {"/v1/models", "/health", "/openapi.json"}
    assert "unknown" in document["info"]["description"]
