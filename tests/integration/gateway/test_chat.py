"""One request through the gateway: what the service receives, what the caller gets, what is journalled."""

from __future__ import annotations

import asyncio
import json

import pytest

from mooring.core.snapshot import TargetEntry
from mooring.testing.gateway import RunningGateway, endpoint_row, key_row, service_row
from mooring.testing.raw_client import CHAT, RawClient, request, until
from mooring.testing.upstream import STREAM_HEAD, ScriptedUpstream, chat_answer, chunk, delta, json_response

STREAM = {**CHAT, "stream": True}
USAGE_EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"up","choices":[],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def streaming(*pieces: bytes, end: bool = True):
    async def script(received, line):
        await line.send(STREAM_HEAD)
        for piece in pieces:
            await line.send(chunk(piece))
        if end:
            await line.send(chunk(b""))

    return script


async def test_an_answer_passes_byte_for_byte_and_is_metered(client, upstream, gateway):
    answer = await client.ask(CHAT)
    assert (answer.status, answer.json) == (200, chat_answer())
    assert answer.headers["x-content-type-options"] == "nosniff"
    [record] = gateway.records()
    assert record.request_id == answer.headers["x-request-id"]
    assert (record.endpoint_id, record.service_id, record.key_id) == ("ep-1", "svc-1", "key-mk-test")
    assert (record.status, record.ended, record.estimated) == (200, "complete", False)
    assert (record.prompt_tokens, record.completion_tokens) == (7, 3)


async def test_only_the_model_name_is_edited(client, upstream):
    body = b'{ "model" : "ep-1","messages":[], "temperature":1.0e-1 ,"z":{"model":"x"}, "seed":12345678901234567890 }'
    await client.ask(body)
    assert upstream.received[0].body == body.replace(b'"ep-1"', b'"up"')
    assert upstream.received[0].path == "/v1/chat/completions"
    assert "authorization" not in upstream.received[0].headers


async def test_a_stream_passes_byte_for_byte_without_the_usage_nobody_asked_for(client, upstream, gateway):
    upstream.script = streaming(delta("你"), delta("好"), USAGE_EVENT, DONE)
    answer = await client.ask(STREAM)
    assert answer.body == delta("你") + delta("好") + DONE
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert upstream.received[0].json["stream_options"] == {"include_usage": True}
    [record] = gateway.records()
    assert (record.prompt_tokens, record.completion_tokens, record.estimated) == (5, 2, False)


async def test_usage_asked_for_is_kept_and_the_body_is_not_touched(client, upstream):
    upstream.script = streaming(delta("a"), USAGE_EVENT, DONE)
    asked = {**STREAM, "stream_options": {"include_usage": True}}
    answer = await client.ask(asked)
    assert answer.body == delta("a") + USAGE_EVENT + DONE
    assert upstream.received[0].json == {**asked, "model": "up"}


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None, "other": 1}])
async def test_other_stream_options_gain_include_usage(client, upstream, options):
    upstream.script = streaming(USAGE_EVENT, DONE)
    answer = await client.ask({**STREAM, "stream_options": options})
    assert answer.body == DONE
    assert upstream.received[0].json["stream_options"] == {**(options or {}), "include_usage": True}


async def test_a_stream_without_usage_is_estimated(client, upstream, gateway):
    upstream.script = streaming(delta("a"), delta("b"), DONE)
    await client.ask(STREAM)
    [record] = gateway.records()
    assert record.estimated
    assert record.completion_tokens >= 2


