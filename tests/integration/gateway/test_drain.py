"""A worker that is told to stop: nobody's answer is cut before its time, nobody is kept waiting for nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mooring import settings as settings_module
from mooring.gateway import worker
from mooring.testing.feed_server import FakeFeed, until
from mooring.testing.gateway import RunningGateway, endpoint_row, key_row, service_row
from mooring.testing.public_socket import FakePublicSocket
from mooring.testing.raw_client import CHAT, RawClient, request
from mooring.testing.upstream import STREAM_HEAD, ScriptedUpstream, chunk, delta

STREAM = {**CHAT, "stream": True}
DONE = b"data: [DONE]\n\n"


@pytest.fixture
async def gateway(folder, upstream):
    running = RunningGateway(folder)
    await running.start(key_row(), service_row(upstream.address), endpoint_row())
    yield running
    await running.stop()


def draining(gateway, drain_s: float = 10.0) -> asyncio.Task[None]:
    """Begin to drain as the worker does at SIGTERM."""
    gateway.parts.settings = replace(gateway.parts.settings, drain_s=drain_s)
    return asyncio.create_task(worker._drain(gateway.parts, gateway._server))


async def soon(awaitable, seconds: float = 4.0):
    return await asyncio.wait_for(awaitable, seconds)


class Held:
    """A stream whose first event is out and whose end the test decides."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.go_on = asyncio.Event()
        upstream.script = self._script

    async def _script(self, received, line) -> None:
        await line.send(STREAM_HEAD + chunk(delta("first")))
        await self.go_on.wait()
        await line.send(chunk(delta("last") + DONE) + chunk(b""))


@pytest.fixture
async def held(upstream):
    held = Held(upstream)
    yield held
    held.go_on.set()


@pytest.fixture
async def dial():
    """Opens connections to the gateway and closes them after the test."""
    opened: list[RawClient] = []

    async def one(port: int, limit: int = 1 << 24) -> RawClient:
        opened.append(RawClient(*await asyncio.open_connection("127.0.0.1", port, limit=limit)))
        return opened[-1]

    yield one
    for client in opened:
        client.reset()


async def begin_stream(dial, gateway) -> RawClient:
    client = await dial(gateway.port)
    await client.send(request(STREAM))
    assert (await soon(client.read_head()))[0] == 200
    assert await soon(client.read_chunk()) == delta("first")
    return client


async def test_idle_connections_are_closed_and_the_drain_ends(dial, gateway):
    fresh, used = [await dial(gateway.port) for _ in range(2)]
    assert (await used.ask(CHAT)).status == 200
    started = time.monotonic()
    await soon(draining(gateway))
    assert time.monotonic() - started < 3
    assert await soon(fresh.at_end())
    assert await soon(used.at_end())
    assert not gateway.parts.connections


async def test_a_drained_worker_accepts_nobody(dial, gateway):
    await soon(draining(gateway))
    with pytest.raises(OSError):
        await dial(gateway.port)


async def test_a_running_stream_ends_whole_and_its_connection_is_closed(dial, gateway, held):
    client = await begin_stream(dial, gateway)
    drain = draining(gateway)
    await until(lambda: gateway.parts.draining)
    held.go_on.set()
    body = b""
    while piece := await soon(client.read_chunk()):
        body += piece
    assert body == delta("last") + DONE
    assert await soon(client.at_end())
    await soon(drain)
    [record] = gateway.records()
    assert (record.status, record.ended) == (200, "complete")


async def test_a_request_on_a_kept_connection_is_answered_with_a_close(dial, gateway):
    client = await dial(gateway.port)
    assert "connection" not in (await client.ask(CHAT)).headers
    drain = draining(gateway)
    await until(lambda: gateway.parts.draining)
    answer = await soon(client.ask(CHAT))
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await soon(client.at_end())
    await soon(drain)


async def test_a_request_that_is_being_sent_is_still_answered(dial, gateway):
    client = await dial(gateway.port)
    whole = request(CHAT)
    await client.send(whole[:40])
    await until(lambda: any(one._request is not None for one in gateway.parts.connections))
    drain = draining(gateway)
    await until(lambda: gateway.parts.draining)
    await client.send(whole[40:])
    answer = await soon(client.read_answer())
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    await soon(drain)


async def test_a_request_behind_a_running_stream_gets_its_answer_too(dial, gateway, held):
    client = await begin_stream(dial, gateway)
    drain = draining(gateway)
    await until(lambda: gateway.parts.draining)
    await client.send(request(None, "/health", method="GET"))
    held.go_on.set()
    while await soon(client.read_chunk()):
        pass
    answer = await soon(client.read_answer())
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    await soon(drain)


