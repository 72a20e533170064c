from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.engines import ask


async def _read(data: bytes) -> tuple[int, bytes]:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await ask._read(reader)


async def test_an_answer_with_a_length_is_read() -> None:
    assert await _read(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}rest') == (200, b'{"a":1}')


async def test_an_answer_in_chunks_is_read() -> None:
    data = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\n{"a"\r\n3\r\n:1}\r\n0\r\n\r\n'
    assert await _read(data) == (200, b'{"a":1}')


async def test_an_answer_that_ends_with_the_connection_is_read() -> None:
    assert await _read(b"HTTP/1.0 404 Not Found\r\n\r\n[]") == (404, b"[]")


@pytest.mark.parametrize("said", [b"oops", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_is_none_and_still_a_text(tmp_path: Path, said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Oops\r\n\r\n" + said)
        writer.close()

    socket = tmp_path / "e.sock"
    async with await asyncio.start_unix_server(answer, socket):
        target = ask.Target("engine", unix=str(socket))
        assert await ask.get_json(target, "/") == (500, None)
        assert await ask.get_text(target, "/") == (500, said.decode(errors="replace"))


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFF\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{",
        b"",
    ],
)
async def test_what_is_no_whole_http_answer_is_one_of_the_known_failures(data: bytes) -> None:
    with pytest.raises(ask._FAILURES):
        await _read(data)


def test_a_key_with_a_line_break_adds_no_header() -> None:
    with pytest.raises(ValueError, match="HTTP can't carry"):
        ask._head("h", "/", "k\r\nX-Evil: 1")


async def test_nobody_listening_is_no_answer() -> None:
    with pytest.raises(ask.NoAnswer, match="No such file") as silence:
        await ask.get_json(ask.Target("engine", unix="/nowhere/e.sock"), "/health")
    assert silence.value.nobody