async def test_a_stream_arrives_event_by_event(client, upstream):
    go_on = asyncio.Event()

    async def script(received, line):
        await line.send(STREAM_HEAD + chunk(delta("first")))
        await go_on.wait()
        await line.send(chunk(DONE) + chunk(b""))

    upstream.script = script
    await client.send(request(STREAM))
    assert (await client.read_head())[0] == 200
    assert await client.read_chunk() == delta("first")
    go_on.set()
    assert await client.read_chunk() == DONE


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_json", None),
        (b"[]", 400, "invalid_json", None),
        (b'{"model":"ep-1",}', 400, "invalid_json", None),
        (b"", 400, "invalid_json", None),
        (b"\xff\xfe", 400, "invalid_json", None),
        (b'{"model":"\xff"}', 400, "invalid_json", "model"),
        (b'{"model":"ep-1","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_json", None),
        (b'{"messages":[]}', 400, "invalid_request", "model"),
        (b'{"model":null}', 400, "invalid_request", "model"),
        (b'{"model":3}', 400, "invalid_request", "model"),
        (b'{"model":"nope"}', 404, "model_not_found", "model"),
        (b'{"model":"ep-1","stream":"yes"}', 400, "invalid_request", "stream"),
        (b'{"model":"ep-1","stream":true,"stream_options":3}', 400, "invalid_request", "stream_options"),
    ],
)
async def test_a_bad_body_is_refused_by_name_and_the_connection_goes_on(
    client, upstream, gateway, body, status, code, param
):
    answer = await client.ask(body)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert upstream.received == []
    assert gateway.records() == []
    assert (await client.ask(CHAT)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "key", "status", "code"),
    [
        ("POST", "/v1/nothing", "", "mk-test", 404, "path_not_found"),
        ("POST", "/api/v3/chat", "", "mk-test", 404, "NotFound"),
        ("GET", "/v1/chat/completions", "", "mk-test", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", "", "mk-test", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", "", None, 401, "invalid_api_key"),
        ("POST", "/v1/chat/completions", "", "mk-other", 401, "invalid_api_key"),
        ("POST", "/v1/nothing", "", None, 404, "path_not_found"),
        ("GET", "/v1/models", "", None, 401, "invalid_api_key"),
    ],
)
async def test_the_order_of_refusal(client, method, path, headers, key, status, code):
    answer = await client.ask(CHAT if method == "POST" else None, path, method=method, key=key, headers=headers)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-request-id"]
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if status == 405:
        assert "allow" in answer.headers


async def test_another_content_type_is_refused(client):
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer mk-test\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"
    )
    answer = await client.read_answer()
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


async def test_keys_expire_are_confined_and_disabled(client, gateway):
    gateway.rows(key_row(expires_at=1.0))
    assert (await client.ask(CHAT)).status == 401
    gateway.rows(key_row(enabled=False))
    assert (await client.ask(CHAT)).status == 401
    gateway.rows(key_row(endpoints=("ep-2",)))
    assert (await client.ask(CHAT)).error["code"] == "model_not_found"
    gateway.rows(key_row(endpoints=("ep-1",)))
    assert (await client.ask(CHAT)).status == 200
    assert (await client.ask({**CHAT, "model": "elsewhere"})).status == 404
    gateway.rows(key_row(project="other"))
    assert (await client.ask(CHAT)).status == 404


async def test_a_model_is_found_by_service_name_and_by_served_name(client, gateway, upstream):
    for name in ("elsewhere", "up", "svc-1"):
        assert (await client.ask({**CHAT, "model": name})).status == 200
    gateway.rows(service_row(upstream.address, id="svc-2", name="twin"))
    answer = await client.ask({**CHAT, "model": "up"})
    assert (answer.status, answer.error["code"]) == (400, "ambiguous_model")
    assert "svc-1" in answer.error["message"]
    gateway.rows(service_row(upstream.address, direct_access=False))
    assert (await client.ask({**CHAT, "model": "elsewhere"})).status == 404
    assert (await client.ask(CHAT)).status == 200


async def test_a_stopped_endpoint_and_a_missing_type_say_so(client, gateway, upstream):
    gateway.rows(endpoint_row(enabled=False))
    assert (await client.ask(CHAT)).error["code"] == "endpoint_stopped"
    gateway.rows(endpoint_row(), service_row(upstream.address, types=("embedding",)))
    answer = await client.ask(CHAT)
    assert (answer.status, answer.error["code"]) == (400, "unsupported_type")


async def test_a_service_without_replica_answers_503_with_its_reason(client, gateway):
    gateway.rows(service_row([], state="starting", reason="loading the model"))
    answer = await client.ask(CHAT)
    assert (answer.status, answer.error["code"]) == (503, "service_not_ready")
    assert "loading the model" in answer.error["message"]
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["x-should-retry"] == "true"


