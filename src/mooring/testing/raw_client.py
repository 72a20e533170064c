"""A raw HTTP/1.1 client for gateway tests: says exactly what is sent, shows exactly what comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mooring.testing.gateway import KEY

CHAT = {"model": "ep-1", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Answer:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class RawClient:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_head(self) -> tuple[int, dict[str, str]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split(" ")[1]), headers

    async def read_chunk(self) -> bytes:
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def read_answer(self, head_only: bool = False) -> Answer:
        status, headers = await self.read_head()
        if head_only:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while piece := await self.read_chunk():
                body += piece
            return Answer(status, headers, body)
        return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))

    async def ask(self, *args: Any, **kwargs: Any) -> Answer:
        await self.send(request(*args, **kwargs))
        return await self.read_answer()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()

    async def at_end(self) -> bool:
        """True when the gateway closed the connection."""
        return await self.reader.read(1) == b""


def request(
    body: Any = None,
    path: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    key: str | None = KEY,
    headers: str = "",
    chunked: bool = False,
) -> bytes:
    """Return one request; a dict body is written as JSON, `headers` are whole lines."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}"
    if key is not None:
        head += f"Authorization: Bearer {key}\r\n"
    if method == "POST":
        head += "Content-Type: application/json\r\n"
    if chunked:
        framed = b"".join(b"%x\r\n%b\r\n" % (1, data[n : n + 1]) for n in range(len(data))) + b"0\r\n\r\n"
        return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + framed
    if data or method == "POST":
        head += f"Content-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


async def until(condition: Callable[[], object], seconds: float = 3.0) -> None:
    """Wait, bounded, until something is true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
