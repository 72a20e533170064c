"""When a model is fetched: once, again after a pause, at once when somebody asks anew; never for nobody."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mooring.core.models import FetchOrder, FetchReport
from mooring.core.objects import Metadata
from mooring.core.replicas import Capacity
from mooring.core.services import ModelService, ModelServiceSpec
from mooring.reconcile.launching.models import Models, Standing
from mooring.settings import Settings
from mooring.testing.clock import ManualClock

MACHINE = Capacity(cpu=4, memory_mib=8192, gpus=0)
HUB = {"source": "huggingface", "name": "org/model"}
REFUSED = FetchReport("failed", "It is gated.", final=True)
CUT = FetchReport("failed", "The connection broke.", done_bytes=5)


class FakeCache:
    """Remembers what it was asked for; `reports` says how far each order is."""

    def __init__(self) -> None:
        self.reports: dict[str, FetchReport] = {}
        self.fetched: list[tuple[str, str]] = []  # name, token
        self.stopped: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def report(self, order: FetchOrder) -> FetchReport:
        return self.reports.get(order.name, FetchReport("absent"))

    async def fetch(self, order: FetchOrder, token: str = "") -> None:
        await self.gate.wait()
        self.fetched.append((order.name, token))
        self.reports[order.name] = FetchReport("downloading")

    async def stop(self, order: FetchOrder) -> None:
        self.stopped.append(order.name)

    async def stop_all(self) -> None:
        self.stopped.append("all")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.cache = FakeCache()
        self.clock = ManualClock()
        settings = replace(Settings(), data_dir=folder, vllm_command="no-such-vllm serve")
        self.models = Models(settings, self.cache, clock=self.clock)  # type: ignore[arg-type]
        self.tokens = {("default", "hf"): "old"}

    async def look(self, *services: ModelService, seconds: float = 1.0) -> list[Standing]:
        await self.clock.advance(seconds)
        found = await self.models.look(services, self.tokens, MACHINE)
        for _ in range(5):
            await asyncio.sleep(0)
        return [found[service.id] for service in services]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def service(name: str = "a", version: int = 1, **model: Any) -> ModelService:
    spec = ModelServiceSpec.model_validate({"model": {**HUB, **model}})
    made = ModelService(id=f"svc-{name}", metadata=Metadata(name=name), spec=spec)
    return made.model_copy(update={"status": made.status.model_copy(update={"spec_version": version})})


async def test_a_fetch_that_is_slow_to_begin_holds_up_no_round_and_begins_once(bench: Bench) -> None:
    bench.cache.gate.clear()
    for _ in range(3):
        (standing,) = await bench.look(service())
        assert standing.hold is not None
        assert standing.hold.state == "downloading"
    bench.cache.gate.set()
    await bench.look(service())
    assert bench.cache.fetched == [("org/model", "")]


async def test_what_failed_for_good_is_tried_again_only_when_somebody_asks_anew(bench: Bench) -> None:
    await bench.look(service())
    bench.cache.reports["org/model"] = REFUSED
    for _ in range(5):
        (standing,) = await bench.look(service(), seconds=100)
        assert standing.hold is not None
        assert (standing.hold.state, "It is gated." in standing.hold.reason) == ("failed", True)
    assert len(bench.cache.fetched) == 1
    (standing,) = await bench.look(service(version=2))
    assert standing.hold is not None
    assert standing.hold.state == "downloading", "the verdict on the try before is no verdict on this one"
    assert len(bench.cache.fetched) == 2


async def test_two_services_of_one_model_try_once_each_and_not_in_turns_for_ever(bench: Bench) -> None:
    await bench.look(service("a", 1), service("b", 7))
    bench.cache.reports["org/model"] = REFUSED
    for _ in range(10):
        await bench.look(service("a", 1), service("b", 7))
    assert len(bench.cache.fetched) == 1
    await bench.look(service("a", 1), service("b", 7), service("c", 3))
    assert len(bench.cache.fetched) == 2, "a new service asks anew"


async def test_a_broken_fetch_is_begun_again_after_pauses_that_grow_while_nothing_comes(bench: Bench) -> None:
    await bench.look(service())
    begun = []
    for second in range(40):
        if bench.cache.reports["org/model"].state == "downloading":
            begun.append(second)
            bench.cache.reports["org/model"] = CUT
        await bench.look(service())
    gaps = [after - before for before, after in itertools.pairwise(begun)]
    assert gaps == sorted(gaps)
    assert gaps[0] < gaps[-1]


async def test_another_token_replaces_the_fetch_that_shows_the_old_one(bench: Bench) -> None:
    await bench.look(service(tokenSecret="hf"))
    await bench.look(service(tokenSecret="hf", version=1))
    assert bench.cache.fetched == [("org/model", "old")]
    bench.tokens[("default", "hf")] = "new"
    await bench.look(service(tokenSecret="hf"))
    assert bench.cache.fetched == [("org/model", "old"), ("org/model", "new")]
    assert bench.cache.stopped[-1] == "org/model"


async def test_what_no_service_waits_for_is_not_fetched_any_more(bench: Bench) -> None:
    await bench.look(service())
    before = len(bench.cache.stopped)
    await bench.look()
    assert bench.cache.stopped[before:] == ["org/model"]
    await bench.look()
    assert len(bench.cache.stopped) == before + 1


async def test_what_only_vllm_runs_is_refused_as_soon_as_its_files_are_listed(bench: Bench) -> None:
    await bench.look(service())
    bench.cache.reports["org/model"] = FetchReport("downloading", format="safetensors")
    (standing,) = await bench.look(service())
    assert standing.hold is not None
    assert standing.hold.state == "failed"
    assert "needs vLLM, and there is no program 'no-such-vllm'" in standing.hold.reason
    assert bench.cache.stopped[-1] == "org/model"
    bench.cache.reports["org/model"] = FetchReport("downloading", format="gguf")
    (standing,) = await bench.look(service())
    assert standing.hold is not None
    assert standing.hold.state == "downloading"


async def test_a_folder_that_cannot_be_made_holds_one_service_and_not_the_loop(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    settings = replace(Settings(), data_dir=tmp_path, vllm_command="sh -c", model_roots=(str(tmp_path),))
    models = Models(settings, bench.cache, clock=bench.clock)  # type: ignore[arg-type]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    spec = ModelServiceSpec.model_validate({"model": {"source": "local", "path": str(folder)}})
    found = await models.look([ModelService(id="svc-x", metadata=Metadata(name="x"), spec=spec)], {}, MACHINE)
    hold = found["svc-x"].hold
    assert hold is not None
    assert (hold.state, "cache" in hold.reason) == ("pending", True)
