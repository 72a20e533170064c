"""A mock OpenAI upstream on uvloop: `python -m benchmarks.mock_upstream PORT`. Loopback only.

The caller's body says what to answer, so that every gateway passes the order on: `"stream": true` streams,
`"max_tokens"` is the number of content chunks, `"seed"` the milliseconds between them. A JSON answer is about
600 bytes with usage; a streamed chunk is about 200 bytes and one write; the usage chunk comes if it was asked for.
It reads what gateways send (Content-Length bodies, keep-alive) and refuses the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import os
import random
import re
import sys
import time
from collections.abc import Callable

import uvloop

MODEL = "mock-model"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_CHUNKS = re.compile(rb'"max_(?:completion_)?tokens"\s*:\s*(\d+)')
_DELAY_MS = re.compile(rb'"seed"\s*:\s*(\d+)')
_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
_DEFAULT_CHUNKS = 16
_random = random.Random(7).random
_SENTENCE = "The quick brown fox jumps over the lazy dog. "


def _response(body: str, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def _chunk(data: str) -> bytes:
    return f"{len(data):x}\r\n{data}\r\n".encode()


def _event(choices: str, usage: str = "") -> bytes:
    head = '{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000'
    return _chunk(f'data: {head},"model":"{MODEL}","choices":[{choices}]{usage}}}\n\n')


_ANSWER = _response(
    '{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1700000000,'
    f'"model":"{MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{_SENTENCE * 5}"}},'
    '"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":120,"completion_tokens":64,'
    '"total_tokens":184,"prompt_tokens_details":{"cached_tokens":0}},"system_fingerprint":"fp_mock"}'
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_CONTENT = _event('{"index":0,"delta":{"content":" quick brown"},"logprobs":null,"finish_reason":null}')
_FINISH = _event('{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}')
_COUNTS = _event("", ',"usage":{"prompt_tokens":120,"completion_tokens":64,"total_tokens":184}')
_END = _chunk("data: [DONE]\n\n") + b"0\r\n\r\n"
_MODELS = _response(f'{{"object":"list","data":[{{"id":"{MODEL}","object":"model","owned_by":"mock"}}]}}')
# What routers ask a worker before they use it.
_ABOUT = _response(f'{{"model_path":"{MODEL}","served_model_name":"{MODEL}","is_generation":true,"dp_size":1}}')
_REFUSAL = b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Alarm:
    """Calls back at exact times. The loop's own timers count whole milliseconds, and would bunch the streams."""

    _MONOTONIC, _FLAGS, _ABSOLUTE = 1, os.O_NONBLOCK | os.O_CLOEXEC, 1

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(self._MONOTONIC, self._FLAGS)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._time = (ctypes.c_long * 4)()  # struct itimerspec: repeat s, ns; first s, ns
        self._entries: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        loop.add_reader(self._file, self._ring)

    def at(self, due_ns: int, callback: Callable[[], None]) -> None:
        """Call `callback` at `due_ns` of the monotonic clock; it can't be taken back."""
        self._count += 1
        heapq.heappush(self._entries, (due_ns, self._count, callback))
        if self._entries[0][1] == self._count:
            self._set(due_ns)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # set anew since it rang
            os.read(self._file, 8)
        entries = self._entries
        while entries and entries[0][0] <= time.monotonic_ns():
            _, _, callback = heapq.heappop(entries)
            callback()
        if entries:
            self._set(entries[0][0])

    def _set(self, due_ns: int) -> None:
        self._time[2], self._time[3] = divmod(due_ns, 1_000_000_000)
        self._libc.timerfd_settime(self._file, self._ABSOLUTE, self._time, None)


class Upstream(asyncio.Protocol):
    """One connection; requests are answered in turn."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._buffer = b""
        self._left = 0  # content chunks still to send; 0 = no stream runs
        self._asked_usage = False
        self._delay_ns = 0
        self._due_ns = 0
        self._lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer and not self._left and self._take():
            pass

    def _take(self) -> bool:
        """Answer one whole request at the buffer's start; False if it is not all here."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        if buffer.startswith((b"GET ", b"HEAD ")):
            self._buffer = buffer[end + 4 :]
            self._transport.write(_MODELS if b"models " in buffer[:end] else _ABOUT)
            return True
        length = _LENGTH.search(buffer, 0, end + 2)
        if length is None:
            self._transport.write(_REFUSAL)
            self._transport.close()
            return False
        size = end + 4 + int(length[1])
        if len(buffer) < size:
            return False
        self._buffer = buffer[size:]
        if b'"stream"' in buffer and _STREAM.search(buffer, end):
            self._begin(buffer[end:size])
        else:
            self._transport.write(_ANSWER)
        return True

    def _begin(self, body: bytes) -> None:
        chunks, delay = _CHUNKS.search(body), _DELAY_MS.search(body)
        self._left = max(1, int(chunks[1])) if chunks else _DEFAULT_CHUNKS
        self._delay_ns = int(delay[1]) * 1_000_000 if delay else 0
        self._asked_usage = _USAGE.search(body) is not None
        # A phase of its own, by a shorter first gap: streams that began together must not stay in step.
        self._due_ns = time.monotonic_ns() - int(_random() * self._delay_ns)
        self._transport.write(_STREAM_HEAD)
        self._next()

    def _next(self) -> None:
        """Send one chunk and set the timer for the next; absolute times, so that delays do not add up."""
        if self._lost:
            return
        self._left -= 1
        self._transport.write(_CONTENT)
        self._due_ns += self._delay_ns
        self._alarm.at(self._due_ns, self._next if self._left else self._finish)

    def _finish(self) -> None:
        if self._lost:
            return
        self._transport.write(_FINISH + _COUNTS + _END if self._asked_usage else _FINISH + _END)
        while self._buffer and not self._left and self._take():
            pass


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 at `port` until the process is ended."""
    loop = asyncio.get_running_loop()
    alarm = Alarm(loop)
    server = await loop.create_server(lambda: Upstream(alarm), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