async def test_weights_choose_among_services_and_a_dead_one_is_passed_over(client, gateway, upstream):
    other = ScriptedUpstream()
    await other.start()
    targets = (TargetEntry("svc-1", 1), TargetEntry("svc-2", 1))
    gateway.rows(service_row(other.address, id="svc-2", name="twin"), endpoint_row(targets=targets))
    for _ in range(40):
        assert (await client.ask(CHAT)).status == 200
    assert len(upstream.received) > 5
    assert len(other.received) > 5
    gateway.rows(service_row([], id="svc-2", name="twin"))
    seen = len(other.received)
    for _ in range(10):
        assert (await client.ask(CHAT)).status == 200
    assert len(other.received) == seen
    await other.stop()


async def test_a_replica_that_refuses_connections_is_passed_over(client, gateway, upstream):
    closed = ScriptedUpstream()
    await closed.start()
    await closed.stop()
    gateway.rows(service_row([closed.address, upstream.address]))
    for _ in range(5):
        assert (await client.ask(CHAT)).status == 200


async def test_an_unreachable_service_is_502_and_journalled(client, gateway, upstream):
    await upstream.stop()
    answer = await client.ask(CHAT)
    assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
    [record] = gateway.records()
    assert (record.status, record.ended, record.completion_tokens) == (502, "error", 0)


async def test_the_keep_alive_race_is_retried_once(client, upstream):
    async def answer_then_close(received, line):
        await line.send(json_response(chat_answer()))
        line.writer.close()

    upstream.script = answer_then_close
    for _ in range(5):
        assert (await client.ask(CHAT)).status == 200


async def test_a_broken_stream_ends_with_an_error_event(client, upstream, gateway):
    async def script(received, line):
        await line.send(STREAM_HEAD + chunk(delta("a")))
        line.reset()

    upstream.script = script
    answer = await client.ask(STREAM)
    first, last, rest = answer.body.split(b"\n\n")
    assert (first + b"\n\n", rest) == (delta("a"), b"")
    assert json.loads(last[6:])["error"]["code"] == "upstream_failed"
    [record] = gateway.records()
    assert (record.ended, record.estimated) == ("error", True)
    assert (await client.ask({**CHAT, "model": "nope"})).status == 404


async def test_an_answer_cut_short_is_502(client, upstream):
    async def script(received, line):
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        line.reset()

    upstream.script = script
    assert (await client.ask(CHAT)).status == 502


async def test_an_answer_without_length_ends_with_its_connection(client, upstream):
    async def script(received, line):
        await line.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(chat_answer()).encode()
        )
        line.writer.close()

    upstream.script = script
    assert (await client.ask(CHAT)).json == chat_answer()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"not HTTP at all\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_json_is_502(client, upstream, answer):
    async def script(received, line):
        await line.send(answer)

    upstream.script = script
    for asked in (CHAT, STREAM):
        assert (await asyncio.wait_for(client.ask(asked), 3)).status == 502
    upstream.script = type(upstream)().script
    assert (await client.ask(CHAT)).status == 200


async def test_informational_answers_are_skipped(client, upstream):
    async def script(received, line):
        await line.send(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + json_response(chat_answer())
        )

    upstream.script = script
    for _ in range(2):
        assert (await client.ask(CHAT)).json == chat_answer()


