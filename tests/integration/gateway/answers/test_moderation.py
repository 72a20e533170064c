"""What callers see when a text is not let through: each dialect's own signal (CONTRACT §6), with a scripted checker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mooring.testing.gateway import endpoint_row, service_row
from mooring.testing.moderation import ScriptedChecker
from mooring.testing.upstream import STREAM_HEAD, chat_answer, chunk, delta, json_response

PATHS = {
    "openai": "/v1/chat/completions",
    "ark": "/api/v3/chat/completions",
    "modelarts": "/v1/infers/svc-1/v1/chat/completions",
    "genstudio": "/maas/up/cpu/chat/completions",
    "cluster": "/api/v1/namespaces/default/services/modelservice-elsewhere:http/proxy/v1/chat/completions",
}
WHOLE = {  # dialect → status, then what tells it
    "openai": (200, None),
    "cluster": (200, None),
    "genstudio": (200, None),
    "ark": (400, "OutputTextSensitiveContentDetected"),
    "modelarts": (403, "ModelArts.4910"),
}


@pytest.fixture(autouse=True)
def watched(gateway, upstream):
    """Everything is checked for two words."""
    gateway.parts.checker = ScriptedChecker("secret", "禁止")
    gateway.rows(service_row(upstream.address, moderation=True))


def body(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "ep-1", "messages": [{"role": "user", "content": text}], **more}


def streaming(*pieces: bytes):
    async def script(received, line):
        await line.send(STREAM_HEAD)
        for piece in pieces:
            await line.send(chunk(piece))
        await line.closed.wait()  # the gateway ends it: nobody waits for the rest

    return script


def whole(text: str):
    async def script(received, line):
        await line.send(json_response(chat_answer(text)))

    return script


def events(answer: Any) -> list[Any]:
    payloads = [event.removeprefix("data: ") for event in answer.body.decode().split("\n\n") if event]
    assert payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


def code_of(answer: Any) -> str:
    return answer.json.get("error_code") or answer.json["error"]["code"]


@pytest.mark.parametrize(
    ("dialect", "status", "code"),
    [
        ("openai", 400, "content_filter"),
        ("cluster", 400, "content_filter"),
        ("ark", 400, "InputTextSensitiveContentDetected"),
        ("modelarts", 403, "ModelArts.4910"),
    ],
)
@pytest.mark.parametrize(
    "told", [body("a secret"), body(stream=True, tools=[]) | {"messages": [{"content": [{"text": "禁止"}]}]}]
)
async def test_an_input_hit_is_refused_and_nothing_is_asked(client, upstream, gateway, told, dialect, status, code):
    answer = await client.ask(told, PATHS[dialect])
    assert (answer.status, code_of(answer)) == (status, code)
    assert answer.headers["x-should-retry"] == "false"
    assert upstream.received == []
    assert gateway.records() == []


async def test_an_input_hit_on_genstudio_is_an_empty_answer(client, upstream):
    answer = await client.ask(body("a secret"), PATHS["genstudio"])
    choice = answer.json["choices"][0]
    assert (answer.status, answer.json["blocked"], choice["message"]["content"]) == (200, True, "")
    [last] = events(await client.ask(body("a secret", stream=True), PATHS["genstudio"]))
    assert (last["blocked"], last["object"], last["choices"][0]["delta"]) == (True, "chat.completion.chunk", {})
    assert upstream.received == []


@pytest.mark.parametrize("dialect", PATHS)
async def test_an_output_hit_in_a_whole_answer(client, upstream, gateway, dialect):
    upstream.script = whole("this is secret")
    answer = await client.ask(body(), PATHS[dialect])
    status, code = WHOLE[dialect]
    assert answer.status == status
    assert b"this is" not in answer.body
    if code is not None:
        assert code_of(answer) == code
    else:
        choice = answer.json["choices"][0]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", "")
        assert answer.json.get("blocked") == (True if dialect == "genstudio" else None)
    [record] = gateway.records()  # the tokens were made: they count
    assert (record.ended, record.completion_tokens, record.status) == ("complete", 3, status)


@pytest.mark.parametrize("dialect", PATHS)
async def test_an_output_hit_in_a_stream_is_its_end(client, upstream, gateway, dialect):
    upstream.script = streaming(delta("this "), delta("is se"), delta("cr"), delta("et and more"), delta("never"))
    told = events(await client.ask(body(stream=True), PATHS[dialect]))
    said = "".join(one["choices"][0].get("delta", {}).get("content", "") for one in told)
    assert said == "this is "
    last = told[-1]["choices"][0]
    assert last["finish_reason"] == "content_filter"
    assert last.get("delta") == (None if dialect == "modelarts" else {})
    assert told[-1].get("blocked") == (True if dialect == "genstudio" else None)
    assert gateway.records()[0].ended == "complete"
    upstream.script = whole("fine")
    assert (await client.ask(body(), PATHS[dialect])).status == 200  # the connection goes on


async def test_text_is_kept_only_while_a_match_is_open(client, upstream):
    pieces = [delta("se"), delta("ntence, "), delta("sec"), delta("ond", finish_reason=None)]
    over = json.loads(delta("")[6:]) | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}

    async def script(received, line):
        await line.send(STREAM_HEAD)
        for piece in [*pieces, delta("se"), b"data: " + json.dumps(over).encode() + b"\n\n", b"data: [DONE]\n\n"]:
            await line.send(chunk(piece))
        await line.send(chunk(b""))

    upstream.script = script
    told = events(await client.ask(body(stream=True)))
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in told) == "sentence, secondse"
    assert told[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("service", "endpoint", "checked"),
    [
        ({"moderation": None}, {}, False),  # what runs elsewhere is its owner's
        ({"moderation": None, "external": False, "engine": "vllm"}, {}, True),
        ({"moderation": True}, {"moderation": False}, False),
        ({"moderation": False}, {"moderation": True}, True),
    ],
)
async def test_who_decides_whether_it_is_checked(client, upstream, gateway, service, endpoint, checked):
    gateway.rows(service_row(upstream.address, **service), endpoint_row(**endpoint))
    assert (await client.ask(body("a secret"))).status == (400 if checked else 200)
