"""kill -9 of every process in turn, under load: nothing hangs, all comes back, no request is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter

import pytest
from tests.e2e.callers import CHAT, Heard, Ledger, ask, busy, check_usage, events_of, long_chat, until_async
from tests.e2e.conftest import MakePlatform, MakeUpstream
from tests.e2e.running import Platform, until

STREAMS = 4  # as many as the demo's engine works on at once
ENGINE_BACK_S = 20.0
WORKER_BACK_S = 3.0
CONTROL_BACK_S = 15.0


@pytest.fixture(scope="module")
def all_ledgers() -> list[Ledger]:
    return []


@pytest.fixture
def ledger(all_ledgers: list[Ledger]) -> Ledger:
    """Return a new ledger that is also looked at once more after all the kills."""
    all_ledgers.append(Ledger())
    return all_ledgers[-1]


@pytest.fixture(scope="module")
def platform(make_module_platform: MakePlatform) -> Platform:
    return make_module_platform().start()


def answers(platform: Platform) -> bool:
    return platform.chat("Hello", max_tokens=4).status == 200


async def hear_some(ledger: Ledger, count: int = 30) -> None:
    enough = ledger.answered + count
    await until_async(lambda: ledger.answered >= enough, "answers under load")


async def test_a_killed_engine_comes_back(platform: Platform, ledger: Ledger) -> None:
    engine = platform.identity()["pid"]
    async with busy(platform, ledger):
        await hear_some(ledger)
        os.kill(engine, signal.SIGKILL)
        killed = time.monotonic()
        await until_async(lambda: platform.identity().get("pid", engine) != engine, "a new engine", ENGINE_BACK_S)
        await hear_some(ledger)
        assert time.monotonic() - killed < ENGINE_BACK_S
    assert {heard.status for heard in ledger.broken} <= {200, 502, 503}
    assert all(heard.error for heard in ledger.broken), "nobody is left without a word"
    assert answers(platform)
    (service,) = platform.manage("GET", "services")["items"]
    assert service["status"]["state"] == "healthy"
    check_usage(platform, ledger)


async def test_streams_of_a_killed_engine_end_with_an_error_event(platform: Platform, ledger: Ledger) -> None:
    engine = platform.identity()["pid"]
    theirs = Ledger()
    async with platform.client() as client:
        calls = [asyncio.create_task(ask(client, theirs, long_chat(platform))) for _ in range(STREAMS)]
        await until_async(lambda: sum(one.pieces > 5 for one in theirs.heard) == STREAMS, "running streams")
        os.kill(engine, signal.SIGKILL)
        heard = await asyncio.wait_for(asyncio.gather(*calls), 5)
    ledger.heard += heard
    assert {(one.status, one.error) for one in heard} == {(200, "upstream_failed")}
    until(lambda: answers(platform), "a new engine", ENGINE_BACK_S)
    records = check_usage(platform, ledger)
    for one in heard:
        record = records[one.request_id]
        assert (record["ended"], record["estimated"]) == ("error", True)
        assert abs(record["completionTokens"] - one.pieces) <= 2


async def test_the_engine_of_a_killed_shim_ends_and_is_started_again(platform: Platform, ledger: Ledger) -> None:
    engine = platform.identity()["pid"]
    async with busy(platform, ledger, callers=4):
        await hear_some(ledger)
        platform.kill("shim")
        await until_async(lambda: engine not in platform.pids("engine"), "the end of its engine", 2.0)
        await hear_some(ledger)
    assert len(platform.pids("engine")) == len(platform.pids("shim")) == 1
    check_usage(platform, ledger)


async def test_open_streams_of_a_killed_worker_are_recorded_as_aborted(platform: Platform, ledger: Ledger) -> None:
    worker, heard = platform.pid("gateway"), [Heard() for _ in range(STREAMS)]
    ledger.heard += heard

    async def listen(one: Heard) -> None:
        async with platform.client() as client, client.stream("POST", CHAT, json=long_chat(platform)) as answer:
            one.request_id, one.status = answer.headers["x-request-id"], answer.status_code
            async for _ in events_of(answer):
                one.pieces += 1

    calls = [asyncio.create_task(listen(one)) for one in heard]
    await until_async(lambda: all(one.pieces > 20 for one in heard), "running streams")
    os.kill(worker, signal.SIGKILL)
    killed = time.monotonic()
    answer = await asyncio.to_thread(platform.chat)
    assert answer.status == 200, f"the first answer of the new worker: {answer.body.decode()}"
    assert time.monotonic() - killed < WORKER_BACK_S
    assert platform.pid("gateway") != worker
    await asyncio.gather(*calls, return_exceptions=True)
    await until_async(lambda: platform.engine_load() == 0, "an engine that no longer writes for them", 2.0)
    records = check_usage(platform, ledger)
    for one in heard:
        record = records[one.request_id]
        assert (record["ended"], record["estimated"], record["endpointId"]) == ("aborted", True, platform.endpoint)
        assert one.pieces - 2 <= record["completionTokens"] <= 1900
        assert record["promptTokens"] > 0


async def test_a_killed_worker_under_load_loses_no_record(platform: Platform, ledger: Ledger) -> None:
    engine = platform.identity()["pid"]
    for _ in range(2):
        async with busy(platform, ledger):
            await hear_some(ledger)
            platform.kill("gateway")
            killed = time.monotonic()
            await hear_some(ledger)
            assert time.monotonic() - killed < WORKER_BACK_S + 2
    assert platform.identity()["pid"] == engine
    check_usage(platform, ledger)


async def test_while_control_is_dead_every_request_is_answered(platform: Platform, ledger: Ledger) -> None:
    engine = platform.identity()["pid"]
    async with busy(platform, ledger):
        await hear_some(ledger)
        control = platform.kill("control")[0]
        await hear_some(ledger)
        await until_async(lambda: platform.pids("control") not in ([], [control]), "a new control")
        managed = lambda: platform.call("GET", "/manage/v1/endpoints").status == 200  # noqa: E731
        await until_async(lambda: asyncio.get_running_loop() and managed(), "management", CONTROL_BACK_S)
        await hear_some(ledger)
    assert ledger.broken == []
    assert platform.identity()["pid"] == engine and platform.pids("engine") == [engine]
    check_usage(platform, ledger)


async def test_a_key_deleted_after_control_came_back_is_refused(platform: Platform) -> None:
    made = platform.create("keys", "short-lived", {})
    key = made["status"]["key"]
    assert platform.chat(key=key).status == 200
    platform.manage("DELETE", f"keys/{made['id']}")
    assert platform.chat(key=key).status == 401


@pytest.mark.parametrize("role", ["supervisor", "everything"])
async def test_all_is_adopted_after_everything_but_the_engine_was_killed(
    platform: Platform, ledger: Ledger, role: str
) -> None:
    engine, endpoint, key = platform.identity()["pid"], platform.endpoint, platform.key
    roles = ("supervisor", "gateway", "control") if role == "everything" else ("supervisor",)
    async with busy(platform, ledger, callers=4):
        await hear_some(ledger)
        victims = [pid for pid, found in platform.processes().items() if found in roles]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        assert platform.process
        await asyncio.to_thread(platform.process.wait, 10)
        left = lambda: set(platform.processes().values())  # noqa: E731
        await until_async(lambda: left() == {"shim", "engine"}, "the end of control and gateway with it", 5.0)
        await asyncio.to_thread(platform.start)
        await hear_some(ledger)
    assert platform.pids("engine") == [engine], "adopted"
    assert (platform.endpoint, platform.key) == (endpoint, key)
    assert platform.chat(model=endpoint, key=key).status == 200
    check_usage(platform, ledger)


async def test_a_sibling_records_what_a_killed_worker_had_open(
    make_platform: MakePlatform, make_upstream: MakeUpstream
) -> None:
    platform, theirs, others = make_platform("--gateway-workers", "2").start(), Ledger(), Ledger()
    upstream = make_upstream(chunks=150)
    platform.create("external-services", "slow", {"urls": [upstream.url], "servedModel": upstream.name})
    await until_async(lambda: platform.chat(model="slow").status == 200, "the external service")
    async with platform.client() as client, busy(platform, others):
        calls = [asyncio.create_task(ask(client, theirs, long_chat(platform, "slow"))) for _ in range(40)]
        await until_async(lambda: sum(one.pieces > 3 for one in theirs.heard) == 40, "running streams")
        os.kill(platform.pids("gateway")[0], signal.SIGKILL)
        await asyncio.gather(*calls)
    records = check_usage(platform, theirs)
    check_usage(platform, others)
    ends = Counter(records[one.request_id]["ended"] for one in theirs.heard)
    assert ends == {"complete": theirs.answered, "aborted": len(theirs.broken)}
    assert theirs.broken, "the killed worker had some of them"


async def test_engines_without_a_supervisor_end_by_themselves(make_platform: MakePlatform) -> None:
    platform = make_platform(orphan_grace_s="1").start()
    platform.kill("supervisor")
    assert platform.process
    await asyncio.to_thread(platform.process.wait, 10)
    await until_async(lambda: not platform.processes(), "the end of the engine", 15.0)


async def test_a_stream_is_complete_with_its_done_even_if_the_upstream_breaks_off_behind_it(
    platform: Platform, make_upstream: MakeUpstream, ledger: Ledger
) -> None:
    upstream = make_upstream(chunks=3, hangs_up=True)
    platform.create("external-services", "abrupt", {"urls": [upstream.url], "servedModel": upstream.name})
    await until_async(lambda: platform.chat(model="abrupt").status == 200, "the external service")
    async with platform.client() as client:
        heard = await ask(client, ledger, long_chat(platform, "abrupt"))
    assert (heard.complete, heard.error, heard.usage) == (True, "", (7, 3))
    check_usage(platform, ledger)


def test_after_all_this_every_record_is_still_there_once(platform: Platform, all_ledgers: list[Ledger]) -> None:
    everything = Ledger([heard for ledger in all_ledgers for heard in ledger.heard])
    assert everything.answered > 200
    check_usage(platform, everything)


def test_after_all_this_it_stops_in_order(platform: Platform) -> None:
    assert platform.stop() == 0
    until(lambda: not platform.processes(), "no process left", 2)
    assert "Traceback" not in platform.err()