async def test_bytes_behind_an_answer_never_reach_the_next_caller(client, upstream):
    async def script(received, line):
        await line.send(json_response(chat_answer("mine")) + json_response(chat_answer("stolen")))

    upstream.script = script
    for _ in range(3):
        assert (await client.ask(CHAT)).json == chat_answer("mine")
    assert len({received.connection for received in upstream.received}) == 3


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (400, b'{"error":{"message":"bad n","type":"BadRequestError","param":"n","code":400}}', 400, 400),
        (400, b'{"detail":"nope"}', 400, "invalid_request"),
        (422, b"<html>", 422, "invalid_request"),
        (401, b'{"error":{"message":"bad key","type":"x"}}', 502, "upstream_failed"),
        (403, b"", 502, "upstream_failed"),
        (404, b'{"detail":"Not Found"}', 404, "upstream_not_found"),
        (429, b"slow down", 429, "upstream_rate_limited"),
        (500, b"<html>oops</html>", 502, "upstream_error"),
        (503, b'{"error":"loading"}', 503, "unavailable"),
        (302, b"", 502, "upstream_error"),
    ],
)
async def test_an_upstreams_errors_keep_their_meaning(client, upstream, gateway, status, body, expected, code):
    async def script(received, line):
        await line.send(json_response(body, status, "Retry-After: 7\r\nSet-Cookie: a=b\r\nLocation: /x\r\n"))

    upstream.script = script
    for asked in (CHAT, STREAM):
        answer = await client.ask(asked)
        assert (answer.status, answer.error["code"]) == (expected, code)
        assert "set-cookie" not in answer.headers
        assert "location" not in answer.headers
        if expected in (429, 503):
            assert answer.headers["retry-after"] == "7"
    assert [record.ended for record in gateway.records()] == ["error", "error"]


async def test_the_engine_is_told_at_once_when_the_caller_leaves_a_stream(client, upstream, gateway):
    left = asyncio.Event()

    async def script(received, line):
        await line.send(STREAM_HEAD + chunk(delta("a")))
        await line.closed.wait()
        left.set()

    upstream.script = script
    await client.send(request(STREAM))
    await client.read_head()
    client.reset()
    await asyncio.wait_for(left.wait(), 2)
    await until(lambda: not gateway.parts.connections)
    [record] = gateway.records()
    assert (record.ended, record.status, record.estimated) == ("aborted", 200, True)


async def test_the_engine_is_told_when_the_caller_leaves_before_the_answer(client, upstream, gateway):
    left = asyncio.Event()

    async def script(received, line):
        await line.closed.wait()
        left.set()

    upstream.script = script
    await client.send(request(CHAT))
    await until(lambda: upstream.received)
    client.reset()
    await asyncio.wait_for(left.wait(), 2)
    await until(lambda: not gateway.parts.connections)
    [record] = gateway.records()
    assert (record.ended, record.status) == ("aborted", 499)


async def test_a_slow_reader_slows_the_engine_and_loses_nothing(client, upstream):
    piece = delta("x" * 10_000)
    sent = 0

    async def script(received, line):
        nonlocal sent
        line.writer.transport.set_write_buffer_limits(high=1 << 16)
        await line.send(STREAM_HEAD)
        for _ in range(3000):
            await line.send(chunk(piece))
            sent += 1
        await line.send(chunk(DONE) + chunk(b""))

    upstream.script = script
    client.reader._limit = 1 << 16  # asyncio stops reading at twice this
    await client.send(request(STREAM))
    await client.read_head()
    before = -1
    while before != sent:  # until nothing moves any more
        before = sent
        await asyncio.sleep(0.2)
    assert sent < 3000
    total = b""
    while got := await client.read_chunk():
        total += got
    assert total == piece * 3000 + DONE
    assert (await asyncio.wait_for(client.ask({**CHAT, "model": "nope"}), 5)).status == 404


async def test_embeddings_and_completions_have_their_own_paths(client, upstream):
    await client.ask({"model": "ep-1", "input": "a"}, "/v1/embeddings")
    await client.ask({"model": "ep-1", "prompt": "a"}, "/v1/completions")
    assert [received.path for received in upstream.received] == ["/v1/embeddings", "/v1/completions"]


async def test_tokenize_reaches_the_root_of_another_service(client, upstream):
    await client.ask({"model": "ep-1", "prompt": "a"}, "/tokenize")
    await client.ask({"model": "ep-1", "tokens": [1]}, "/v1/detokenize")
    assert [received.path for received in upstream.received] == ["/tokenize", "/detokenize"]


