"""A scripted control behind the gateway: a raw HTTP server on a Unix socket whose answers a test writes as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Relayed:
    """One request as control got it, and the connection it came on."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def values(self, name: str) -> list[str]:
        """Return every value of a header, whatever its spelling."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def left(self) -> None:
        """Return when the gateway has closed the connection; what it still sends is thrown away."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass


PublicScript = Callable[[Relayed], Awaitable[None]]


class FakePublicSocket:
    """Serves on `path`; `script` decides every answer, the connection is closed behind it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[Relayed] = []
        self.script: PublicScript = _answer_ok
        self.open = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            relayed = await _read(reader, writer)
            self.received.append(relayed)
            await self.script(relayed)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Relayed:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")[:-2]
    method, target, version = first.split(" ")
    assert version == "HTTP/1.1"
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    relayed = Relayed(method, target, headers, b"", reader, writer)
    [length] = relayed.values("content-length")
    relayed.body = await reader.readexactly(int(length))
    return relayed


async def _answer_ok(relayed: Relayed) -> None:
    await relayed.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
