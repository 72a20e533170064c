"""Services that answer nonsense, and callers that mean harm: one request at most is lost, the next is unharmed."""

from __future__ import annotations

import asyncio
import json

import pytest

from mooring.core.snapshot import ReplicaEntry
from mooring.testing.gateway import RunningGateway, endpoint_row, key_row, service_row
from mooring.testing.raw_client import CHAT, RawClient, request
from mooring.testing.upstream import chat_answer, delta, json_response

STREAM = {**CHAT, "stream": True}
DEEP = b"[" * 100_000 + b"]" * 100_000
NO_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.fixture
def gateway_settings():
    return {"max_body_bytes": 100_000, "body_budget_bytes": 1 << 20, "head_timeout_s": 0.5, "idle_timeout_s": 60}


def says(answer: bytes, close: bool = False):
    async def script(received, line):
        await line.send(answer)
        if close:
            line.writer.close()

    return script


def usage(prompt, completion) -> bytes:
    return json_response({**chat_answer(), "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


@pytest.mark.parametrize("count", [2**63, 2**64 - 1, -5, 99999999999999999999])
async def test_a_count_that_can_not_be_is_not_recorded(client, upstream, gateway, count):
    upstream.script = says(usage(count, 3))
    assert (await asyncio.wait_for(client.ask(CHAT), 3)).status == 200
    [record] = gateway.records()
    assert (record.prompt_tokens, record.completion_tokens) in ((0, 3), (record.prompt_tokens, 0))
    assert 0 <= record.prompt_tokens < 2**40


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 429 X\r\nRetry-After: " + b"9" * 400 + b"\r\nContent-Length: 2\r\n\r\n{}",
        json_response(b'{"a":' + DEEP + b"}", 500),
        json_response(b'{"error":' + DEEP + b"}", 400),
        json_response(b"{}", 600),
        json_response(b"{}", 407),
    ],
)
async def test_an_error_made_to_break_us_is_an_error_and_no_more(client, upstream, gateway, answer):
    upstream.script = says(answer)
    assert (await asyncio.wait_for(client.ask(CHAT), 3)).status in (400, 429, 502)
    upstream.script = says(json_response(chat_answer()))
    assert (await asyncio.wait_for(client.ask(CHAT), 3)).status == 200
    assert (await asyncio.wait_for(client.ask(CHAT), 3)).status == 200


async def test_a_deeply_nested_answer_passes_and_is_estimated(client, upstream, gateway):
    upstream.script = says(json_response(b'{"a":' + DEEP + b"}"))
    assert (await asyncio.wait_for(client.ask(CHAT), 3)).status == 200
    assert gateway.records()[0].estimated


async def test_a_stream_that_ends_inside_an_event_is_broken(client, upstream, gateway):
    upstream.script = says(NO_LENGTH + delta("a") + b'data: {"cho', close=True)
    answer = await asyncio.wait_for(client.ask(STREAM), 3)
    assert answer.body.startswith(delta("a"))
    assert json.loads(answer.body.split(b"\n\n")[-2][6:])["error"]["code"] == "upstream_failed"
    assert gateway.records()[0].ended == "error"


async def test_a_stream_without_length_is_whole_when_it_has_said_why_it_ended(client, upstream, gateway):
    over = delta("b").replace(b'"finish_reason": null', b'"finish_reason": "stop"')
    upstream.script = says(NO_LENGTH + delta("a") + over, close=True)
    assert (await asyncio.wait_for(client.ask(STREAM), 3)).body == delta("a") + over + b"data: [DONE]\n\n"
    assert gateway.records()[0].ended == "complete"


async def test_a_stream_without_length_that_ends_between_events_is_broken(client, upstream, gateway):
    upstream.script = says(NO_LENGTH + delta("a"), close=True)
    answer = await asyncio.wait_for(client.ask(STREAM), 3)
    assert answer.body.startswith(delta("a"))
    assert json.loads(answer.body.split(b"\n\n")[-2][6:])["error"]["code"] == "upstream_failed"
    assert gateway.records()[0].ended == "error"


async def test_the_facts_of_an_informational_answer_are_forgotten(client, upstream):
    upstream.script = says(
        b"HTTP/1.1 103 Early\r\nContent-Length: 7\r\nContent-Encoding: gzip\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(chat_answer()).encode(),
        close=True,
    )
    assert (await asyncio.wait_for(client.ask(CHAT), 3)).json == chat_answer()


async def test_a_credential_quoted_by_the_service_is_masked(client, upstream, gateway):
    gateway.rows(service_row([], replicas=(ReplicaEntry("r", upstream.address, "sk-secret", True),)))
    upstream.script = says(json_response({"error": {"message": "Incorrect key: sk-secret", "type": "x"}}, 400))
    answer = await client.ask(CHAT)
    assert answer.status == 400
    assert b"sk-secret" not in answer.body


