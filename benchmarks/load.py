"""The load client on uvloop: `python -m benchmarks.load json|sse|rate|hold …`. Prints one line of JSON.

json  N keep-alive connections, each sends its next request when the answer is there.
sse   N concurrent streams, each starts its next when it ends; the starts are spread over the warm-up.
rate  R requests a second whatever happens, latency from the moment a request was due.
hold  opens N streams and leaves them idle; prints how many there are, ends when its stdin closes.

CPU seconds of the watched processes are read by the client itself at both ends of the counted window, so that
work and CPU belong to the same moments.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvloop

from benchmarks.processes import Meter, spent

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_PROMPT = "The quick brown fox jumps over the lazy dog near the river bank. " * 8
_OPENING_AT_ONCE = 64
_RATE_CONNECTIONS = 64


@dataclass(slots=True)
class Tally:
    """What was done since the start."""

    requests: int = 0
    chunks: int = 0
    errors: int = 0
    first_error: str = ""

    def fail(self, what: str) -> None:
        """Count one failure; the first is kept as text."""
        self.errors += 1
        self.first_error = self.first_error or what


class Caller(asyncio.Protocol):
    """One keep-alive connection that sends the same request again and again. `finished` hears of each end."""

    def __init__(self, request: bytes, tally: Tally, finished: Callable[[Caller], None]) -> None:
        self._request = request
        self._tally = tally
        self._finished = finished
        self._buffer = b""
        self.busy = False
        self.transport: asyncio.Transport | None = None
        self.arrived = 0.0  # perf_counter; for the open loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.busy:
            self._done("the connection was closed within an answer")

    def send(self) -> None:
        """Send the request; the connection must be free."""
        self._buffer = b""
        if self.transport is None:
            self._done("the connection was closed at once")
            return
        self.busy = True
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if _is_whole(buffer):
            self._done("" if buffer[9:12] == b"200" else buffer[:400].decode(errors="replace"))
        else:
            self._buffer = buffer

    def _done(self, error: str) -> None:
        self.busy = False
        if error:
            self._tally.fail(error)
        else:
            self._tally.requests += 1
        self._finished(self)


def _is_whole(buffer: bytes) -> bool:
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _LENGTH.search(buffer, 0, end + 2)
    if length is not None:
        return len(buffer) >= end + 4 + int(length[1])
    return buffer.endswith(b"\r\n0\r\n\r\n")


class Listener(Caller):
    """A caller that reads a stream and counts its chunks."""

    def __init__(
        self, request: bytes, tally: Tally, finished: Callable[[Caller], None], began: Callable[[], None]
    ) -> None:
        super().__init__(request, tally, finished)
        self._began = began
        self._events = 0

    def send(self) -> None:
        self._events = 0
        super().send()

    def data_received(self, data: bytes) -> None:
        if not self._events and not self._open(data):
            return
        # A chunk of the mock is one event of one line; a read that splits "data: " would lose one of thousands.
        events = data.count(b"data: ")
        self._events += events
        self._tally.chunks += events
        self._buffer = self._buffer[-24:] + data[-24:]
        if self._buffer.endswith(b"0\r\n\r\n") and b"[DONE]" in self._buffer:
            self._done("")

    def _open(self, data: bytes) -> bool:
        """Return whether the stream has its first event; an answer that is none is an error."""
        self._buffer += data
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            if _is_whole(self._buffer):
                self._done(self._buffer[:400].decode(errors="replace"))
            return False
        if b"data: " not in self._buffer:
            return False
        self._began()
        return True


class Load:
    """One run of the client."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tally = Tally()
        self.loop = asyncio.get_running_loop()
        target = urlsplit(options.url)
        self.host, self.port = target.hostname or "127.0.0.1", target.port or 80
        self.request = _request(options, target.path)
        self.stopping = False
        watched = json.loads(options.watch)
        self.meter = Meter({**watched, "client": [os.getpid()]}, json.loads(options.cores))
        self.counting = False

    async def open(self, make: Callable[[], Caller]) -> Caller | None:
        """Return a new open connection, or None after counting the failure."""
        try:
            _, caller = await self.loop.create_connection(make, self.host, self.port)
        except OSError as error:
            self.tally.fail(f"no connection: {error}")
            return None
        return caller

    async def window(self) -> dict:
        """Wait for the warm-up, count for `seconds`, return what happened in them."""
        options = self.options
        await asyncio.sleep(options.warm)
        before, tally_before = self.meter.mark(), (self.tally.requests, self.tally.chunks)
        self.counting = True
        await asyncio.sleep(options.seconds)
        self.counting = False
        after = self.meter.mark()
        self.stopping = True
        return {
            "requests": self.tally.requests - tally_before[0],
            "chunks": self.tally.chunks - tally_before[1],
            "all_requests": self.tally.requests,
            "all_chunks": self.tally.chunks,
            "errors": self.tally.errors,
            "first_error": self.tally.first_error,
            **spent(before, after),
        }

    # --- closed loops

    def again(self, caller: Caller) -> None:
        """Send the next request on this connection, or on a new one if it was closed."""
        if self.stopping:
            return
        if caller.transport is not None and not caller.transport.is_closing():
            caller.send()
        else:
            self.loop.call_later(0.01, self.start)  # a refusing server must not make us spin

    def start(self) -> None:
        """Open one more connection of the closed loop."""
        if not self.stopping:
            self._task(self._start())

    async def _start(self) -> None:
        caller = await self.open(self._make)
        if caller is not None:
            caller.send()
        else:
            self.loop.call_later(0.05, self.start)

    def _make(self) -> Caller:
        if self.options.kind == "sse":
            return Listener(self.request, self.tally, self.again, lambda: None)
        return Caller(self.request, self.tally, self.again)

    def _task(self, work: object) -> None:
        task = self.loop.create_task(work)  # type: ignore[arg-type]
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def closed_loop(self) -> dict:
        """Run json or sse."""
        spread = self.options.warm * 0.7 if self.options.kind == "sse" else 0.0
        for number in range(self.options.connections):
            self.loop.call_later(spread * number / self.options.connections, self.start)
        return await self.window()

    # --- open loop

    async def open_loop(self) -> dict:
        """Run rate: an arrival every 1/R seconds, sent at once if a connection is free, else as soon as one is."""
        pacer = Pacer(self)
        for _ in range(_RATE_CONNECTIONS):
            caller = await self.open(lambda: Caller(self.request, self.tally, pacer.finished))
            if caller is not None:
                pacer.free.append(caller)
        pacer.arrive(self.loop.time())
        result = await self.window()
        return {**result, **_percentiles(pacer.latencies), "backlog": len(pacer.waiting)}

    # --- idle streams

    async def hold(self) -> None:
        """Open the streams, say how many, keep them until stdin closes."""
        held = 0
        gate = asyncio.Semaphore(_OPENING_AT_ONCE)

        def began() -> None:
            nonlocal held
            held += 1
            gate.release()

        def ended(_caller: Caller) -> None:
            gate.release()

        callers: list[Caller] = []
        deadline = self.loop.time() + self.options.seconds
        for _ in range(self.options.connections):
            try:
                await asyncio.wait_for(gate.acquire(), deadline - self.loop.time())
            except TimeoutError:
                break
            caller = await self.open(lambda: Listener(self.request, self.tally, ended, began))
            if caller is None:
                break
            callers.append(caller)
            caller.send()
        while held + self.tally.errors < len(callers) and self.loop.time() < deadline:
            await asyncio.sleep(0.02)
        print(
            json.dumps({"held": held, "errors": self.tally.errors, "first_error": self.tally.first_error}), flush=True
        )
        await asyncio.to_thread(sys.stdin.read)


