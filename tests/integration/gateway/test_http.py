"""HTTP/1.1 as attackers and odd clients write it: refused or understood, never confused, never swallowed."""

from __future__ import annotations

import asyncio

import pytest

from mooring.testing.raw_client import CHAT, RawClient, request
from mooring.testing.upstream import STREAM_HEAD, chat_answer, chunk, delta, json_response

BODY = b'{"model":"ep-1","messages":[]}'
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer mk-test\r\n"
    b"Content-Type: application/json\r\n"
)
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)


@pytest.fixture
def gateway_settings():
    return {"head_timeout_s": 0.3, "body_timeout_s": 0.3, "max_body_bytes": 1 << 20}


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


REFUSED = {
    "length and chunked": HEAD + b"Transfer-Encoding: chunked\r\n" + LENGTH + chunked(BODY),
    "two lengths": HEAD + b"Content-Length: 3\r\n" + LENGTH + BODY,
    "the same length twice": HEAD + b"Content-Length: %d\r\n" % len(BODY) + LENGTH + BODY,
    "length with a sign": HEAD + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "unknown transfer coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + chunked(BODY),
    "chunked not last": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + chunked(BODY),
    "space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + chunked(BODY),
    "bare line feeds": (HEAD + LENGTH).replace(b"\r\n", b"\n") + BODY,
    "folded header": HEAD + b"X-A: 1\r\n 2\r\n" + LENGTH + BODY,
    "NUL in a header": HEAD + b"X-A: a\0b\r\n" + LENGTH + BODY,
    "no Host": HEAD.replace(b"Host: x\r\n", b"") + LENGTH + BODY,
    "two Hosts": HEAD + b"Host: y\r\n" + LENGTH + BODY,
    "two Authorizations": HEAD + b"authorization: Bearer mk-other\r\n" + LENGTH + BODY,
    "two content types": HEAD + b"content-type: text/plain\r\n" + LENGTH + BODY,
    "chunk size in hex prefix": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\n" + BODY,
    "chunk size overflow": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + BODY,
    "TLS on the plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 5 + b"\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "upgrade to h2c": HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + LENGTH + BODY,
    "absolute target of another host": b"GET http://evil/manage HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT evil:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "dots": b"GET /manage/../x HTTP/1.1\r\nHost: x\r\n\r\n",
    "encoded slash": b"GET /manage%2fx HTTP/1.1\r\nHost: x\r\n\r\n",
    "double slash": b"GET //manage HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_could_be_read_in_two_ways_is_refused(client, upstream, name):
    await client.send(REFUSED[name])
    answer = await asyncio.wait_for(client.read_answer(), 3)
    assert answer.status == 400
    assert answer.error["message"]
    assert upstream.received == []


async def test_a_connection_refused_for_its_framing_is_closed(client):
    await client.send(REFUSED["length and chunked"])
    answer = await client.read_answer()
    assert answer.headers["connection"] == "close"
    assert await asyncio.wait_for(client.at_end(), 4)


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_a_request_may_arrive_in_any_pieces(client, upstream, step):
    data = HEAD + LENGTH + BODY
    for start in range(0, len(data), step):
        await client.send(data[start : start + step])
        await asyncio.sleep(0)
    assert (await client.read_answer()).status == 200
    assert upstream.received[0].body == BODY.replace(b"ep-1", b"up")


async def test_a_chunked_body_with_extensions_and_trailers_is_read_and_trailers_mean_nothing(client, upstream):
    body = b"%x;a=b\r\n%b\r\n0\r\nAuthorization: Bearer mk-other\r\nHost: evil\r\n\r\n" % (len(BODY), BODY)
    await client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert (await client.read_answer()).status == 200
    assert upstream.received[0].body == BODY.replace(b"ep-1", b"up")


async def test_a_body_of_one_byte_chunks_is_read(client):
    assert (await client.ask(CHAT, chunked=True)).status == 200


async def test_pipelined_requests_are_answered_in_order(client, upstream):
    async def script(received, line):
        await line.send(json_response(chat_answer(str(received.json["n"]))))

    upstream.script = script
    await client.send(b"".join(request({**CHAT, "n": number}) for number in range(10)))
    answers = [(await client.read_answer()).json["choices"][0]["message"]["content"] for _ in range(10)]
    assert answers == [str(number) for number in range(10)]


async def test_a_refusal_in_a_pipeline_keeps_its_place(client):
    await client.send(request(CHAT) + request({**CHAT, "model": "nope"}) + request(CHAT))
    assert [(await client.read_answer()).status for _ in range(3)] == [200, 404, 200]


async def test_too_many_pipelined_requests_are_cut_off(client, upstream):
    async def script(received, line):
        await line.closed.wait()

    upstream.script = script
    await client.send(request(CHAT))
    await client.send(request(CHAT) * 500)
    await asyncio.sleep(0)
    assert len(upstream.received) <= 1


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"X-A: " + b"a" * 200_000 + b"\r\n" + LENGTH + BODY, 431),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(20_000)) + LENGTH + BODY, 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 300_000, 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 60_000, 431),
        (HEAD + b"Content-Length: 2000000\r\n\r\n", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n%b\r\n" % (b" " * 0x4000) * 100, 413),
    ],
    ids=["header", "target", "many headers", "chunk extension", "trailers", "announced body", "grown body"],
)
async def test_what_grows_without_end_is_refused(client, gateway, data, status):
    sending = asyncio.ensure_future(client.send(data))
    answer = await asyncio.wait_for(client.read_answer(), 3)
    assert answer.status == status
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert gateway.parts.body_bytes == 0


