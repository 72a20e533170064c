"""Services elsewhere that answer oddly: what the caller gets, what is learnt, what is counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mooring.core.repairs import REPAIRS
from mooring.testing.raw_client import CHAT
from mooring.testing.upstream import STREAM_HEAD, chat_answer, chunk, delta, json_response

STREAM = {**CHAT, "stream": True}
ASKING = {**STREAM, "stream_options": {"include_usage": True}}
LINES_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
OVER = b'{"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]%b}\n'
USAGE = b',"usage":{"prompt_tokens":22,"total_tokens":40,"completion_tokens":18}'


def line_of(text: str) -> bytes:
    made = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return json.dumps(made, ensure_ascii=False).encode() + b"\n"


def saying(head: bytes, *pieces: bytes):
    async def script(received, line):
        await line.send(head)
        for piece in pieces:
            await line.send(chunk(piece))
        await line.send(chunk(b""))

    return script


def events(answer: Any) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    payloads = [event.removeprefix("data: ") for event in answer.body.decode().split("\n\n") if event]
    assert payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


def text_of(told: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for one in told for choice in one["choices"])


@pytest.mark.parametrize("head", [LINES_HEAD, STREAM_HEAD])
async def test_bare_json_lines_leave_as_events_as_they_come(client, upstream, gateway, head):
    upstream.script = saying(head, line_of("我是"), line_of("天权。")[:40], line_of("天权。")[40:], OVER % USAGE)
    told = events(await client.ask(ASKING))
    assert text_of(told) == "我是天权。"
    assert {one["object"] for one in told} == {"chat.completion.chunk"}
    assert told[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (told[-1]["choices"], told[-1]["usage"]["completion_tokens"]) == ([], 18)
    [record] = gateway.records()
    assert (record.prompt_tokens, record.completion_tokens, record.estimated) == (22, 18, False)
    learnt = gateway.parts.lessons.of(gateway.parts.table.services["svc-1"].entry)
    assert learnt == {"bare_json", "no_done", "envelope", "choices", "usage_place"}
    assert learnt <= REPAIRS.keys()


async def test_a_json_answer_to_a_stream_leaves_as_a_stream_and_the_reverse(client, upstream, gateway):
    upstream.script = saying(LINES_HEAD, json.dumps(chat_answer("好")).encode())
    told = events(await client.ask(ASKING))
    assert (text_of(told), told[-1]["usage"]["total_tokens"]) == ("好", 10)
    assert "json_for_stream" in gateway.parts.lessons.of(gateway.parts.table.services["svc-1"].entry)
    over = delta("").replace(b'"finish_reason": null', b'"finish_reason": "length"')
    upstream.script = saying(STREAM_HEAD, delta("a"), delta("b") + over, b"data: [DONE]\n\n")
    answer = await client.ask(CHAT)
    assert answer.headers["content-type"] == "application/json"
    choice = answer.json["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", "length")
    assert [record.ended for record in gateway.records()] == ["complete"] * 2


async def test_usage_that_nobody_told_is_estimated_first_and_counted_when_that_is_known(client, upstream, gateway):
    async def script(received, line):
        if received.path == "/tokenize":
            said = received.json
            await line.send(json_response({"count": 11 if "messages" in said else len(said["prompt"])}))
        else:
            await saying(STREAM_HEAD, delta("abc"), delta("de"), b"data: [DONE]\n\n")(received, line)

    upstream.script = script
    first = events(await client.ask(ASKING))[-1]["usage"]
    assert (first["completion_tokens"], first["estimated"]) == (2, True)
    second = events(await client.ask(ASKING))[-1]["usage"]
    assert second == {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    assert [record.estimated for record in gateway.records()] == [True, False]


async def test_a_service_without_a_tokenizer_is_asked_for_it_once(client, upstream, gateway):
    async def script(received, line):
        if received.path == "/tokenize":
            await line.send(json_response({"detail": "Not Found"}, 404))
        else:
            told = chat_answer("abc")
            del told["usage"]
            await line.send(json_response(told))

    upstream.script = script
    answers = [await client.ask(CHAT) for _ in range(3)]
    assert [answer.json["choices"][0]["message"]["content"] for answer in answers] == ["abc"] * 3
    assert [received.path for received in upstream.received].count("/tokenize") == 1
    assert {record.estimated for record in gateway.records()} == {True}


async def test_a_service_that_refuses_our_question_for_usage_is_asked_without(client, upstream, gateway):
    async def script(received, line):
        if "stream_options" in received.json:
            await line.send(json_response({"error": {"message": "unknown field stream_options", "type": "x"}}, 400))
        else:
            await saying(STREAM_HEAD, delta("a"), b"data: [DONE]\n\n")(received, line)

    upstream.script = script
    assert text_of(events(await client.ask(STREAM))) == "a"
    assert text_of(events(await client.ask(STREAM))) == "a"
    asked = [received.json for received in upstream.received if received.path != "/tokenize"]
    assert ["stream_options" in one for one in asked] == [True, False, False]
    refused = await client.ask(ASKING)  # who asks for it himself hears what the service says
    assert (refused.status, refused.error["message"]) == (400, "unknown field stream_options")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b'data: {"error":{"message":"out of memory","code":500}}\n\n', "out of memory"),
        (b'event: error\ndata: {"message":"boom"}\n\n', "boom"),
        (b'{"error":"gone"}\n', "gone"),
    ],
)
async def test_an_error_in_a_stream_is_its_end(client, upstream, gateway, said, message):
    upstream.script = saying(STREAM_HEAD, delta("a"), said, delta("never"))
    answer = await client.ask(STREAM)
    assert answer.body.startswith(delta("a"))
    *_, last = [event for event in answer.body.split(b"\n\n") if event]
    assert message in json.loads(last.removeprefix(b"data: "))["error"]["message"]
    assert b"never" not in answer.body
    [record] = gateway.records()
    assert (record.ended, record.status) == ("error", 200)


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b"{broken", b"[1,2", b"[]"])
async def test_an_answer_that_is_no_json_is_a_clear_502(client, upstream, body):
    async def script(received, line):
        await line.send(json_response(body))

    upstream.script = script
    for asked in (CHAT, STREAM):
        answer = await client.ask(asked)
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")


async def test_an_error_that_calls_itself_a_success_is_an_error(client, upstream, gateway):
    async def script(received, line):
        await line.send(json_response({"error": {"message": "quota used up", "code": 429}}))

    upstream.script = script
    answer = await client.ask(CHAT)
    assert (answer.status, answer.error["code"]) == (429, "upstream_rate_limited")
    assert gateway.records()[0].ended == "error"


async def test_a_whole_answer_without_usage_gets_one_that_is_counted_or_marked(client, upstream, gateway):
    async def script(received, line):
        if received.path == "/tokenize":
            await line.send(json_response({"count": 4}))
        else:
            told = chat_answer("abcdef")
            del told["usage"]
            await line.send(json_response(told))

    upstream.script = script
    first, second = [(await client.ask(CHAT)).json["usage"] for _ in range(2)]
    assert (first["completion_tokens"], first["estimated"]) == (2, True)
    assert second == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
    assert [(record.completion_tokens, record.estimated) for record in gateway.records()] == [(2, True), (4, False)]


async def test_one_bad_request_teaches_nothing_about_stream_options(client, upstream, gateway):
    async def script(received, line):
        quoted = {"detail": [{"msg": "bad messages", "input": received.json}]}  # as FastAPI quotes what it refuses
        await line.send(json_response(quoted, 422))

    upstream.script = script
    assert (await client.ask(STREAM)).status == 422
    assert gateway.parts.lessons.of(gateway.parts.table.services["svc-1"].entry) == frozenset()


async def test_a_stream_that_is_cut_off_behind_its_text_teaches_nothing(client, upstream, gateway):
    over = delta("").replace(b'"finish_reason": null', b'"finish_reason": "stop"')

    async def script(received, line):
        await line.send(STREAM_HEAD + chunk(delta("a")) + chunk(over))
        line.writer.close()

    upstream.script = script
    assert text_of(events(await client.ask(STREAM))) == "a"
    assert gateway.parts.lessons.of(gateway.parts.table.services["svc-1"].entry) == frozenset()
    assert gateway.records()[0].ended == "complete"


async def test_a_tokenizer_that_answers_nonsense_harms_nobody(client, upstream, gateway):
    async def script(received, line):
        if received.path == "/tokenize":
            await line.send(json_response(b'{"count":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))
        else:
            await saying(STREAM_HEAD, delta("abc"), b"data: [DONE]\n\n")(received, line)

    upstream.script = script
    for _ in range(3):
        assert events(await client.ask(ASKING))[-1]["usage"]["estimated"]
    assert [received.path for received in upstream.received].count("/tokenize") == 1


async def test_json_that_comes_slowly_for_a_stream_is_looked_at_once(client, upstream):
    body = json.dumps(chat_answer("x" * 3_000_000)).encode()
    upstream.script = saying(LINES_HEAD, *(body[at : at + 30_000] for at in range(0, len(body), 30_000)))
    assert len(text_of(events(await client.ask(STREAM)))) == 3_000_000


@pytest.mark.parametrize(
    ("put", "instead"), [(b'"created": 1', b'"created": 1e999'), (b'"hi"', b'"h\xff"'), (b'"up"', b'"u\xfe"')]
)
async def test_numbers_and_text_that_are_none_are_made_good(client, upstream, put, instead):
    async def script(received, line):
        await line.send(json_response(json.dumps(chat_answer()).encode().replace(put, instead)))

    upstream.script = script
    answer = await client.ask(CHAT)
    assert (answer.status, answer.json["choices"][0]["finish_reason"]) == (200, "stop")
    assert text_of(events(await client.ask(STREAM))).startswith("h")
