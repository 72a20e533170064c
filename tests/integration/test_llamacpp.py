"""The real embedded engine with the demo model, under the real shim, on its Unix socket."""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import mooring
from mooring.core.models import ModelFiles
from mooring.core.processes import start_time
from mooring.core.replicas import AdapterFiles, LaunchPlan, LaunchRequest, ReplicaPlace
from mooring.engines import llamacpp
from mooring.engines.llamacpp_flags import FLAGS, Member, read_flags
from mooring.engines.llamacpp_server import configure
from mooring.gateway.waiting import PLACES_PER_SLOT
from mooring.placements.local import LocalPlacement
from mooring.settings import Settings
from mooring.testing.engines.files import write_demo_adapter

DEMO = Path(mooring.__file__).parent / "assets" / "mooring-demo.gguf"
PATIENCE_S = 60.0
GREETING = [{"role": "user", "content": "你好"}]


class Engine:
    """One placement with one replica of the demo model, and an HTTP client for its socket."""

    def __init__(self, settings: Settings) -> None:
        self.placement = LocalPlacement(settings)
        self.folder = settings.data_dir / "replicas" / "rpl-1"
        self.place: ReplicaPlace
        self.request: LaunchRequest
        self.plan: LaunchPlan

    async def start(self, args: Sequence[str] = (), model: Path = DEMO, **members: Any) -> None:
        self.place = self.placement.place("rpl-1")
        self.request = LaunchRequest(ModelFiles("gguf", model, 1), "mooring-demo", tuple(args), **members)
        self.plan = llamacpp.launch_plan(self.request, self.place)
        await self.placement.start(self.place, self.plan, service_id="svc-1", spec_version=1)

    async def wait_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while (probe := await llamacpp.probe(self.plan.address, self.place.key)).state != "ready":
            assert time.monotonic() < deadline, (probe, await self.placement.logs("rpl-1", 30))
            assert probe.state in ("starting", "unreachable")
            await asyncio.sleep(0.01)

    async def wait_ended(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not (self.folder / "exit.json").exists():
            assert time.monotonic() < deadline, await self.placement.logs("rpl-1", 30)
            await asyncio.sleep(0.01)
        return json.loads((self.folder / "exit.json").read_text())

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        made = http.client.HTTPConnection("engine")
        made.sock = socket.socket(socket.AF_UNIX)
        made.sock.settimeout(PATIENCE_S)
        made.sock.connect(str(self.place.socket))
        try:
            yield made
        finally:
            made.close()

    def ask(self, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        with self.connection() as connection:
            send(connection, path, body, self.place.key if key is None else key)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


def send(connection: http.client.HTTPConnection, path: str, body: object, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection.request("GET" if body is None else "POST", path, json.dumps(body) if body else None, headers)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    settings = Settings(data_dir=tmp_path)
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = Engine(settings)
        yield made
        for seen in await made.placement.list():
            await made.placement.stop(seen.replica_id, 0.0)
    shutil.rmtree(settings.run_dir, ignore_errors=True)


async def test_it_becomes_ready_and_tells_its_slots_and_their_context(engine: Engine) -> None:
    await engine.start(["--ctx-size=2048", "--parallel=2"])
    await engine.wait_ready()
    probe = await llamacpp.probe(engine.plan.address, engine.place.key)
    assert (probe.slots, probe.context_length) == (2, 1024)
    assert engine.plan.slots == 2


async def test_it_chats_and_embeds_for_the_holder_of_its_key_only(engine: Engine) -> None:
    await engine.start()
    await engine.wait_ready()
    question = {"messages": GREETING, "temperature": 0, "max_tokens": 64}
    status, answer = await asyncio.to_thread(engine.ask, "/v1/chat/completions", question)
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
    assert answer["model"] == "mooring-demo"
    assert answer["usage"]["completion_tokens"] > 0
    status, answer = await asyncio.to_thread(engine.ask, "/v1/embeddings", {"input": ["a", "b"]})
    assert status == 200
    assert len(answer["data"]) == 2
    for path in ("/v1/chat/completions", "/v1/embeddings", "/tokenize", "/apply-template", "/v1/completions"):
        for key in ("", "wrong"):
            status, _ = await asyncio.to_thread(engine.ask, path, question, key)
            assert status == 401, path
    for path in ("/props", "/slots", "/v1/models"):
        assert (await asyncio.to_thread(engine.ask, path, None, ""))[0] == 401


async def test_an_engine_with_another_key_is_a_stranger(engine: Engine) -> None:
    await engine.start()
    await engine.wait_ready()
    assert (await llamacpp.probe(engine.plan.address, "another key")).state == "stranger"


async def test_nobody_on_the_socket_is_unreachable(engine: Engine) -> None:
    assert (await llamacpp.probe("unix:/nowhere/e.sock", "key")).state == "unreachable"


async def test_a_killed_engine_leaves_its_exit_status(engine: Engine) -> None:
    await engine.start()
    await engine.wait_ready()
    pid = (await engine.placement.list())[0].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert (await engine.wait_ended())["exit_status"] == -signal.SIGKILL
    assert not (await engine.placement.list())[0].alive
    assert not engine.place.socket.exists()


async def test_it_stops_within_three_seconds_although_a_stream_is_open(engine: Engine) -> None:
    await engine.start()
    await engine.wait_ready()
    pid = (await engine.placement.list())[0].pid
    assert pid
    body = {"prompt": "a", "max_tokens": 100000, "ignore_eos": True, "stream": True}
    with engine.connection() as connection:
        send(connection, "/v1/completions", body, engine.place.key)
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        begun = time.monotonic()
        await engine.placement.stop("rpl-1", 5.0)
        assert time.monotonic() - begun < 3.0
    assert start_time(pid) is None


async def test_a_client_that_leaves_frees_its_slot(engine: Engine) -> None:
    await engine.start(["--parallel=1", "--ctx-size=1024"])
    await engine.wait_ready()
    body = {"prompt": "a", "max_tokens": 100000, "ignore_eos": True, "stream": True}
    with engine.connection() as connection:
        send(connection, "/v1/completions", body, engine.place.key)
        assert connection.getresponse().readline().startswith(b"data: ")
    status, _ = await asyncio.to_thread(
        engine.ask, "/v1/chat/completions", {"messages": GREETING, "max_tokens": 1}, engine.place.key
    )
    assert status == 200


async def test_a_probe_is_answered_beside_as_many_streams_as_the_gateway_may_open(engine: Engine) -> None:
    await engine.start(["--ctx-size=2048"])
    await engine.wait_ready()
    body = {"prompt": "a", "max_tokens": 100000, "ignore_eos": True, "stream": True}
    streams = 2 * PLACES_PER_SLOT * engine.plan.slots  # twice: while gateway workers are replaced
    with ExitStack() as stack:
        for connection in [stack.enter_context(engine.connection()) for _ in range(streams)]:
            send(connection, "/v1/completions", body, engine.place.key)
        await until_working(engine, engine.plan.slots)
        for _ in range(20):
            assert (await llamacpp.probe(engine.plan.address, engine.place.key)).state == "ready"
    await until_working(engine, 0)


async def test_a_probe_is_answered_while_callers_come_and_leave(engine: Engine) -> None:
    await engine.start(["--ctx-size=2048"])
    await engine.wait_ready()
    body = {"prompt": "a", "max_tokens": 100000, "ignore_eos": True}

    for _ in range(25):  # the engine notices within a second that they left
        with ExitStack() as stack:
            for _ in range(PLACES_PER_SLOT * engine.plan.slots):
                send(stack.enter_context(engine.connection()), "/v1/completions", body, engine.place.key)
            assert (await llamacpp.probe(engine.plan.address, engine.place.key)).state == "ready"


async def until_working(engine: Engine, requests: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (seen := await llamacpp.in_flight(engine.plan.address, engine.place.key)) != requests:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.01)


async def test_an_adapter_changes_the_answers_that_ask_for_it_and_no_others(engine: Engine, tmp_path: Path) -> None:
    body = {"messages": GREETING, "temperature": 0, "max_tokens": 24}

    async def answer(index: int | None) -> Any:
        lora = {} if index is None else {"lora": [{"id": index, "scale": 1}]}
        status, said = await asyncio.to_thread(engine.ask, "/v1/chat/completions", body | lora)
        assert status == 200
        return said["choices"]

    await engine.start()
    await engine.wait_ready()
    plain = await answer(None)
    await engine.placement.stop("rpl-1", 0.0)
    await engine.placement.remove("rpl-1")
    adapters = tuple(AdapterFiles(f"a{seed}", write_demo_adapter(tmp_path / f"{seed}.gguf", seed)) for seed in (7, 8))
    await engine.start(["--parallel=1", "--ctx-size=2048", "--cache-prompt"], adapters=adapters)
    await engine.wait_ready()
    assert await answer(None) == plain, "without an adapter the model answers as it does alone"
    first, second = await answer(0), await answer(1)
    assert plain != first != second != plain
    for index, wanted in (
        (None, plain),
        (0, first),
        (None, plain),
        (1, second),
        (0, first),
        (1, second),
        (None, plain),
    ):
        assert await answer(index) == wanted, "nothing is left in the slot by another adapter"


async def test_what_it_takes_in_memory_is_below_the_estimate_and_not_far(engine: Engine) -> None:
    await engine.start(["--ctx-size=65536", "--parallel=1", "--cache-ram=0"])
    await engine.wait_ready()
    body = {"prompt": [5 + number % 3000 for number in range(2000)], "max_tokens": 1}
    assert (await asyncio.to_thread(engine.ask, "/v1/completions", body))[0] == 200
    pid = (await engine.placement.list())[0].pid
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) << 10
    need = llamacpp.memory_need(engine.request)
    assert dict(need.parts)["KV cache"] < resident < need.total
    assert need.total < 4 * resident, need.told()
    assert llamacpp.progress(await engine.placement.logs("rpl-1", 200)) == "Loaded"


async def test_it_tells_how_many_requests_it_works_on(engine: Engine) -> None:
    await engine.start(["--parallel=2", "--ctx-size=2048"])
    await engine.wait_ready()
    address, key = engine.plan.address, engine.place.key
    assert await llamacpp.in_flight(address, key) == 0
    body = {"prompt": "a", "max_tokens": 100000, "ignore_eos": True, "stream": True}
    with engine.connection() as connection:
        send(connection, "/v1/completions", body, key)
        assert connection.getresponse().readline().startswith(b"data: ")
        assert await llamacpp.in_flight(address, key) == 1
    assert await llamacpp.in_flight(address, "another key") is None
    assert await llamacpp.in_flight("unix:/nowhere", key) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"this is no model at all", "invalid magic"),
        (b"", "failed to read magic"),
        (None, "not within the file bounds"),
    ],
)
async def test_a_broken_model_ends_the_engine_with_a_cause(
    engine: Engine, tmp_path: Path, content: bytes | None, said: str
) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(DEMO.read_bytes()[:2_000_000] if content is None else content)
    await engine.start(model=model)
    assert (await engine.wait_ended())["exit_status"] == 69
    assert said in llamacpp.last_error(await engine.placement.logs("rpl-1", 200))


