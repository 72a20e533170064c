"""What is not inference goes to control and back: nothing lost, nothing forged, nothing mixed up."""

from __future__ import annotations

import asyncio
import gc
import os

import pytest

from mooring.testing.feed_server import until
from mooring.testing.gateway import RunningGateway, endpoint_row, key_row, service_row
from mooring.testing.public_socket import FakePublicSocket
from mooring.testing.raw_client import CHAT, RawClient, request
from mooring.testing.upstream import STREAM_HEAD, chat_answer, chunk, delta, json_response

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /manage/v1/things HTTP/1.1\r\nHost: here:1\r\n\r\n"
UPGRADE = (
    b"GET /console/socket HTTP/1.1\r\nHost: here:1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: abc\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
)


@pytest.fixture
async def control(folder):
    server = FakePublicSocket(folder / "run" / "public.sock")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def gateway(folder, upstream):
    running = RunningGateway(folder, send_timeout_s=0.3)
    await running.start(key_row(), service_row(upstream.address), endpoint_row())
    yield running
    await running.stop()


@pytest.fixture
async def client(gateway, control):
    raw = await RawClient.open(gateway.port)
    yield raw
    raw.close()


def answers(data: bytes):
    async def script(relayed):
        await relayed.send(data)

    return script


async def soon(awaitable, seconds: float = 3.0):
    return await asyncio.wait_for(awaitable, seconds)


async def chunks_to_the_end(client) -> bytes:
    body = b""
    while piece := await client.read_chunk():
        body += piece
    return body


# --- the request on its way


async def test_method_target_and_body_pass_unchanged(client, control):
    await client.send(
        b"PATCH /manage/v1/services/a%20b?x=/../y&z=%2F HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n\0\r\n\xff"
    )
    answer = await soon(client.read_answer())
    [relayed] = control.received
    assert (relayed.method, relayed.target, relayed.body) == (
        "PATCH",
        "/manage/v1/services/a%20b?x=/../y&z=%2F",
        b"\0\r\n\xff",
    )
    assert (answer.status, answer.body) == (200, b"ok")


async def test_a_chunked_body_reaches_control_with_its_length(client, control):
    await client.send(
        b"POST /manage/v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;e=1\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    )
    await soon(client.read_answer())
    [relayed] = control.received
    assert relayed.body == b"abcde"
    assert relayed.values("transfer-encoding") == relayed.values("x-t") == []


async def test_credentials_and_the_callers_own_headers_pass(client, control):
    lines = b'Authorization: Basic YTpi\r\nCookie: a=1; b=2\r\nIf-Match: W/"3"\r\nAccept: text/html\r\n'
    await client.send(GET[:-2] + lines + b"\r\n")
    await soon(client.read_answer())
    [relayed] = control.received
    assert relayed.values("authorization") == ["Basic YTpi"]
    assert relayed.values("cookie") == ["a=1; b=2"]
    assert relayed.values("if-match") == ['W/"3"']
    assert relayed.values("host") == ["here:1"]


async def test_what_speaks_of_the_way_here_is_dropped_and_ours_is_set(client, control):
    lines = (
        b"Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nx-forwarded-proto: https\r\nX-FORWARDED-HOST: evil\r\n"
        b"X-Forwarded-Prefix: /evil\r\nX-Real-IP: 1.2.3.4\r\nX-Request-Id: forged\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
        b"Proxy-Authorization: x\r\nProxy-Connection: x\r\nTrailer: X\r\nUpgrade: h2c\r\nConnection: keep-alive\r\n"
    )
    await client.send(GET[:-2] + lines + b"\r\n")
    answer = await soon(client.read_answer())
    [relayed] = control.received
    assert relayed.values("x-forwarded-for") == ["127.0.0.1"]
    assert relayed.values("x-forwarded-proto") == ["http"]
    assert relayed.values("x-forwarded-host") == ["here:1"]
    assert relayed.values("x-request-id") == [answer.headers["x-request-id"]] != ["forged"]
    for name in ("forwarded", "x-forwarded-prefix", "x-real-ip", "keep-alive", "te", "trailer"):
        assert relayed.values(name) == []
    for name in ("proxy-authorization", "proxy-connection"):
        assert relayed.values(name) == []


async def test_every_request_has_an_id_of_its_own(client, control):
    first = await soon(client.ask(None, "/a", method="GET"))
    second = await soon(client.ask(None, "/a", method="GET"))
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_a_big_body_passes_both_ways(client, control):
    big = bytes(range(256)) * 20_000

    async def echo(relayed):
        await relayed.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(relayed.body) + relayed.body)

    control.script = echo
    sending = asyncio.ensure_future(client.send(request(big, "/manage/v1/upload", key=None)))
    answer = await soon(client.read_answer(), 10)
    await sending
    assert answer.body == big


