"""The loop and versions: what runs well is remembered, what does not come up is rolled back, and room is shared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import MakeDatabase

from mooring.control import sealing
from mooring.core.objects import Metadata
from mooring.core.replicas import Probe
from mooring.core.services import ModelService, ModelServiceSpec
from mooring.reconcile.services import Services
from mooring.settings import Settings
from mooring.sources.cache import ModelCache
from mooring.store import events, services
from mooring.store.database import Database
from mooring.store.replicas import list_replicas
from mooring.testing.clock import ManualClock
from mooring.testing.replicas import FakeEngine, FakePlacement

READY = Probe("ready", context_length=2048, slots=4)
BUILTIN = {"source": "builtin", "name": "mooring-demo"}
BAD = "--bad"


class Bench:
    """A database, a fake machine of 8 cores and 16 GiB, a clock, and the loop. Engines started with BAD crash."""

    def __init__(self, folder: Path, url: str) -> None:
        settings = Settings(data_dir=folder, model_roots=(str(folder),))
        self.db = Database(url)
        self.clock = ManualClock()
        self.placement = FakePlacement()
        self.engine = FakeEngine(self.placement)
        self.services = Services(
            self.db,
            self.placement,  # type: ignore[arg-type]
            ModelCache(settings),
            unseal=sealing.load(folder).unseal,
            wake=lambda: None,
            settings=settings,
            clock=self.clock,
            engines=lambda name: self.engine,
        )

    async def rounds(self, number: int, seconds: float = 1.0) -> None:
        for _ in range(number):
            await self.clock.advance(seconds)
            await self.services.step()
            await self.services.finish()
            await self.clock.settle()
            for name, process in list(self.placement.processes.items()):
                if BAD in self.engine.requests[name].args and process.alive:
                    self.placement.crash(name, 1, "error: bad flag")
                else:
                    process.answer = READY

    async def deploy(self, name: str = "demo", **spec: Any) -> None:
        wanted = ModelServiceSpec.model_validate({"model": BUILTIN} | spec)
        service = ModelService(id=f"svc-{name}", metadata=Metadata(name=name, project="default"), spec=wanted)
        async with self.db.transaction() as tx:
            await services.insert_service(tx, service)

    async def change(self, name: str = "demo", **spec: Any) -> None:
        async with self.db.transaction() as tx:
            service = await services.get_service(tx, f"svc-{name}")
            changed = service.spec.model_copy(update=spec)
            await services.update_service(tx, service.model_copy(update={"spec": changed}))

    async def get(self, name: str = "demo") -> ModelService:
        async with self.db.read() as tx:
            found = await services.get_service(tx, f"svc-{name}")
        assert isinstance(found, ModelService)
        return found

    async def told(self, name: str = "demo") -> list[str]:
        async with self.db.read() as tx:
            return [event.reason for event in await events.list_events(tx, f"svc-{name}")]


@pytest.fixture(params=["sqlite", "postgres"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[Bench]:
    url = make_database(request.param, tmp_path)
    bench = Bench(tmp_path, url)
    yield bench
    await bench.services.close()
    await bench.db.close()


async def test_a_new_version_that_does_not_come_up_is_rolled_back_and_says_why(bench: Bench) -> None:
    await bench.deploy(replicas=2)
    await bench.rounds(15)
    assert (await bench.get()).status.state == "healthy"
    (before, _) = await _rows(bench)
    await bench.change(args=[BAD], description="kept")
    await bench.rounds(1)
    states = set()
    for _ in range(40):
        await bench.rounds(1)
        service = await bench.get()
        states.add(service.status.state)
        assert service.status.ready_replicas == 2, "the old version serves all the while"
    assert states == {"updating", "healthy"}
    assert (service.spec.args, service.spec.description) == ([], "kept")
    assert service.status.spec_version == 3
    assert service.status.detail["rolledBack"]["version"] == 2
    assert "error: bad flag" in service.status.detail["rolledBack"]["reason"]
    assert service.status.reason.startswith("Version 2 did not come up and was rolled back: Failed 3 times in a row.")
    assert "RolledBack" in await bench.told()
    rows = await _rows(bench)
    assert {row.spec_version for row in rows} == {3}
    assert before.id in {row.id for row in rows}, "the engines that served were left alone"
    await bench.change(description="again")
    await bench.rounds(3)
    assert "rolledBack" not in (await bench.get()).status.detail, "told until the next change"


async def test_a_first_version_that_does_not_come_up_has_failed(bench: Bench) -> None:
    await bench.deploy(args=[BAD])
    await bench.rounds(20)
    service = await bench.get()
    assert (service.status.state, service.spec.args) == ("failed", [BAD])


async def test_a_version_that_crashes_again_and_again_before_it_ran_for_long_is_rolled_back(bench: Bench) -> None:
    await bench.deploy()
    await bench.rounds(15)
    await bench.change(args=["--ctx-size=64"])
    for _ in range(200):
        await bench.rounds(1)
        for name, process in bench.placement.processes.items():
            if bench.engine.requests[name].args and process.alive and process.answer is READY:
                bench.placement.crash(name, -11)
    service = await bench.get()
    assert (service.status.state, service.spec.args) == ("healthy", [])


async def test_services_share_the_machine_and_what_does_not_fit_waits_until_it_does(bench: Bench) -> None:
    await bench.deploy("first", resources={"cpu": 5})
    await bench.deploy("second", resources={"cpu": 4})
    await bench.deploy("third", resources={"cpu": 3})
    await bench.rounds(4)
    assert [(await bench.get(name)).status.state for name in ("first", "third")] == ["healthy", "healthy"]
    waiting = (await bench.get("second")).status
    assert (waiting.state, waiting.reason) == ("pending", "Waits for 4 cores: 8 of 8 are taken (by first, third).")
    async with bench.db.transaction() as tx:
        await services.delete_service(tx, "svc-first")
    await bench.rounds(40)
    assert (await bench.get("second")).status.state == "healthy"


async def test_memory_is_set_aside_as_estimated_and_too_large_a_model_is_refused_with_the_sum(bench: Bench) -> None:
    bench.engine.weights_bytes = 10 << 30
    await bench.deploy("first")
    await bench.rounds(3)
    await bench.deploy("second")
    await bench.rounds(3)
    waiting = (await bench.get("second")).status
    assert waiting.reason == "Waits for 10.0 GiB of memory: 10.0 GiB of 16.0 GiB are set aside (by first)."
    bench.engine.weights_bytes = 20 << 30
    await bench.deploy("third", args=["--other"])
    await bench.rounds(2)
    refused = (await bench.get("third")).status
    assert refused.state == "failed"
    assert refused.reason.startswith("The model needs 20.0 GiB (weights 20.0 GiB); this machine has 16.0 GiB.")


async def test_recreate_replaces_in_place_what_has_no_room_beside_itself(bench: Bench) -> None:
    await bench.deploy(resources={"cpu": 8})
    await bench.rounds(4)
    await bench.change(args=["--new"])
    await bench.rounds(4)
    stuck = (await bench.get()).status
    assert stuck.state == "updating"
    assert "Waits for 8 cores" in stuck.reason
    assert "'recreate'" in stuck.reason
    await bench.change(update="recreate")
    await bench.rounds(40)
    assert (await bench.get()).status.state == "healthy"
    assert [process.alive for process in bench.placement.processes.values()] == [True]
    assert [bench.engine.requests[name].args for name in bench.placement.processes] == [("--new",)]


async def test_a_local_model_that_is_gone_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    await bench.deploy(model={"source": "local", "path": str(model)})
    await bench.rounds(2)
    status = (await bench.get()).status
    assert (status.state, bench.placement.starts) == ("pending", [])
    assert "does not exist" in status.reason
    model.write_bytes(b"GGUF")
    await bench.rounds(4)
    assert (await bench.get()).status.state == "healthy"


async def _rows(bench: Bench) -> list[Any]:
    async with bench.db.read() as tx:
        return await list_replicas(tx, "svc-demo")