async def test_the_upstream_key_is_sent_and_the_callers_is_not(client, upstream, gateway):
    from mooring.core.snapshot import ReplicaEntry

    gateway.rows(service_row([], replicas=(ReplicaEntry("r", upstream.address, "sk-up", True),)))
    await client.ask(CHAT)
    assert upstream.received[0].headers["authorization"] == "Bearer sk-up"


async def test_models_lists_what_this_key_may_call(client, gateway):
    answer = await client.ask(None, "/v1/models", method="GET")
    assert [model["id"] for model in answer.json["data"]] == ["ep-1", "elsewhere"]
    assert answer.json["data"][0]["max_model_len"] == 2048
    for name in ("ep-1", "elsewhere", "up"):
        assert (await client.ask(None, f"/v1/models/{name}", method="GET")).json["id"] == name
    assert (await client.ask(None, "/v1/models/x%2Fy", method="GET")).status == 404
    gateway.rows(key_row(endpoints=()))
    assert (await client.ask(None, "/v1/models", method="GET")).json["data"] == []


async def test_health_and_openapi_are_open_and_answer_head(client):
    for path in ("/health", "/openapi.json"):
        answer = await client.ask(None, path, method="GET", key=None)
        assert answer.status == 200
        await client.send(request(None, path, method="HEAD", key=None))
        head = await client.read_answer(head_only=True)
        assert (head.status, head.headers["content-length"]) == (200, str(len(answer.body)))


async def test_without_a_snapshot_everything_says_503(tmp_path):
    running = RunningGateway(tmp_path)
    await running.start()
    raw = await RawClient.open(running.port)
    for asked in ((CHAT,), (None, "/health")):
        answer = await raw.ask(*asked, method="POST" if asked[0] else "GET")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    raw.close()
    await running.stop()


async def test_the_callers_request_id_comes_back(client):
    answer = await client.ask(CHAT, headers="X-Client-Request-Id: abc\x01 1\r\n".replace("\x01", ""))
    assert answer.headers["x-client-request-id"] == "abc1"


async def test_a_timeout_of_the_engine_is_504(tmp_path, upstream):
    async def script(received, line):
        await line.closed.wait()

    upstream.script = script
    running = RunningGateway(tmp_path, first_byte_timeout_s=0.1)
    await running.start(key_row(), service_row(upstream.address), endpoint_row())
    raw = await RawClient.open(running.port)
    answer = await asyncio.wait_for(raw.ask(CHAT), 8)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    raw.close()
    await running.stop()


async def test_ten_thousand_requests_leave_nothing_behind(gateway, upstream):
    import resource

    async def many(count):
        raw = await RawClient.open(gateway.port)
        for number in range(count):
            answer = await raw.ask(CHAT if number % 10 else {**CHAT, "model": "nope"})
            assert answer.status in (200, 404)
        raw.close()

    await asyncio.gather(*(many(50) for _ in range(8)))
    gateway.records()
    open_before = upstream.open
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await asyncio.gather(*(many(1200) for _ in range(8)))
    await until(lambda: not gateway.parts.connections)
    assert gateway.parts.body_bytes == 0
    assert upstream.open <= open_before + 8
    assert all(
        replica.in_flight == 0 for service in gateway.parts.table.services.values() for replica in service.replicas
    )
    assert len({record.request_id for record in gateway.records()}) == 8 * 1080
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 30_000  # KiB, the test's own lists included


async def test_who_writes_an_endpoints_name_is_told_its_id(client):
    answer = await client.ask({**CHAT, "model": "chat"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert "ep-1" in answer.error["message"]


async def test_a_disabled_service_says_so(client, gateway, upstream):
    gateway.rows(service_row(upstream.address, enabled=False))
    answer = await client.ask(CHAT)
    assert (answer.status, answer.error["code"]) == (400, "service_disabled")


async def test_an_endpoint_advertises_the_smallest_context_behind_it(client, gateway, upstream):
    targets = (TargetEntry("svc-1", 9), TargetEntry("svc-2", 1))
    gateway.rows(
        service_row(upstream.address, id="svc-2", name="small", context_length=512), endpoint_row(targets=targets)
    )
    assert (await client.ask(None, "/v1/models/ep-1", method="GET")).json["max_model_len"] == 512