# --- the answer on its way back


async def test_an_answers_status_and_headers_pass_each_cookie_on_its_own(client, control):
    control.script = answers(
        b"HTTP/1.1 409 Whatever\r\nContent-Type: application/problem+json\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b'ETag: "3"\r\nX-Request-Id: controls-own\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\n{}'
    )
    await client.send(GET)
    head = await soon(client.reader.readuntil(b"\r\n\r\n"))
    assert head.startswith(b"HTTP/1.1 409 ")
    assert b"Content-Type: application/problem+json\r\n" in head
    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in head
    assert b'ETag: "3"\r\n' in head
    assert b"controls-own" not in head
    assert b"Keep-Alive" not in head
    assert await client.reader.readexactly(2) == b"{}"


@pytest.mark.parametrize(
    ("method", "data", "length"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", "500"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n', None),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", "500"),
        (b"DELETE", b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", None),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "0"),
    ],
)
async def test_an_answer_without_a_body_leaves_the_connection_ready_for_the_next(client, control, method, data, length):
    control.script = answers(data)
    await client.send(GET.replace(b"GET", method))
    status, headers = await soon(client.read_head())
    assert (status, headers.get("content-length")) == (int(data[9:12]), length)
    control.script = answers(OK)
    assert (await soon(client.ask(None, "/next", method="GET"))).body == b"ok"