class Pacer:
    """Arrivals at a fixed rate, whatever the answers do. Times are perf_counter: the loop's clock counts whole ms."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._gap_s = 1 / load.options.rate
        self.free: deque[Caller] = deque()
        self.waiting: deque[float] = deque()  # when each request that has no connection yet arrived
        self.latencies: list[float] = []  # seconds

    def arrive(self, due: float) -> None:
        """Take one arrival and set the timer for the next; `due` is the loop's time."""
        if self._load.stopping:
            return
        self.waiting.append(time.perf_counter())
        while self.waiting and self.free:
            self._hand_out(self.free.popleft())
        self._load.loop.call_at(due + self._gap_s, self.arrive, due + self._gap_s)

    def finished(self, caller: Caller) -> None:
        """Note the latency of an answer and use its connection again."""
        if self._load.counting:
            self.latencies.append(time.perf_counter() - caller.arrived)
        self._hand_out(caller)

    def _hand_out(self, caller: Caller) -> None:
        if caller.transport is None:
            return
        if self.waiting:
            caller.arrived = self.waiting.popleft()
            caller.send()
        else:
            self.free.append(caller)


_tasks: set[asyncio.Task] = set()


def _percentiles(latencies_s: list[float]) -> dict[str, float]:
    ordered = sorted(latencies_s)
    if not ordered:
        return {"p50_us": 0.0, "p99_us": 0.0}
    return {f"p{q}_us": 1e6 * ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (50, 99)}


def _request(options: argparse.Namespace, path: str) -> bytes:
    body: dict[str, object] = {
        "model": options.model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": _PROMPT},
        ],
        "temperature": 0.7,
        "max_tokens": options.chunks,
        "seed": options.delay_ms,
    }
    if options.kind in ("sse", "hold"):
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body, separators=(",", ":"))
    key = f"Authorization: Bearer {options.key}\r\n" if options.key else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: mooring-bench\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\n{key}Content-Length: {len(data)}\r\n\r\n{data}"
    ).encode()


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("json", "sse", "rate", "hold"))
    parser.add_argument("--url", required=True, help="…/v1/chat/completions")
    parser.add_argument("--key", default="")
    parser.add_argument("--model", default="mock-model")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second (rate)")
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--delay-ms", type=int, default=0)
    parser.add_argument("--warm", type=float, default=0.7, help="seconds not counted")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds counted; for hold: longest opening")
    parser.add_argument("--watch", default="{}", help='JSON: {"group": [pid, …]}')
    parser.add_argument("--cores", default="[]", help="JSON: the cores whose busy time is read")
    return parser.parse_args(arguments)


async def main(arguments: list[str]) -> None:
    """Run one load and print its result."""
    load = Load(_options(arguments))
    if load.options.kind == "hold":
        await load.hold()
    else:
        result = await (load.open_loop() if load.options.kind == "rate" else load.closed_loop())
        print(json.dumps(result), flush=True)
    os._exit(0)  # thousands of open connections need no farewell


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
