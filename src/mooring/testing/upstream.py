"""A scripted upstream: an HTTP server whose answers a test writes as bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Received:
    """One request as the upstream saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int  # number of the connection it came on

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Line:
    """The connection of one request: what a script writes to."""

    writer: asyncio.StreamWriter
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # set when the peer closed

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Break the connection off."""
        self.writer.transport.abort()


Script = Callable[[Received, Line], Awaitable[None]]


def json_response(body: bytes | dict[str, Any], status: int = 200, extra: str = "") -> bytes:
    """Return a whole HTTP answer with a JSON body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{extra}Content-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return one HTTP chunk; an empty one ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(text: str, **more: Any) -> bytes:
    """Return one event of a chat stream."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "up",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}],
        **more,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def chat_answer(text: str = "hi") -> dict[str, Any]:
    """Return a whole chat answer that used 7 + 3 tokens."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


class ScriptedUpstream:
    """Serves on loopback; `script` decides every answer, `received` keeps every request."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.script: Script = _answer_chat
        self.connections = 0
        self.open = 0
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and forget; connections close as their peers do."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.open += 1
        try:
            while True:
                received = await _read_request(reader, number)
                self.received.append(received)
                line = Line(writer)
                watch = asyncio.ensure_future(_watch(reader, writer, line))
                try:
                    await self.script(received, line)
                finally:
                    watch.cancel()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            writer.close()


async def _watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line) -> None:
    """Notice that the peer left while a script runs."""
    while not reader.at_eof() and not writer.transport.is_closing():
        await asyncio.sleep(0.005)
    line.closed.set()


async def _read_request(reader: asyncio.StreamReader, number: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body, number)


async def _answer_chat(received: Received, line: Line) -> None:
    await line.send(json_response(chat_answer()))
