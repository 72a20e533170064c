import asyncio

import pytest

from mooring.control import sealing
from mooring.core.external_services import ExternalService, ExternalServiceSpec
from mooring.core.objects import Metadata
from mooring.core.replicas import Probe
from mooring.core.services import ModelService, ModelServiceSpec
from mooring.reconcile.services import Services
from mooring.settings import Settings
from mooring.sources.cache import ModelCache
from mooring.store import changes, events, services
from mooring.store.database import Database
from mooring.store.replicas import list_replicas, set_service_state
from mooring.testing.clock import ManualClock
from mooring.testing.replicas import FakeEngine, FakePlacement

READY = Probe("ready", context_length=2048, slots=4)
BUILTIN = {"source": "builtin", "name": "mooring-demo"}


class Bench:
    """A database, a fake machine, a clock, and the loop between them."""

    def __init__(self, folder, url):
        self.settings = Settings(data_dir=folder)
        self.url = url
        self.db = Database(url)
        self.clock = ManualClock()
        self.placement = FakePlacement()
        self.sealer = sealing.load(folder)
        self.cache = ModelCache(self.settings)
        self.services = self.restarted()

    def restarted(self):
        self.engine = engine = FakeEngine(self.placement)
        self.services = Services(
            self.db,
            self.placement,
            self.cache,
            unseal=self.sealer.unseal,
            wake=lambda: None,
            settings=self.settings,
            clock=self.clock,
            engines=lambda name: engine,
        )
        return self.services

    async def round(self, seconds=0.0):
        await self.clock.advance(seconds)
        due = await self.services.step()
        await self.services.finish()
        await self.clock.settle()
        return due

    async def rounds(self, number, seconds=1.0):
        for _ in range(number):
            await self.round(seconds)

    async def deploy(self, name="demo", **spec):
        spec = ModelServiceSpec.model_validate({"model": BUILTIN} | spec)
        service = ModelService(id=f"svc-{name}", metadata=Metadata(name=name, project="default"), spec=spec)
        async with self.db.transaction() as tx:
            return await services.insert_service(tx, service)

    async def change(self, service_id, **spec):
        async with self.db.transaction() as tx:
            service = await services.get_service(tx, service_id)
            await services.update_service(tx, service.model_copy(update={"spec": service.spec.model_copy(update=spec)}))

    async def state(self, service_id="svc-demo"):
        async with self.db.read() as tx:
            service = await services.get_service(tx, service_id)
        return service.status.state, service.status.reason

    async def rows(self):
        async with self.db.read() as tx:
            return await list_replicas(tx)

    async def version(self):
        async with self.db.read() as tx:
            return await changes.version(tx)

    def answer(self, probe=READY):
        for process in self.placement.processes.values():
            process.answer = probe

    async def healthy(self, **spec):
        await self.deploy(**spec)
        await self.rounds(2)
        self.answer()
        await self.rounds(3)
        assert (await self.state())[0] == "healthy"


@pytest.fixture(params=["sqlite", "postgres"])
async def bench(request, tmp_path, make_database):
    url = make_database(request.param, tmp_path)
    bench = Bench(tmp_path, url)
    yield bench
    await bench.services.close()
    await bench.db.close()


async def test_a_new_service_goes_from_pending_over_starting_to_healthy_and_tells_the_gateways(bench):
    await bench.deploy()
    await bench.round()
    assert (await bench.state())[0] == "starting"
    before = await bench.version()
    bench.answer()
    await bench.rounds(2)
    assert await bench.state() == ("healthy", "")
    (row,) = await bench.rows()
    assert (row.state, row.slots, row.context_length) == ("ready", 4, 2048)
    async with bench.db.read() as tx:
        assert ("service", "svc-demo") in (await changes.since(tx, before) or [])
        told = [event.reason for event in await events.list_events(tx, "svc-demo")]
    assert told == ["Healthy", "Ready", "Starting", "Starting"]


async def test_a_settled_world_is_neither_written_to_nor_acted_on(bench):
    await bench.healthy()
    before, starts = await bench.version(), list(bench.placement.starts)
    await bench.rounds(70)
    await bench.round()
    assert (await bench.version(), bench.placement.starts) == (before, starts)


async def test_a_restarted_control_adopts_the_engines_that_run(bench):
    await bench.healthy(replicas=2)
    pids = {process.pid for process in bench.placement.processes.values()}
    before = await bench.version()
    await bench.services.close()
    bench.restarted()
    await bench.rounds(3)
    assert {process.pid for process in bench.placement.processes.values()} == pids
    assert len(bench.placement.starts) == 2
    assert await bench.state() == ("healthy", "")
    assert await bench.version() == before, "the gateways saw nothing of it"


