"""Messages and Responses through a running gateway: their errors, their records, services that answer oddly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mooring.testing.gateway import service_row
from mooring.testing.moderation import ScriptedChecker
from mooring.testing.upstream import STREAM_HEAD, chat_answer, chunk, delta, json_response

HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "messages": {"model": "ep-1", "max_tokens": 9, "messages": HI},
    "responses": {"model": "ep-1", "input": "hi"},
}
USAGE = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"up","choices":[],"usage":%b}\n\n'
TOLD = USAGE % b'{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}'
OVER = delta("").replace(b'"finish_reason": null', b'"finish_reason": "stop"')
NEEDED = ("responses_translated", "messages_translated")
DONE = b"data: [DONE]\n\n"
LAST = {"messages": "message_stop", "responses": "response.completed"}


@pytest.fixture(autouse=True)
def chats_only(gateway, upstream):
    """The service is known to have neither API."""
    gateway.rows(service_row(upstream.address, repairs=NEEDED))


def streaming(*pieces: bytes):
    async def script(received, line):
        await line.send(STREAM_HEAD)
        for piece in pieces:
            await line.send(chunk(piece))
        await line.send(chunk(b""))

    return script


def kinds(answer: Any) -> list[str]:
    return [event.partition("\n")[0].removeprefix("event: ") for event in answer.body.decode().split("\n\n") if event]


@pytest.mark.parametrize("api", ASKED)
async def test_a_call_is_a_chat_there_and_itself_here(client, upstream, gateway, api):
    answer = await client.ask(ASKED[api], f"/v1/{api}")
    assert answer.status == 200
    assert (upstream.received[0].path, upstream.received[0].json["messages"]) == ("/v1/chat/completions", HI)
    upstream.script = streaming(delta("a"), OVER, TOLD, DONE)
    streamed = await client.ask({**ASKED[api], "stream": True}, f"/v1/{api}")
    assert kinds(streamed)[-1] == LAST[api]
    records = gateway.records()
    assert [(one.operation, one.dialect, one.ended) for one in records] == [(api, "openai", "complete")] * 2
    assert [(one.prompt_tokens, one.completion_tokens) for one in records] == [(7, 3), (5, 2)]


@pytest.mark.parametrize("api", ASKED)
async def test_a_service_that_refuses_stream_options_is_asked_without(client, upstream, api):
    async def script(received, line):
        if "stream_options" in received.json:
            await line.send(json_response({"error": {"message": "unknown field stream_options", "type": "x"}}, 400))
        else:
            await streaming(delta("a"), OVER, DONE)(received, line)

    upstream.script = script
    for _ in range(2):
        assert kinds(await client.ask({**ASKED[api], "stream": True}, f"/v1/{api}"))[-1] == LAST[api]
    asked = [one for one in upstream.received if one.path != "/tokenize"]
    assert ["stream_options" in one.json for one in asked] == [True, False, False]


@pytest.mark.parametrize("api", ASKED)
async def test_a_stream_that_fails_ends_with_the_apis_own_error(client, upstream, gateway, api):
    for broken in (b'data: {"error":{"message":"out of memory"}}\n\n', b'data: {"cho'):
        upstream.script = streaming(delta("a"), broken)
        told = kinds(await client.ask({**ASKED[api], "stream": True}, f"/v1/{api}"))
        assert told[-1] == {"messages": "error", "responses": "response.failed"}[api]
    assert [one.ended for one in gateway.records()] == ["error"] * 2


async def test_refusals_are_anthropics_on_messages_whoever_refuses(client, upstream):
    async def script(received, line):
        await line.send(json_response({"error": {"message": "slow down", "type": "rate"}}, 429))

    upstream.script = script
    for body, status, kind in (
        (ASKED["messages"], 429, "rate_limit_error"),
        ({**ASKED["messages"], "model": "nope"}, 404, "not_found_error"),
        ({"model": "ep-1", "messages": HI}, 400, "invalid_request_error"),
    ):
        answer = await client.ask(body, "/v1/messages")
        assert (answer.status, answer.json["type"], answer.error["type"]) == (status, "error", kind)
        assert answer.json["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(("key", "status"), [("mk-test", 200), ("mk-no", 401)])
async def test_the_key_may_stand_where_anthropics_clients_put_it(client, key, status):
    headers = f"x-api-key: {key}\r\n"
    assert (await client.ask(ASKED["messages"], "/v1/messages", key=None, headers=headers)).status == status
    elsewhere = await client.ask(ASKED["responses"], "/v1/responses", key=None, headers=headers)
    assert elsewhere.status == 401


async def test_tokens_are_counted_by_the_service(client, upstream, gateway):
    async def script(received, line):
        assert received.json["messages"] == HI
        await line.send(json_response({"count": 5, "tokens": [1, 2, 3, 4, 5]}))

    upstream.script = script
    answer = await client.ask({"model": "ep-1", "messages": HI}, "/v1/messages/count_tokens")
    assert (answer.status, answer.json) == (200, {"input_tokens": 5})
    assert gateway.records() == []


async def test_what_is_not_let_through_reads_as_a_refusal(client, upstream, gateway):
    gateway.parts.checker = ScriptedChecker("secret")
    gateway.rows(service_row(upstream.address, moderation=True))

    async def script(received, line):
        await line.send(json_response(chat_answer("a secret")))

    upstream.script = script
    answer = await client.ask(ASKED["messages"], "/v1/messages")
    assert (answer.json["stop_reason"], b"secret" in answer.body) == ("refusal", False)
    upstream.script = streaming(delta("a sec"), delta("ret"), OVER, DONE)
    streamed = await client.ask({**ASKED["messages"], "stream": True}, "/v1/messages")
    assert b"secret" not in streamed.body
    reasons = [json.loads(line[6:])["delta"] for line in streamed.body.splitlines() if b'"message_delta"' in line[:30]]
    assert reasons[0]["stop_reason"] == "refusal"