async def test_a_key_is_judged_before_the_body_is_sent(client, upstream):
    await client.send(HEAD.replace(b"mk-test", b"mk-other") + b"Content-Length: 900000\r\n\r\n")
    assert (await asyncio.wait_for(client.read_answer(), 2)).status == 401


async def test_expect_100_continue_is_answered_after_the_key(client):
    await client.send(HEAD + b"Expect: 100-continue\r\n" + LENGTH)
    assert (await client.read_head())[0] == 100
    await client.send(BODY)
    assert (await client.read_answer()).status == 200


async def test_expect_with_a_bad_key_gets_401_and_no_100(client):
    await client.send(HEAD.replace(b"mk-test", b"mk-other") + b"Expect: 100-continue\r\n" + LENGTH)
    assert (await client.read_head())[0] == 401


@pytest.mark.parametrize("data", [b"POST /v1/chat", HEAD, HEAD + b"X-A: ", HEAD + LENGTH, HEAD + LENGTH + BODY[:5]])
async def test_a_request_that_does_not_go_on_is_timed_out(client, data):
    await client.send(data)
    answer = await asyncio.wait_for(client.read_answer(), 9)
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")


async def test_http_1_0_gets_an_answer_without_chunks_and_a_close(client, upstream):
    async def script(received, line):
        await line.send(STREAM_HEAD + chunk(delta("a")) + chunk(b"data: [DONE]\n\n") + chunk(b""))

    upstream.script = script
    body = BODY[:-1] + b',"stream":true}'
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Content-Length: %d\r\n\r\n" % len(body)
    await client.send(head + body)
    status, headers = await client.read_head()
    assert (status, headers.get("transfer-encoding")) == (200, None)
    assert await client.reader.read() == delta("a") + b"data: [DONE]\n\n"


async def test_connection_close_is_honoured(client):
    answer = await client.ask(CHAT, headers="Connection: close\r\n")
    assert answer.headers["connection"] == "close"
    assert await asyncio.wait_for(client.at_end(), 2)


async def test_a_slow_reader_then_reuse_of_the_pool_does_not_hang(gateway, upstream):
    big = delta("x" * 100_000) * 100

    async def script(received, line):
        await line.send(STREAM_HEAD + chunk(big) + chunk(b""))

    upstream.script = script
    slow = await RawClient.open(gateway.port)
    await slow.send(request({**CHAT, "stream": True}))
    await slow.read_head()
    slow.reset()
    upstream.script = type(upstream)().script
    for _ in range(3):
        other = await RawClient.open(gateway.port)
        assert (await asyncio.wait_for(other.ask(CHAT), 2)).status == 200
        other.close()


async def test_what_is_not_inference_needs_control(client):
    for path in ("/", "/manage/v1/services", "/console"):
        answer = await client.ask(None, path, method="GET")
        assert (answer.status, answer.error["code"]) == (503, "unavailable")
