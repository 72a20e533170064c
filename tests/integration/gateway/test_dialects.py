"""The dialects through a running gateway: what they call, what they list, how they refuse and in which order."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from mooring.core.snapshot import TargetEntry
from mooring.testing.gateway import endpoint_row, key_row, service_row
from mooring.testing.raw_client import request
from mooring.testing.upstream import chat_answer

# dialect → what stands before /chat/completions and /models, what goes into `model`
BASES = {
    "openai": ("/v1", "ep-1"),
    "ark": ("/api/v3", "ep-1"),
    "modelarts": ("/v1/infers/svc-1/v1", "up"),
    "genstudio": ("/maas/up/cpu", "gpt-4o"),
    "cluster": ("/api/v1/namespaces/default/services/modelservice-elsewhere:http/proxy/v1", "gpt-4o"),
}
MESSAGES = [{"role": "user", "content": "hi"}]


def chat(dialect: str, **members) -> dict:
    return {"model": BASES[dialect][1], "messages": MESSAGES, **members}


def path(dialect: str, end: str = "chat/completions") -> str:
    return f"{BASES[dialect][0]}/{end}"


def code_of(dialect: str, answer) -> str:
    return answer.json["error_code"] if dialect == "modelarts" else answer.error["code"]


@pytest.mark.parametrize("dialect", BASES)
async def test_a_call_reaches_its_service_and_is_accounted_to_its_dialect(client, upstream, gateway, dialect):
    for _ in range(2):
        answer = await client.ask(chat(dialect), path(dialect))
        assert (answer.status, answer.json) == (200, chat_answer())
    assert [one.json for one in upstream.received] == [{"model": "up", "messages": MESSAGES}] * 2
    record = gateway.records()[0]
    endpoint = "ep-1" if dialect in ("openai", "ark") else ""
    assert (record.dialect, record.service_id, record.endpoint_id) == (dialect, "svc-1", endpoint)


# What is wrong, in the order in which it is noticed: method, path's end, key, content type, body.
REFUSED = [
    ("POST", "nothing", "mk-no", "text/plain", b"{", 404,
     ("path_not_found", "NotFound", "APIG.0101")),
    ("PUT", "chat/completions", "mk-no", "text/plain", b"{", 405,
     ("method_not_allowed", "MethodNotAllowed", "APIG.0101")),
    ("POST", "chat/completions", None, "text/plain", b"{", 401,
     ("invalid_api_key", "AuthenticationError", "ModelArts.81003")),
    ("POST", "chat/completions", "mk-no", "text/plain", b"{", 401,
     ("invalid_api_key", "AuthenticationError", "ModelArts.81003")),
    ("POST", "chat/completions", "mk-test", "text/plain", b"x" * 3000, 415,
     ("unsupported_media_type", "UnsupportedMediaType", "ModelArts.81001")),
    ("POST", "chat/completions", "mk-test", "application/json", b"x" * 3000, 413,
     ("request_too_large", "RequestEntityTooLarge", "ModelArts.81001")),
    ("POST", "chat/completions", "mk-one", "application/json", b"{", 400,
     ("invalid_json", "InvalidParameter", "ModelArts.81001")),
    ("POST", "chat/completions", "mk-one", "application/json", b'{"model":"ep-1","stream":3}', 404,
     ("model_not_found", "InvalidEndpointOrModel.NotFound", "ModelArts.81009")),
    ("POST", "chat/completions", "mk-test", "application/json", b'{"model":"ep-1","stream":3}', 400,
     ("unsupported_type", "InvalidParameter.model", "ModelArts.81001")),
]  # fmt: skip


@pytest.fixture
def gateway_settings():
    return {"max_body_bytes": 2048}


@pytest.mark.parametrize("dialect", BASES)
async def test_the_order_of_refusal_and_its_headers(client, upstream, gateway, dialect):
    gateway.rows(key_row("mk-one", endpoints=()), service_row(upstream.address, types=("embedding",)))
    for method, end, key, kind, body, status, codes in REFUSED:
        asked = f"{method} {path(dialect, end)} HTTP/1.1\r\nHost: x\r\nX-Client-Request-Id: mine-{status}\r\n"
        asked += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        asked += f"Authorization: Bearer {key}\r\n\r\n" if key else "\r\n"
        caller = await type(client).open(gateway.port)
        await caller.send(asked.encode() + body)
        answer = await caller.read_answer()
        caller.close()
        code = codes[{"ark": 1, "modelarts": 2}.get(dialect, 0)]
        assert (answer.status, code_of(dialect, answer)) == (status, code), (method, end, key)
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-client-request-id"] == f"mine-{status}"
        assert ("www-authenticate" in answer.headers) is (status == 401)
        assert answer.headers.get("allow") == ("POST" if status == 405 else None)
        if dialect == "ark":
            assert answer.error["message"].endswith(f" Request id: {answer.headers['x-request-id']}")
    gateway.rows(service_row(upstream.address, types=("embedding",), enabled=False))
    answer = await client.ask(chat(dialect), path(dialect))  # stopped goes before what the service offers
    stopped = {"ark": "InvalidEndpoint.ClosedEndpoint", "modelarts": "ModelArts.81004"}
    assert (answer.status, code_of(dialect, answer)) == (400, stopped.get(dialect, "service_disabled"))
    assert upstream.received == []
    assert gateway.records() == []


@pytest.mark.parametrize("dialect", BASES)
async def test_what_may_be_repeated_says_when(client, gateway, dialect):
    gateway.rows(service_row([], state="failed"))
    answer = await client.ask(chat(dialect), path(dialect))
    codes = {"ark": "InternalServiceError", "modelarts": "APIG.0203"}
    assert (answer.status, code_of(dialect, answer)) == (503, codes.get(dialect, "service_not_ready"))
    assert (answer.headers["x-should-retry"], answer.headers["retry-after"]) == ("true", "2")


@pytest.mark.parametrize("dialect", BASES)
@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("Host: x\r\nAuthorization: Bearer mk-no\r\nContent-Length: 9\r\n\r\n", 401),  # its body never comes
        ("Host: x\r\nHost: y\r\nContent-Length: 9\r\n\r\n", 400),
        ("Host: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
async def test_what_is_refused_early_is_refused_in_its_dialect(client, dialect, head, status):
    await client.ask(chat("openai"))  # the dialect is that of the request, not of the one before
    echo = "X-Client-Request-Id: mine \xe9" + "y" * 200
    await client.send(f"POST {path(dialect)} HTTP/1.1\r\n{echo}\r\n{head}".encode("latin-1"))
    answer = await client.read_answer()
    assert answer.status == status
    assert ("error_code" in answer.json) is (dialect == "modelarts")
    if dialect == "ark":
        assert answer.error["message"].endswith(f"Request id: {answer.headers['x-request-id']}")
    assert answer.headers.get("x-client-request-id", "") == "mine" + "y" * 122


@pytest.mark.parametrize(("dialect", "status"), [(name, 400 if name == "modelarts" else 401) for name in BASES])
async def test_a_header_without_a_bearer_key_is_told_apart(client, dialect, status):
    codes = {"ark": "AuthenticationError", "modelarts": "ModelArts.81002"}
    for value in ("Basic abc", "Bearer ", "mk-test"):
        answer = await client.ask(chat(dialect), path(dialect), key=None, headers=f"Authorization: {value}\r\n")
        assert (answer.status, code_of(dialect, answer)) == (status, codes.get(dialect, "invalid_api_key"))
        assert ("www-authenticate" in answer.headers) is (status == 401)


@pytest.mark.parametrize("dialect", [name for name in BASES if name not in ("openai", "ark")])
async def test_a_path_that_names_a_service_is_closed_to_those_who_may_not_address_it(
    client, upstream, gateway, dialect
):
    gateway.rows(key_row("mk-one", endpoints=("ep-1",)), key_row("mk-other", project="other"))
    for key in ("mk-one", "mk-other"):
        for asked in (request(chat(dialect), path(dialect), key=key),
                      request(None, path(dialect, "models"), method="GET", key=key)):  # fmt: skip
            await client.send(asked)
            answer = await client.read_answer()
            assert answer.status == 404
            assert b"elsewhere" not in answer.body.replace(b"'elsewhere'", b"")
    gateway.rows(service_row(upstream.address, direct_access=False))
    assert (await client.ask(chat(dialect), path(dialect))).status == 404
    assert upstream.received == []


async def test_ark_takes_endpoint_ids_and_tells_who_sends_a_name(client, upstream, gateway):
    gateway.rows(service_row(upstream.address, adapters=("legal",)), endpoint_row(id="ep-2", project="other"))
    assert (await client.ask(chat("ark", model="ep-1:legal"), path("ark"))).status == 200
    disabled, unknown = "InvalidEndpointOrModel.ModelIDAccessDisabled", "InvalidEndpointOrModel.NotFound"
    for model, code in (("up", disabled), ("elsewhere", disabled), ("ep-2", unknown), ("no", unknown)):
        answer = await client.ask(chat("ark", model=model), path("ark"))
        assert (answer.status, answer.error["code"], answer.error["param"]) == (404, code, "model")
        assert ("ep-1" in answer.error["message"]) is (code == disabled)
        assert "ep-2" not in answer.error["message"].replace("'ep-2'", "")
    answer = await client.ask({"messages": MESSAGES}, path("ark"))
    assert (answer.status, answer.error["code"]) == (400, "MissingParameter.model")


async def test_a_pair_shares_its_calls_and_an_unknown_one_is_told_those_there_are(client, upstream, gateway):
    gateway.rows(
        service_row(upstream.address, served_model="o/m", chip="A 100"),
        service_row(upstream.address, id="svc-2", name="second", served_model="o/m", chip="A 100"),
        service_row(upstream.address, id="svc-3", name="theirs", served_model="x", project="other"),
    )
    busy = gateway.parts.table.services["svc-1"].replicas[0]
    for asked in ("/maas/o%2Fm/A%20100", "/maas/o/m/A%20100", "/maas/m/A%20100"):
        busy.in_flight += 1
        assert (await client.ask({"messages": MESSAGES}, f"{asked}/chat/completions")).status == 200
        busy.in_flight -= 1
    assert Counter(record.service_id for record in gateway.records()) == {"svc-2": 3}
    for asked in ("/maas/m/cpu", "/maas/x/cpu", "/maas/no/../.."):
        answer = await client.ask(chat("genstudio"), f"{asked}/chat/completions")
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert answer.error["message"].endswith("What this key may call here: o%2Fm/A 100.")


async def test_the_lists_show_what_may_be_called_there_and_nothing_else(client, upstream, gateway):
    gateway.rows(
        service_row(upstream.address, description="A model.", adapters=("legal",)),
        service_row(upstream.address, id="svc-2", name="second", context_length=512),
        service_row(upstream.address, id="svc-3", name="theirs", served_model="x", project="other"),
        endpoint_row(id="ep-2", project="other", targets=(TargetEntry("svc-1", 1),)),
        endpoint_row(id="ep-3", targets=(TargetEntry("svc-2", 1),), created=1),
        key_row("mk-one", endpoints=("ep-3",)),
    )

    async def listed(dialect: str, key: str = "mk-test") -> dict[str, dict]:
        answer = await client.ask(None, path(dialect, "models"), method="GET", key=key)
        assert (answer.status, answer.json["object"]) == (200, "list")
        found = {model["id"]: model for model in answer.json["data"]}
        assert len(found) == len(answer.json["data"])
        return found

    models = await listed("openai")
    assert set(models) == {"ep-1", "ep-1:legal", "ep-3", "elsewhere", "elsewhere:legal", "second"}
    assert (models["elsewhere"]["endpoints"], models["second"]["endpoints"]) == (["ep-1"], ["ep-3"])
    assert set(await listed("ark")) == {"ep-1", "ep-1:legal", "ep-3"}
    assert set(await listed("ark", "mk-one")) == set(await listed("openai", "mk-one")) == {"ep-3"}
    only = await listed("modelarts")
    assert set(only) == {"up", "up:legal"}
    assert (only["up"]["description"], only["up"]["endpoints"], only["up"]["max_model_len"]) == (
        "A model.",
        ["ep-1"],
        2048,
    )
    pair = await listed("genstudio")
    assert set(pair) == {"up", "up:legal"}
    assert (pair["up"]["endpoints"], pair["up"]["max_model_len"], pair["up"]["chip"]) == (["ep-1", "ep-3"], 512, "cpu")
    assert "ep-2" not in json.dumps([models, only, pair])