async def test_a_missing_model_ends_the_engine_with_a_cause(engine: Engine, tmp_path: Path) -> None:
    await engine.start(model=tmp_path / "absent.gguf")
    assert (await engine.wait_ended())["exit_status"] == 69
    assert "absent.gguf does not exist" in llamacpp.last_error(await engine.placement.logs("rpl-1", 200))


def test_the_engine_process_refuses_flags_that_are_not_ours_and_a_missing_key() -> None:
    command = [sys.executable, "-m", "mooring.engines.llamacpp_server", "--model=m", "--alias=a", "--socket=s"]
    environment = {"PYTHONPATH": str(Path(mooring.__file__).parents[1]), "MOORING_ENGINE_KEY": "k"}
    refused = subprocess.run([*command, "--host=0.0.0.0"], env=environment, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (64, "error: the flag '--host' is not among those taken here\n")
    environment.pop("MOORING_ENGINE_KEY")
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (64, "error: MOORING_ENGINE_KEY is not set\n")


_SAMPLES = [
    "1",
    "0.5",
    "on",
    "mean",
    "none",
    "deepseek",
    "f16",
    "q8_0",
    "linear",
    "distribute",
    "layer",
    "chatml",
    '{"a": 1}',
]


def _some_value(name: str) -> list[str]:
    for sample in [[]] if FLAGS[name].read is None else [[text] for text in _SAMPLES]:
        try:
            read_flags([name, *sample])
        except ValueError:
            continue
        return sample
    raise AssertionError(f"no sample value fits {name}")


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_every_flag_sets_what_it_says_in_the_engines_parameters(name: str) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    values = read_flags([name, *_some_value(name)])
    configure(parameters, values, xllamacpp)
    for dotted, value in values.items():
        found = parameters
        for part in dotted.split("."):
            found = getattr(found, part)
        if isinstance(value, Member):
            value = getattr(getattr(xllamacpp, value.enumeration), value.name)
        assert found == pytest.approx(value) if isinstance(value, float) else found == value


def test_every_word_of_an_enumeration_exists_in_the_engine() -> None:
    import xllamacpp

    words = ["none", "layer", "row", "mean", "cls", "last", "rank", "linear", "yarn", "on", "off", "auto", "deepseek"]
    words += ["deepseek-legacy", "distribute", "isolate", "numactl", "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"]
    words += ["iq4_nl", "q5_0", "q5_1"]
    seen = 0
    for name, flag in FLAGS.items():
        for word in words if flag.read else []:
            try:
                (value,) = read_flags([name, word]).values()
            except ValueError:
                continue
            if isinstance(value, Member):
                seen += 1
                assert hasattr(getattr(xllamacpp, value.enumeration), value.name), (name, word)
    assert seen > 30
