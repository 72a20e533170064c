"""Messages and Responses of services that speak them pass byte for byte and are metered; others are asked otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mooring.testing.upstream import STREAM_HEAD, chat_answer, chunk, delta, json_response

HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "messages": {"model": "ep-1", "max_tokens": 9, "messages": HI, "container": "theirs alone"},
    "responses": {"model": "ep-1", "input": "hi", "tools": [{"type": "web_search"}]},
}
WHOLE: dict[str, dict[str, Any]] = {
    "messages": {"type": "message", "id": "m", "usage": {"input_tokens": 5, "output_tokens": 2}},
    "responses": {"object": "response", "id": "r", "usage": {"input_tokens": 5, "output_tokens": 2}},
}


def event(told: dict[str, Any]) -> bytes:
    return f"event: {told['type']}\ndata: {json.dumps(told)}\n\n".encode()


STREAMS = {
    "messages": [
        event({"type": "message_start", "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 2}}}),
        event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "你好"}}),
        event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}),
        event({"type": "message_stop"}),
    ],
    "responses": [
        event({"type": "response.created", "response": {"id": "r"}}),
        event({"type": "response.output_text.delta", "delta": "你好"}),
        event({"type": "response.completed", "response": {"usage": {"input_tokens": 5, "output_tokens": 2}}}),
    ],
}


def lessons(gateway: Any) -> frozenset[str]:
    return gateway.parts.lessons.of(gateway.parts.table.services["svc-1"].entry)


@pytest.mark.parametrize("api", ASKED)
async def test_what_the_service_speaks_passes_as_it_is(client, upstream, gateway, api):
    async def script(received, line):
        await line.send(json_response(WHOLE[api]))

    upstream.script = script
    answer = await client.ask(ASKED[api], f"/v1/{api}")
    assert (answer.status, answer.json) == (200, WHOLE[api])
    assert (upstream.received[0].path, upstream.received[0].json) == (f"/v1/{api}", {**ASKED[api], "model": "up"})
    [record] = gateway.records()
    told = (record.operation, record.prompt_tokens, record.completion_tokens, record.estimated)
    assert told == (api, 5, 2, False)


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("api", ASKED)
async def test_its_streams_pass_byte_for_byte_however_they_are_cut(client, upstream, gateway, api, step):
    data = b"".join(STREAMS[api])

    async def script(received, line):
        await line.send(STREAM_HEAD + b"".join(chunk(data[at : at + step]) for at in range(0, len(data), step)))
        await line.send(chunk(b""))

    upstream.script = script
    answer = await client.ask({**ASKED[api], "stream": True}, f"/v1/{api}")
    assert answer.body == data
    [record] = gateway.records()
    assert (record.ended, record.prompt_tokens, record.completion_tokens) == ("complete", 5, 2)
    assert lessons(gateway) == frozenset()


@pytest.mark.parametrize("api", ASKED)
@pytest.mark.parametrize("broken", [b"", event({"type": "error", "error": {"message": "overloaded"}})])
async def test_a_stream_that_does_not_end_as_it_should_is_never_a_silent_cut(client, upstream, gateway, api, broken):
    async def script(received, line):
        await line.send(STREAM_HEAD + chunk(b"".join(STREAMS[api][:2])) + chunk(broken or b"event: x\n") + chunk(b""))

    upstream.script = script
    answer = await client.ask({**ASKED[api], "stream": True}, f"/v1/{api}")
    assert answer.body.startswith(b"".join(STREAMS[api][:2]))
    last = json.loads(answer.body.strip().rpartition(b"data: ")[2])
    assert ("overloaded" if broken else "broke off") in last["error"]["message"]
    assert gateway.records()[0].ended == "error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ASKED)
async def test_a_service_without_the_path_is_asked_for_a_chat_and_that_is_learnt(
    client, upstream, gateway, api, stream
):
    async def script(received, line):
        if not received.path.endswith("/chat/completions"):
            await line.send(json_response({"detail": "Not Found"}, 404))
        elif stream:
            over = delta("").replace(b'"finish_reason": null', b'"finish_reason": "stop"')
            await line.send(STREAM_HEAD + chunk(delta("a")) + chunk(over) + chunk(b"data: [DONE]\n\n") + chunk(b""))
        else:
            await line.send(json_response(chat_answer("a")))

    upstream.script = script
    asked = {name: value for name, value in ASKED[api].items() if name not in ("tools", "container")}
    for _ in range(2):
        assert (await client.ask({**asked, "stream": stream}, f"/v1/{api}")).status == 200
    paths = [one.path for one in upstream.received if one.path != "/tokenize"]
    assert paths == [f"/v1/{api}", "/v1/chat/completions", "/v1/chat/completions"]
    assert f"{api}_translated" in lessons(gateway)
    assert [(one.operation, one.ended) for one in gateway.records()] == [(api, "complete")] * 2


async def test_a_model_that_is_not_there_teaches_nothing(client, upstream, gateway):
    async def script(received, line):
        await line.send(json_response({"error": {"message": "no such model", "type": "not_found"}}, 404))

    upstream.script = script
    answer = await client.ask({"model": "ep-1", "input": "hi"}, "/v1/responses")
    assert (answer.status, answer.error["message"].startswith("no such model")) == (404, True)
    assert lessons(gateway) == frozenset()


async def test_what_a_chat_can_not_do_is_refused_once_the_service_has_no_such_path(client, upstream):
    async def script(received, line):
        await line.send(json_response({"detail": "Not Found"}, 404))

    upstream.script = script
    answer = await client.ask(ASKED["responses"], "/v1/responses")
    assert (answer.status, answer.error["param"]) == (400, "tools.0")