async def test_a_chunked_answer_passes(client, control):
    control.script = answers(CHUNKED + b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n")
    answer = await soon(client.ask(None, "/x", method="GET"))
    assert answer.body == b"abcde"
    assert (await soon(client.ask(None, "/x", method="GET"))).body == b"abcde"


async def test_an_answer_without_length_ends_with_controls_connection(client, control):
    control.script = answers(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")
    answer = await soon(client.ask(None, "/x", method="GET"))
    assert answer.body == b"all of it"


async def test_early_hints_are_skipped(client, control):
    control.script = answers(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    answer = await soon(client.ask(None, "/x", method="GET"))
    assert (answer.status, answer.body, answer.headers.get("link")) == (200, b"ok", None)


async def test_a_streamed_answer_arrives_piece_by_piece(client, control):
    go_on = asyncio.Event()

    async def script(relayed):
        await relayed.send(CHUNKED)
        for text in (b"first", b"second"):
            await relayed.send(b"%x\r\n%b\r\n" % (len(text), text))
            await go_on.wait()
        await relayed.send(b"0\r\n\r\n")

    control.script = script
    await client.send(GET)
    assert (await soon(client.read_head()))[0] == 200
    assert await soon(client.read_chunk()) == b"first"
    go_on.set()
    assert await soon(chunks_to_the_end(client)) == b"second"


async def test_an_http_1_0_caller_gets_no_chunks(client, control):
    control.script = answers(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    await client.send(b"GET /x HTTP/1.0\r\n\r\n")
    status, headers = await soon(client.read_head())
    assert (status, headers.get("transfer-encoding")) == (200, None)
    assert await soon(client.reader.read()) == b"abcde"


async def test_an_answer_in_single_bytes_passes(client, control):
    async def script(relayed):
        for byte in CHUNKED + b"3\r\nabc\r\n0\r\n\r\n":
            await relayed.send(bytes([byte]))
            await asyncio.sleep(0)

    control.script = script
    assert (await soon(client.ask(None, "/x", method="GET"))).body == b"abc"


# --- somebody is slow, or leaves


async def test_a_slow_reader_slows_control_down(client, control):
    sent = 0

    async def script(relayed):
        nonlocal sent
        await relayed.send(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
        for _ in range(64):
            await relayed.send(b"x" * (1 << 20))
            sent += 1

    control.script = script
    await client.send(GET)
    await soon(client.read_head())
    await until(lambda: sent > 0)
    before = -1
    while before != sent:  # until nothing moves any more
        before = sent
        await asyncio.sleep(0.05)
    assert sent < 60  # the reader here holds 32 MiB itself; the rest are socket buffers
    async with asyncio.timeout(10):
        assert len(await client.reader.readexactly(67108864)) == 67108864


async def test_when_the_caller_leaves_controls_connection_is_closed(client, control):
    left = asyncio.Event()

    async def script(relayed):
        await relayed.send(CHUNKED + b"1\r\na\r\n")
        await relayed.left()
        left.set()

    control.script = script
    await client.send(GET)
    await soon(client.read_head())
    client.reset()
    await soon(left.wait())


async def test_when_the_caller_leaves_before_the_answer_controls_connection_is_closed(client, control):
    left = asyncio.Event()

    async def script(relayed):
        await relayed.left()
        left.set()

    control.script = script
    await client.send(GET)
    await until(lambda: bool(control.received))
    client.reset()
    await soon(left.wait())


@pytest.mark.parametrize("head", [CHUNKED + b"3\r\nabc\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc"])
async def test_an_answer_that_control_breaks_off_looks_broken(client, control, head):
    control.script = answers(head)
    await client.send(GET)
    await soon(client.read_head())
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await soon(chunks_to_the_end(client) if b"chunked" in head else client.reader.readexactly(99))


async def test_a_broken_answer_looks_broken_to_an_http_1_0_caller_too(client, control):
    control.script = answers(CHUNKED + b"3\r\nabc\r\n")
    await client.send(b"GET /x HTTP/1.0\r\n\r\n")
    await soon(client.read_head())
    with pytest.raises(ConnectionError):  # without lengths, only a reset tells
        await soon(client.reader.read())


async def test_control_that_ends_without_an_answer_is_a_502_and_the_connection_stays(client, control):
    control.script = answers(b"")
    answer = await soon(client.ask(None, "/x", method="GET"))
    assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
    control.script = answers(OK)
    assert (await soon(client.ask(None, "/x", method="GET"))).status == 200


async def test_nonsense_from_control_is_a_502(client, control):
    control.script = answers(b"SSH-2.0-nope\r\n\r\n")
    assert (await soon(client.ask(None, "/x", method="GET"))).status == 502


async def test_without_control_the_answer_is_503_with_a_time_to_repeat(client, control, gateway):
    await control.stop()
    answer = await soon(client.ask(None, "/manage/v1/services", method="GET"))
    assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await soon(client.ask(CHAT))).status == 200


# --- protocol upgrades


async def test_after_101_bytes_pass_both_ways(client, control):
    async def script(relayed):
        await relayed.send(SWITCH)
        while data := await relayed.reader.read(100):
            await relayed.send(data.upper())

    control.script = script
    await client.send(UPGRADE)
    status, headers = await soon(client.read_head())
    assert (status, headers["upgrade"], headers["sec-websocket-accept"]) == (101, "websocket", "x")
    for text in (b"abc", b"GET / HTTP/1.1\r\n\r\n", b"\0\xff" * 10):
        await client.send(text)
        assert await soon(client.reader.readexactly(len(text))) == text.upper()
    [relayed] = control.received
    assert relayed.values("upgrade") == ["websocket"]
    assert relayed.values("connection") == ["Upgrade"]
    assert relayed.values("sec-websocket-key") == ["abc"]


@pytest.mark.parametrize("step", [1, 50, 10_000])
async def test_bytes_right_behind_the_101_are_not_lost(client, control, step):
    async def script(relayed):
        data = SWITCH + b"hello\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
        for start in range(0, len(data), step):
            await relayed.send(data[start : start + step])
            await asyncio.sleep(0)
        await relayed.left()

    control.script = script
    await client.send(UPGRADE)
    assert (await soon(client.read_head()))[0] == 101
    assert await soon(client.reader.readexactly(28)) == b"hello\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"


async def test_much_data_passes_through_a_switched_connection_both_ways(client, control):
    size = 8 << 20

    async def script(relayed):
        await relayed.send(SWITCH)
        data = await relayed.reader.readexactly(size)
        await relayed.send(data)

    control.script = script
    await client.send(UPGRADE)
    await soon(client.read_head())
    sending = asyncio.ensure_future(client.send(b"ab" * (size // 2)))
    assert await soon(client.reader.readexactly(size), 10) == b"ab" * (size // 2)
    await sending


async def test_when_one_end_of_a_switched_connection_leaves_the_other_is_told(client, control, gateway):
    left = asyncio.Event()

    async def script(relayed):
        await relayed.send(SWITCH)
        await relayed.left()
        left.set()

    control.script = script
    await client.send(UPGRADE)
    await soon(client.read_head())
    client.reset()
    await soon(left.wait())
    other = await RawClient.open(gateway.port)
    control.script = answers(SWITCH + b"bye")
    await other.send(UPGRADE)
    await soon(other.read_head())
    assert await soon(other.reader.read()) == b"bye"
    other.close()


async def test_an_upgrade_that_control_declines_is_an_ordinary_answer_and_a_close(client, control):
    await client.send(UPGRADE)
    answer = await soon(client.read_answer())
    assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"ok", "close")
    assert await soon(client.at_end())


# --- one connection, many requests


async def test_a_kept_connection_serves_relayed_and_inference_requests_in_turn(client, control, upstream):
    for _ in range(3):
        assert (await soon(client.ask(None, "/manage/v1/x", method="GET"))).body == b"ok"
        assert (await soon(client.ask(CHAT))).json == chat_answer()
    assert len(control.received) == len(upstream.received) == 3
    assert control.open == 0


async def test_pipelined_relayed_and_inference_requests_are_answered_in_order(client, control):
    relay = request(None, "/manage/v1/x", method="GET")
    await client.send(relay + request(CHAT) + relay + relay + request(CHAT))
    got = [(await soon(client.read_answer())).body[:2] for _ in range(5)]
    assert got == [b"ok", b'{"', b"ok", b"ok", b'{"']


@pytest.mark.parametrize("first", [b"GET /health", b"HEAD /health", b"HEAD /manage/v1/x"])
@pytest.mark.parametrize(
    ("second", "body"),
    [(b"GET /v1/nothing", True), (b"PUT /health", True), (b"HEAD /v1/nothing", False), (b"HEAD /v1/models", False)],
)
async def test_a_refusal_has_a_body_unless_its_own_request_was_head(client, control, first, second, body):
    tail = b" HTTP/1.1\r\nHost: h\r\n\r\n"
    await client.send(first + tail)
    await soon(client.read_answer(head_only=first.startswith(b"HEAD")))
    await client.send(second + tail)
    refusal = await soon(client.read_answer(head_only=not body))
    assert refusal.status >= 400
    assert (await soon(client.ask(None, "/health", method="GET"))).body == b'{"status":"ok"}'


@pytest.fixture
async def unread(gateway, control):
    """A caller that reads next to nothing, and the gateway's end of its connection."""
    caller = RawClient(*await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024))
    await until(lambda: len(gateway.parts.connections) == 1)
    [connection] = gateway.parts.connections
    yield caller, connection
    caller.reset()
    await until(lambda: not gateway.parts.connections)


def answering(size: int, control, upstream) -> None:
    """Let both control and the service answer with a JSON text of `size` bytes."""
    body = b'"%b"' % (b"x" * (size - 2))

    async def script(received, line):
        await line.send(json_response(b'{"text":%b}' % body))

    upstream.script = script
    control.script = answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body))


@pytest.mark.parametrize("kind", ["relayed", "inference", "local"])
async def test_a_caller_that_asks_on_and_reads_nothing_does_not_fill_the_memory(unread, control, upstream, kind):
    answering(60_000, control, upstream)
    asked = {"relayed": GET, "inference": request(CHAT), "local": request(None, "/openapi.json", method="GET")}[kind]
    caller, connection = unread
    most = 0
    for _ in range(200):
        if connection.closed:
            break
        caller.writer.write(asked * 8)
        await asyncio.sleep(0.01)
        if connection.transport is not None and not connection.closed:
            most = max(most, connection.transport.get_write_buffer_size())
    assert most < 4 << 20


@pytest.mark.parametrize("kind", ["relayed", "inference"])
async def test_a_caller_that_does_not_read_its_whole_answer_is_cut_off(unread, control, upstream, kind):
    answering(16_000_000, control, upstream)
    caller, connection = unread
    await caller.send(GET if kind == "relayed" else request(CHAT))
    await until(lambda: connection.transport.get_write_buffer_size() > 0)
    await until(lambda: connection.closed, 9)  # send_timeout_s is 0.3, looked at within 5 s


# --- nothing piles up


async def test_after_many_callers_left_in_the_middle_nothing_is_left_behind(gateway, control, upstream):
    async def stream(received, line):
        await line.send(STREAM_HEAD + chunk(delta("a")))
        await line.closed.wait()

    async def relayed(one):
        await one.send(CHUNKED + b"1\r\na\r\n")
        await one.left()

    upstream.script, control.script = stream, relayed
    asked = [request({**CHAT, "stream": True}), GET, request(CHAT)[:-3], GET[:20]]

    async def ask_and_leave(number: int) -> None:
        caller = await RawClient.open(gateway.port)
        await caller.send(asked[number % 4])
        try:
            if number % 4 < 2:
                await soon(caller.read_head())
            if number % 8 < 2:
                await soon(caller.read_chunk())
        finally:
            caller.reset()

    async def all_gone() -> None:
        await until(lambda: not gateway.parts.connections and upstream.open == control.open == 0)

    await ask_and_leave(0)
    await all_gone()
    before = len(os.listdir("/proc/self/fd"))
    for start in range(0, 200, 20):
        await asyncio.gather(*(ask_and_leave(start + number) for number in range(20)))
    await all_gone()
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert [one.in_flight for one in gateway.parts.table.services["svc-1"].replicas] == [0]
    assert gateway.parts.body_bytes == 0
    assert {record.ended for record in gateway.records()} == {"aborted"}
    gc.collect()
    assert gc.garbage == []


async def test_a_connection_too_many_is_told_so_and_a_free_place_is_used_again(gateway, control):
    gateway.parts.max_connections = 3
    held = [await RawClient.open(gateway.port) for _ in range(3)]
    await until(lambda: len(gateway.parts.connections) == 3)
    refused = await RawClient.open(gateway.port)
    answer = await soon(refused.read_answer())
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert answer.headers["retry-after"]
    assert await soon(refused.at_end())
    held.pop().close()
    await until(lambda: len(gateway.parts.connections) == 2)
    held.append(await RawClient.open(gateway.port))
    assert (await soon(held[-1].ask(None, "/x", method="GET"))).status == 200
    for one in (*held, refused):
        one.close()


async def test_headers_that_the_caller_names_as_meant_for_us_only_go_no_further(client, control):
    await client.send(GET[:-2] + b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Other: 2\r\n\r\n")
    await soon(client.read_answer())
    [relayed] = control.received
    assert (relayed.values("x-hop"), relayed.values("x-other")) == ([], ["2"])


async def test_naming_a_header_in_connection_does_not_take_the_credential_away(client, control):
    await client.send(GET[:-2] + b"Connection: X-Forwarded-For, Host\r\nAuthorization: Basic YTpi\r\n\r\n")
    await soon(client.read_answer())
    [relayed] = control.received
    assert relayed.values("x-forwarded-for") == ["127.0.0.1"]
    assert relayed.values("host") == ["here:1"]
    assert relayed.values("authorization") == ["Basic YTpi"]
