"""A small service that runs elsewhere: speaks the OpenAI API, streams at an even pace, notes what it was sent."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import Any

CHUNK_S = 0.02


@dataclass
class Upstream:
    """Serves in a thread of its own, so that blocking tests may use it too."""

    name: str = "elsewhere"
    chunks: int = 100  # of each stream, one every CHUNK_S
    hangs_up: bool = False  # right behind the last event, instead of ending the body
    calls: list[dict[str, Any]] = field(default_factory=list)  # {"authorization", "body"}
    url: str = ""
    _loop: asyncio.AbstractEventLoop | None = None
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _ready: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> Upstream:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._ready.wait(10)
        return self

    def stop(self) -> None:
        assert self._thread and self._loop
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._over.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._answer_one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if head[0].startswith("GET"):
            self._whole(writer, {"object": "list", "data": [{"id": self.name, "object": "model"}]})
            return
        asked = json.loads(body)
        self.calls.append({"authorization": headers.get("authorization", ""), "body": asked})
        if asked.get("stream"):
            await self._stream(writer)
        else:
            self._whole(writer, self._answer())

    def _answer(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": f"Hello from {self.name}."}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        named = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": self.name}
        return {**named, "choices": choices, "usage": usage}

    def _whole(self, writer: asyncio.StreamWriter, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.name}
        for number in range(self.chunks):
            self._event(writer, {**base, "choices": [{"index": 0, "delta": {"content": f"{number} "}}]})
            await writer.drain()
            await asyncio.sleep(CHUNK_S)  # the pace of a model
        self._event(writer, {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 7, "completion_tokens": self.chunks, "total_tokens": 7 + self.chunks}
        self._event(writer, {**base, "choices": [], "usage": usage})
        self._chunk(writer, b"data: [DONE]\n\n")
        if self.hangs_up:
            raise ConnectionAbortedError
        self._chunk(writer, b"")
        await writer.drain()

    def _event(self, writer: asyncio.StreamWriter, content: dict[str, Any]) -> None:
        self._chunk(writer, b"data: " + json.dumps(content).encode() + b"\n\n")

    def _chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