async def test_a_crash_makes_the_service_unhealthy_and_a_new_start_heals_it(bench):
    await bench.healthy()
    (name,) = bench.placement.processes
    bench.placement.crash(name, -11)
    due_s = await bench.round()
    assert await bench.state() == ("unhealthy", "The engine was killed by signal 11. Starting again in 1 s.")
    assert due_s == pytest.approx(1.01)
    await bench.round(1.01)
    assert bench.placement.starts == [name, name]
    bench.answer()
    await bench.rounds(2)
    assert await bench.state() == ("healthy", "")


async def test_a_crash_loop_ends_in_failed_with_what_the_engine_said_and_a_changed_spec_tries_again(bench):
    await bench.healthy()
    (name,) = bench.placement.processes
    for _ in range(5):
        bench.placement.crash(name, -11, "loading\ntensor 'x' is missing")
        await bench.round()
        await bench.round(61)
        bench.answer()
        await bench.round(1)
    state, reason = await bench.state()
    assert state == "failed"
    assert "tensor 'x' is missing" in reason
    starts = len(bench.placement.starts)
    await bench.rounds(5, 60)
    assert len(bench.placement.starts) == starts
    await bench.change("svc-demo", env={"GGML_X": "1"})
    await bench.round()
    assert len(bench.placement.starts) == starts + 1
    bench.answer()
    await bench.rounds(2)
    assert await bench.state() == ("healthy", "")
    assert len(await bench.rows()) == 1


async def test_a_placement_that_refuses_is_asked_again_and_its_words_are_told(bench):
    bench.placement.refuses = "No space left on device."
    await bench.deploy()
    await bench.rounds(2, 0)
    state, reason = await bench.state()
    assert state == "starting"
    assert "No space left on device." in reason
    bench.placement.refuses = ""
    await bench.round(1.1)
    bench.answer()
    await bench.rounds(2)
    assert await bench.state() == ("healthy", "")


async def test_scaling_restarts_nothing_and_limits_do_not_either(bench):
    await bench.healthy()
    await bench.change("svc-demo", replicas=3)
    await bench.round()
    bench.answer()
    await bench.rounds(2)
    assert len(bench.placement.starts) == 3
    await bench.change("svc-demo", description="new words", replicas=1)
    await bench.rounds(5)
    assert len(bench.placement.starts) == 3
    assert len(bench.placement.processes) == 1
    assert await bench.state() == ("healthy", "")


async def test_new_arguments_start_a_new_engine_before_the_old_one_goes(bench):
    await bench.healthy()
    (old,) = bench.placement.processes
    await bench.change("svc-demo", args=["--ctx-size=2048"])
    await bench.round()
    assert (await bench.state())[0] == "updating"
    assert bench.placement.processes[old].alive
    assert len(bench.placement.processes) == 2
    bench.answer()
    await bench.rounds(6)
    assert old not in bench.placement.processes
    assert len(bench.placement.processes) == 1
    assert await bench.state() == ("healthy", "")


async def test_a_stopped_service_drains_its_requests_first(bench):
    await bench.healthy()
    (process,) = bench.placement.processes.values()
    process.in_flight = 1
    await bench.change("svc-demo", stopped=True)
    await bench.rounds(10)
    assert (await bench.state())[0] == "stopping"
    assert process.alive
    process.in_flight = 0
    await bench.rounds(4)
    assert (await bench.state())[0] == "stopped"
    assert bench.placement.processes == {}
    assert await bench.rows() == []


async def test_the_engines_of_a_deleted_service_end_and_leave_nothing(bench):
    await bench.healthy()
    async with bench.db.transaction() as tx:
        await services.delete_service(tx, "svc-demo")
    await bench.rounds(6)
    assert bench.placement.processes == {}
    assert await bench.rows() == []


async def test_an_engine_nobody_remembers_is_ended(bench):
    place = bench.placement.place("rep-lost")
    await bench.placement.start(place, None, service_id="svc-lost", spec_version=1)
    await bench.rounds(3)
    assert bench.placement.processes == {}


async def test_a_stranger_behind_the_socket_is_ended_and_the_seat_started_anew(bench):
    await bench.healthy()
    (process,) = bench.placement.processes.values()
    process.answer = Probe("stranger", "another key")
    await bench.round(2)
    await bench.rounds(2)
    assert not process.alive
    await bench.rounds(2, 1.1)
    bench.answer()
    await bench.rounds(2)
    assert await bench.state() == ("healthy", "")


async def test_a_silent_engine_is_unhealthy_within_seconds_and_healthy_as_soon_as_it_answers(bench):
    await bench.healthy()
    bench.answer(Probe("unreachable", "no answer within 5 s"))
    await bench.rounds(8)
    assert (await bench.state())[0] == "unhealthy"
    bench.answer()
    await bench.rounds(4)
    assert await bench.state() == ("healthy", "")
    assert len(bench.placement.starts) == 1


async def test_an_ordered_stop_ends_all_engines_and_the_next_start_begins_at_once(bench):
    await bench.healthy(replicas=2)
    await bench.services.stop_all()
    assert not any(process.alive for process in bench.placement.processes.values())
    bench.restarted()
    await bench.round()
    assert len(bench.placement.starts) == 4
    assert (await bench.state())[0] == "starting"