async def test_what_still_runs_at_the_limit_is_cut_and_counted_as_aborted(dial, gateway, held, upstream):
    client = await begin_stream(dial, gateway)
    started = time.monotonic()
    await soon(draining(gateway, drain_s=0.3))
    assert 0.2 < time.monotonic() - started < 2
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await soon(client.read_chunk())
    await until(lambda: not gateway.parts.connections)
    [record] = gateway.records()
    assert (record.ended, record.completion_tokens > 0) == ("aborted", True)
    assert all(one.in_flight == 0 for one in gateway.parts.table.services["svc-1"].replicas)


async def test_a_caller_that_reads_nothing_does_not_hold_the_drain_beyond_its_limit(dial, gateway, upstream):
    async def script(received, line):
        await line.send(STREAM_HEAD)
        while True:
            await line.send(chunk(delta("x" * 60_000)))

    upstream.script = script
    client = await dial(gateway.port, 1024)
    await client.send(request(STREAM))
    await until(lambda: any(one._write_paused for one in gateway.parts.connections))
    await soon(draining(gateway, drain_s=0.3))
    await until(lambda: not gateway.parts.connections)


async def test_a_relayed_answer_that_runs_ends_whole(dial, gateway):
    control = FakePublicSocket(Path(gateway.parts.public_socket))
    await control.start()
    go_on = asyncio.Event()

    async def script(relayed):
        await relayed.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await go_on.wait()
        await relayed.send(b"cd")

    control.script = script
    client = await dial(gateway.port)
    await client.send(request(None, "/manage/v1/x", method="GET"))
    await soon(client.read_head())
    drain = draining(gateway)
    await until(lambda: gateway.parts.draining)
    go_on.set()
    assert await soon(client.reader.readexactly(4)) == b"abcd"
    assert await soon(client.at_end())
    await soon(drain)
    await control.stop()


async def test_a_relayed_answer_without_an_end_does_not_hold_the_drain(dial, gateway, monkeypatch):
    """A followed log goes on as long as somebody listens; its reader asks again."""
    monkeypatch.setattr("mooring.gateway.server._ENDLESS_S", 0.1)
    control = FakePublicSocket(Path(gateway.parts.public_socket))
    await control.start()

    async def script(relayed):
        await relayed.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await asyncio.Event().wait()

    control.script = script
    client = await dial(gateway.port)
    await client.send(request(None, "/manage/v1/x", method="GET"))
    await soon(client.read_head())
    await soon(draining(gateway))
    assert gateway.parts.connections == set()
    await control.stop()


# --- the real process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class GatewayProcess:
    """`python -m mooring.app gateway` and a scripted control's feed."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.settings = settings_module.load({}, data_dir=folder, port=self.port, drain_s=5.0, slots=256)
        self.control = FakeFeed(self.settings.run_dir / "feed.sock")
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, *rows) -> None:
        if rows:
            await self.control.start()
        self.spawn()
        if rows:
            await self.control.dialled()
            self.control.full(1, rows)
            await self.control.acknowledged(1)
        await until(self.answers, 20)

    def spawn(self) -> None:
        environ = {**os.environ, **settings_module.environment(self.settings)}
        self.process = subprocess.Popen([sys.executable, "-m", "mooring.app", "gateway"], env=environ)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the gateway has ended"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        assert self.process is not None
        process = self.process
        await until(lambda: process.poll() is not None, 10)
        return process.returncode

    async def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        await self.control.stop()


@pytest.fixture
async def process(folder):
    process = GatewayProcess(folder)
    yield process
    await process.stop()


async def test_at_sigterm_a_worker_ends_its_streams_delivers_its_journal_and_leaves_nothing(
    dial, process, upstream, held, folder
):
    await process.start(key_row(), service_row(upstream.address), endpoint_row())
    idle = await dial(process.port)
    client = await begin_stream(dial, process)
    process.terminate()
    assert await soon(idle.at_end())
    assert process.process.poll() is None
    held.go_on.set()
    while await soon(client.read_chunk()):
        pass
    assert await process.ended() == 0
    [record] = process.control.store.records.values()
    assert (record.status, record.ended) == (200, "complete")
    assert not any(one.is_dir() for one in (folder / "journal").iterdir())


async def test_a_worker_killed_in_a_stream_leaves_a_record_to_its_successor(dial, process, upstream, held, folder):
    await process.start(key_row(), service_row(upstream.address), endpoint_row())
    client = await begin_stream(dial, process)
    process.process.kill()
    process.process.wait()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await soon(client.read_chunk())
    process.spawn()
    await until(lambda: bool(process.control.store.records), 10)
    [record] = process.control.store.records.values()
    assert (record.ended, record.estimated, record.completion_tokens > 0) == ("aborted", True, True)
    process.terminate()
    assert await process.ended() == 0


async def test_a_worker_starts_and_stops_without_control(dial, process):
    await process.start()
    client = await dial(process.port)
    answer = await soon(client.ask(CHAT))
    assert answer.status == 503
    assert answer.headers["retry-after"]
    process.terminate()
    assert await process.ended() == 0
