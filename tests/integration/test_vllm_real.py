"""The real vLLM with a tiny model, where it is installed: `MOORING_TEST_VLLM="/opt/vllm/bin/vllm serve" make test`.

Takes three to five minutes on two cores. docs/reference/engines.md says how to install vLLM for CPUs.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from mooring.core.models import ModelFiles
from mooring.core.replicas import AdapterFiles, LaunchPlan, LaunchRequest, ReplicaPlace
from mooring.engines import vllm
from mooring.testing.engines import tiny_qwen

COMMAND = tuple(shlex.split(os.environ.get("MOORING_TEST_VLLM", "")))
START_S, END_S = 300.0, 60.0
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 12}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMMAND, reason="opt-in: MOORING_TEST_VLLM names the command of an installed vLLM"),
]


class Engine:
    """One replica of vLLM as a process of this test."""

    def __init__(self, request: LaunchRequest, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.request = request
        self.place = ReplicaPlace("rpl-1", folder, folder / "e.sock", "k3y", threads=1)
        self.plan: LaunchPlan = vllm.launch_plan(request, self.place)
        self.log = folder / "stderr.log"
        self.steps: list[str] = []
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.plan.argv, env=self.plan.env, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def wait_ready(self) -> float:
        begun = time.monotonic()
        while (probe := await vllm.probe(self.plan.address, self.place.key)).state != "ready":
            assert self.process.poll() is None, self.said()[-4000:]
            assert time.monotonic() - begun < START_S, (probe, self.said()[-4000:])
            assert probe.state == "starting"
            step = vllm.progress(self.said())
            if step and step not in self.steps:
                self.steps.append(step)
            await asyncio.sleep(0.05)
        return time.monotonic() - begun

    @contextmanager
    def asking(self, path: str, body: object = None, key: str | None = None) -> Iterator[http.client.HTTPResponse]:
        made = http.client.HTTPConnection("engine")
        made.sock = socket.socket(socket.AF_UNIX)
        made.sock.settimeout(END_S)
        made.sock.connect(str(self.place.socket))
        headers = {"Authorization": f"Bearer {key or self.place.key}", "Content-Type": "application/json"}
        made.request("GET" if body is None else "POST", path, json.dumps(body) if body else None, headers)
        try:
            yield made.getresponse()
        finally:
            made.close()

    async def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        def once() -> tuple[int, Any]:
            with self.asking(path, body) as answer:
                return answer.status, json.loads(answer.read())

        return await asyncio.to_thread(once)

    def resident_bytes(self) -> int:
        root = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)])

    async def wait_in_flight(self, wanted: int) -> None:
        deadline = time.monotonic() + END_S
        while (seen := await vllm.in_flight(self.plan.address, self.place.key)) != wanted:
            assert time.monotonic() < deadline, seen
            await asyncio.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        begun = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(END_S)
        return time.monotonic() - begun


@pytest.fixture(scope="module")
def model() -> Iterator[ModelFiles]:
    folder = Path(tempfile.mkdtemp(prefix="mooring-vllm-"))  # short: a socket's path lies below it
    path = tiny_qwen.write_model(folder / "tiny")
    yield ModelFiles("safetensors", path, (path / "model.safetensors").stat().st_size)
    shutil.rmtree(folder)


@asynccontextmanager
async def running(model: ModelFiles, name: str, *args: str, **members: Any) -> AsyncIterator[Engine]:
    folder = model.path.parent
    request = LaunchRequest(
        model, "tiny", ("--enforce-eager", *args), program=COMMAND, cache=folder / "cache", **members
    )
    engine = Engine(request, folder / name)
    try:
        yield engine
    finally:
        if engine.process.poll() is None:
            os.killpg(engine.process.pid, signal.SIGKILL)
            engine.process.wait()


async def test_a_generating_run_from_its_start_to_its_end(model: ModelFiles) -> None:
    adapter = tiny_qwen.write_adapter(model.path.parent / "pirate", rank=4)
    adapters = (AdapterFiles("pirate", adapter),)
    async with running(model, "chat", "--max-model-len=512", adapters=adapters) as engine:
        ready_s = await engine.wait_ready()
        assert engine.steps, "the log told of its steps"
        probe = await vllm.probe(engine.plan.address, engine.place.key)
        assert probe.context_length == 512
        assert (await vllm.probe(engine.plan.address, "another key")).state == "stranger"
        await _chats(engine)
        await _streams(engine)
        resident, need = engine.resident_bytes(), vllm.memory_need(engine.request)
        assert 0.6 < resident / need.total < 1.1, need.told()
        await engine.wait_in_flight(0)
        ended_s = engine.end()
        print(
            f"\nready after {ready_s:.0f} s by way of {engine.steps}; {resident >> 20} MiB resident,"
            f" estimated {need.told()}; ended {ended_s:.1f} s after SIGTERM with {engine.process.returncode}"
        )


async def _chats(engine: Engine) -> None:
    status, models = await engine.ask("/v1/models")
    assert status == 200
    assert {entry["id"] for entry in models["data"]} == {"tiny", "tiny:pirate"}
    status, plain = await engine.ask("/v1/chat/completions", CHAT)
    assert status == 200
    assert plain["usage"]["completion_tokens"] > 0
    status, adapted = await engine.ask("/v1/chat/completions", CHAT | {"model": "tiny:pirate"})
    assert (status, adapted["model"]) == (200, "tiny:pirate")
    assert adapted["choices"] != plain["choices"], "the adapter changes the answer"
    _, again = await engine.ask("/v1/chat/completions", CHAT)
    assert again["choices"] == plain["choices"], "the model itself answers as before"


async def _streams(engine: Engine) -> None:
    """A stream is in flight while it lasts, and no more once its client has left."""
    await engine.wait_in_flight(0)
    body = CHAT | {"stream": True, "ignore_eos": True, "max_tokens": 450}
    with engine.asking("/v1/chat/completions", body) as answer:
        assert (await asyncio.to_thread(answer.readline)).startswith(b"data: ")
        await engine.wait_in_flight(1)
    await engine.wait_in_flight(0)
    body |= {"max_tokens": 4}
    with engine.asking("/v1/chat/completions", body) as answer:
        assert (await asyncio.to_thread(answer.read)).endswith(b"data: [DONE]\n\n")


async def test_a_pooling_run_embeds_and_reranks(model: ModelFiles) -> None:
    async with running(model, "embed", types=("embedding", "rerank")) as engine:
        await engine.wait_ready()
        status, embedded = await engine.ask("/v1/embeddings", {"model": "tiny", "input": ["a", "b"]})
        assert status == 200
        assert [len(entry["embedding"]) for entry in embedded["data"]] == [tiny_qwen.HIDDEN] * 2
        order = {"model": "tiny", "query": "Hello", "documents": ["Bonjour", "Hello"]}
        status, ranked = await engine.ask("/v1/rerank", order)
        assert status == 200
        assert ranked["results"][0]["document"]["text"] == "Hello", "the same text is the nearest"
        engine.end()


async def test_a_start_that_fails_tells_its_cause(model: ModelFiles) -> None:
    async with running(model, "fail", "--max-model-len=4096") as engine:
        assert await asyncio.to_thread(engine.process.wait, START_S) != 0
        assert "User-specified max_model_len (4096) is greater" in vllm.last_error(engine.said())