async def test_gpus_that_do_not_exist_are_named_and_nothing_is_started(bench):
    await bench.deploy(resources={"gpus": 2})
    await bench.round()
    assert await bench.state() == ("pending", "A replica wants 2 GPUs; this machine has 0.")
    assert bench.placement.starts == []


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"cpu": 400}, "A replica wants 400 cores; this machine has 8."),
        ({"memory": "100000Gi"}, "A replica wants 100000.0 GiB of memory; this machine has 16.0 GiB."),
    ],
)
async def test_more_than_the_machine_has_is_named_and_nothing_is_started(bench, resources, told):
    await bench.deploy(resources=resources)
    await bench.round()
    assert await bench.state() == ("pending", told)
    assert bench.placement.starts == []


async def test_a_waiter_can_tell_when_a_change_is_carried_out(bench):
    async def counts():
        async with bench.db.read() as tx:
            status = (await services.get_service(tx, "svc-demo")).status
        return status.spec_version, status.replicas, status.ready_replicas, status.current_replicas

    await bench.healthy()
    assert await counts() == (1, 1, 1, 1)
    await bench.change("svc-demo", args=["--ctx-size=2048"])
    assert await counts() == (2, 1, 1, 0)
    await bench.round()
    assert await counts() == (2, 1, 1, 0)
    bench.answer()
    await bench.rounds(6)
    assert await counts() == (2, 1, 1, 1)


async def test_what_was_found_out_about_an_older_spec_is_not_written(bench):
    await bench.healthy()
    await bench.change("svc-demo", replicas=2)
    async with bench.db.transaction() as tx:
        assert not await set_service_state(tx, "svc-demo", state="failed", reason="", spec_version=1)
        assert await set_service_state(tx, "svc-demo", state="updating", reason="", spec_version=2)


async def test_events_name_the_replica_tell_a_reason_once_and_of_an_adoption(bench):
    await bench.healthy()
    (name,) = bench.placement.processes
    bench.placement.crash(name, -11)
    await bench.round()
    await bench.round(1.01)
    bench.answer()
    await bench.rounds(2)
    await bench.services.close()
    bench.restarted()
    await bench.round()
    async with bench.db.read() as tx:
        told = [event.message for event in await events.list_events(tx, "svc-demo")][::-1]
    crash = "The engine was killed by signal 11. Starting again in 1 s."
    assert told[-6:-2] == [
        f"Replica {name}: {crash}", "The service is unhealthy.", f"Replica {name}: The engine starts again.", told[-3],
    ]  # fmt: skip
    assert sum(crash in message for message in told) == 1
    assert told[-1].startswith(f"Replica {name}: its engine (process ")


async def test_a_builtin_model_that_does_not_exist_is_failed(bench):
    await bench.deploy(model={"source": "builtin", "name": "no-such"})
    await bench.rounds(10, 20)
    state, reason = await bench.state()
    assert state == "failed"
    assert "no-such" in reason


async def serve_models(status):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"data": [{"id": "m"}]}'
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def register(bench, urls):
    spec = ExternalServiceSpec.model_validate({"urls": urls})
    service = ExternalService(id="svc-ext", metadata=Metadata(name="ext", project="default"), spec=spec)
    async with bench.db.transaction() as tx:
        await services.insert_service(tx, service)


async def external_state(bench, wanted):
    async with asyncio.timeout(10):
        while True:
            await bench.round()
            found = await bench.state("svc-ext")
            if found[0] == wanted:
                return found
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [200, 401, 404])
async def test_an_external_service_that_answers_is_healthy_whatever_it_says_to_the_probe(bench, status):
    server = await serve_models(status)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await register(bench, [f"http://127.0.0.1:{port}/v1"])
        _, reason = await external_state(bench, "healthy")
    assert ("refused the key" in reason) == (status == 401)


async def test_an_external_service_that_does_not_answer_is_unhealthy_with_its_url(bench):
    await register(bench, ["http://127.0.0.1:9/v1"])
    _, reason = await external_state(bench, "unhealthy")
    assert "http://127.0.0.1:9/v1" in reason


async def test_one_url_of_two_is_enough_and_the_other_one_is_named(bench):
    server = await serve_models(200)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await register(bench, [f"http://127.0.0.1:{port}/v1", "http://127.0.0.1:9/v1"])
        await external_state(bench, "healthy")
        async with asyncio.timeout(10):
            while "127.0.0.1:9" not in (await bench.state("svc-ext"))[1]:
                await bench.round()
                await asyncio.sleep(0.01)
    async with bench.db.read() as tx:
        urls = (await services.get_service(tx, "svc-ext")).status.detail["urls"]
    assert {entry["state"] for entry in urls.values()} == {"ready", "unreachable"}
