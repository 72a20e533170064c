"""A registered service is asked over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mooring.engines import external


@asynccontextmanager
async def _service(answer: bytes, *, silent: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve `answer` to everybody; give the base URL and the heads that arrive."""
    heads: list[bytes] = []
    left: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.append(gone := asyncio.Event())
        with contextlib.suppress(ConnectionError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"" if silent else answer)
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", heads
        for gone in left:
            await gone.wait()


async def test_a_service_that_lists_its_models_is_ready_and_got_the_key() -> None:
    body = b'{"data":[{"id":"some-model"}]}'
    async with _service(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as (url, heads):
        probe = await external.probe(url, "sk-1")
    assert (probe.state, probe.reason) == ("ready", "serves some-model")
    assert heads[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer sk-1\r\n" in heads[0]


async def test_a_redirect_is_not_followed() -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    async with _service(answer) as (url, _):
        probe = await external.probe(url, "")
    assert (probe.state, probe.reason) == ("unreachable", "GET /models answered HTTP 302.")


async def test_a_service_that_does_not_answer_is_unreachable_in_time() -> None:
    async with _service(b"", silent=True) as (url, _):
        probe = await external.probe(url, "", timeout_s=0.1)
    assert (probe.state, probe.reason) == ("unreachable", "no answer within 0.1 s")


async def test_a_service_that_is_not_there_is_unreachable_with_the_reason() -> None:
    async with _service(b"") as (url, _):
        pass
    probe = await external.probe(url, "")
    assert probe.state == "unreachable"
    assert "refused" in probe.reason or "Connect call failed" in probe.reason


async def test_something_that_speaks_no_http_is_unreachable() -> None:
    async with _service(b"SSH-2.0-OpenSSH\r\n\r\n") as (url, _):
        assert (await external.probe(url, "")).reason == "the answer is not HTTP"