async def test_a_connection_that_has_not_taken_the_whole_request_is_not_used_again(tmp_path, upstream):
    running = RunningGateway(tmp_path)
    await running.start(key_row(), service_row([]), endpoint_row())

    over = asyncio.Event()
    handlers = []

    async def answer_early(reader, writer):
        handlers.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(json_response(chat_answer()))
        await over.wait()
        writer.close()

    server = await asyncio.start_server(answer_early, "127.0.0.1", 0, limit=1 << 12)
    running.rows(service_row(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"))
    raw = await RawClient.open(running.port)
    big = {**CHAT, "messages": [{"role": "user", "content": "x" * (20 << 20)}]}
    assert (await asyncio.wait_for(raw.ask(big), 10)).status == 200
    running.rows(service_row(upstream.address))
    assert (await asyncio.wait_for(raw.ask(CHAT), 1)).status == 200
    raw.close()
    over.set()
    await asyncio.gather(*handlers)
    server.close()
    await running.stop()


async def test_a_head_that_drips_is_timed_out_all_the_same(client):
    answer = asyncio.ensure_future(client.read_answer())
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nX-A: ")
    async with asyncio.timeout(9):
        while not answer.done():
            await client.send(b"a")
            await asyncio.sleep(0.05)
    assert (await answer).status == 408


async def test_a_known_head_does_not_get_round_the_limit_of_bodies(client, gateway):
    small, large = {**CHAT, "x": "a"}, {**CHAT, "x": "a" * 150_000}
    for _ in range(2):
        assert (await client.ask(small)).status == 200
    other = await RawClient.open(gateway.port)
    assert (await asyncio.wait_for(other.ask(large), 3)).status == 413
    other.close()
    assert (await client.ask(small)).status == 200


async def test_bodies_of_strangers_leave_room_for_callers(client, gateway):
    waiting = []
    for _ in range(12):
        raw = await RawClient.open(gateway.port)
        await raw.send(b"POST /nobody HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + b"x" * 60_000)
        await raw.send(b"x" * 20_000)
        waiting.append(raw)
    await client.send(request({**CHAT, "x": "a" * 80_000})[:50_000])
    await asyncio.sleep(0)
    await client.send(request({**CHAT, "x": "a" * 80_000})[50_000:])
    assert (await asyncio.wait_for(client.read_answer(), 3)).status == 200
    for raw in waiting:
        raw.reset()


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"ep-1","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"ep-1","messages":' + DEEP[90_000:110_000] + b"}",
        b'{"model":"ep-1","messages":[{}],"stream":true,"stream_options":{"a":"\xff"}}',
        b'{"model":"ep-1","messages":[{}],"tools":[{}]}',
        b'{"model":"ep-1","messages":[{}],"stop":true}',
        b'{"model":"ep-1","messages":[{}],"id_slot":0}',
        b'{"model":"ep-1","messages":[{}],"response_format":true}',
    ],
)
async def test_a_body_made_to_break_llamacpp_is_a_400(client, upstream, gateway, body):
    gateway.rows(service_row(upstream.address, external=False, engine="llamacpp"))
    answer = await asyncio.wait_for(client.ask(body), 3)
    assert answer.status == 400
    assert upstream.received == []


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
@pytest.mark.parametrize("body", [b'{"model":"ep-1","prompt":"\xff"}', b'{"model":"ep-1","tokens":[-1]}'])
async def test_a_tokenize_body_made_to_break_llamacpp_is_a_400(client, upstream, gateway, path, body):
    gateway.rows(service_row(upstream.address, external=False, engine="llamacpp"))
    assert (await asyncio.wait_for(client.ask(body, path), 3)).status == 400


async def test_hundreds_of_choices_are_worked_off_a_few_at_a_time(client, upstream, gateway):
    gateway.rows(service_row(upstream.address, external=False, engine="llamacpp"))
    at_once = most = 0

    async def script(received, line):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        choice = {"index": 0, "text": received.json["prompt"], "finish_reason": "stop"}
        await line.send(json_response({**chat_answer(), "choices": [choice]}))

    upstream.script = script
    prompts = [str(number) for number in range(300)]
    answer = await asyncio.wait_for(client.ask({"model": "ep-1", "prompt": prompts}, "/v1/completions"), 20)
    assert [choice["text"] for choice in answer.json["choices"]] == prompts
    assert answer.json["usage"] == {"prompt_tokens": 2100, "completion_tokens": 900, "total_tokens": 3000}
    assert most <= 4
