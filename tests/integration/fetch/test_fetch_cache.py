"""The cache: files that several orders share, what is listed, what may be removed, and two installations at once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.fetch.fetching import Installation, order, random_bytes, until

from mooring.core.files import is_held
from mooring.core.models import FetchOrder, FetchReport, Pruned
from mooring.sources.cache import ModelCache
from mooring.testing.hub import FakeHub, sha256

MIB = 1 << 20


def blob(data: bytes) -> str:
    return f"sha256-{sha256(data)}"


async def test_two_orders_at_once_fetch_what_they_share_once(hub: FakeHub, here: Installation) -> None:
    shared, own = random_bytes(4 * MIB), random_bytes(100_000, 2)
    hub.add("org/one", {"config.json": b"{}", "a.safetensors": shared})
    hub.add("org/two", {"config.json": b'{"two": 2}', "a.safetensors": shared, "b.safetensors": own})
    hub.bytes_per_s = 2 * MIB
    one, two = order(hub, "org/one"), order(hub, "org/two")
    await here.cache.fetch(one)
    await until(lambda: here.cache.report(one).done_bytes > MIB // 2, "the first to hold the part")
    hub.bytes_per_s = MIB // 32  # it stays there until the second has come
    await here.cache.fetch(two)
    await until(lambda: hub.sent("b.safetensors"), "what only the second needs")
    hub.bytes_per_s = MIB
    await until(lambda: here.cache.report(two).state == "waiting", "the second to wait for the first")
    waiting = here.cache.report(two)
    assert "Another download" in waiting.reason and waiting.done_bytes >= len(own)
    hub.bytes_per_s = 0
    first, second = await here.ends(one), await here.ends(two)
    assert first.files is not None and second.files is not None
    assert (second.files.path / "b.safetensors").read_bytes() == own
    for files in (first.files, second.files):
        assert (files.path / "a.safetensors").read_bytes() == shared
    assert hub.sent("a.safetensors") == len(shared) and blob(shared) in here.blobs()
    entries = await here.cache.entries()
    assert {(entry.order, entry.state, entry.files) for entry in entries} == {
        (one, "complete", 2),
        (two, "complete", 3),
    }
    assert [entry.bytes for entry in entries if entry.order == two] == [len(shared) + len(own) + 10]


async def test_who_waits_takes_over_when_the_other_is_killed(hub: FakeHub, here: Installation) -> None:
    shared = random_bytes(4 * MIB)
    hub.add("org/one", {"model.gguf": shared})
    hub.add("org/two", {"model.gguf": shared})
    hub.bytes_per_s = MIB
    one, two = order(hub, "org/one"), order(hub, "org/two")
    await here.cache.fetch(one)
    await until(lambda: here.cache.report(one).done_bytes > MIB, "the first to get somewhere")
    hub.bytes_per_s = MIB // 32
    await here.cache.fetch(two)
    await until(lambda: here.cache.report(two).state == "waiting", "the second to wait")
    await here.kill(one)
    hub.bytes_per_s = 0
    assert (await here.ends(two)).state == "complete"
    assert hub.sent() < 4 * MIB + 2 * MIB
    sent = hub.sent()
    assert (await here.fetches(one)).state == "complete" and hub.sent() == sent + 1, "a byte, to ask for leave"


async def test_equal_contents_of_one_model_are_fetched_once(hub: FakeHub, here: Installation) -> None:
    data = random_bytes(100_000)
    hub.add("org/model", {"config.json": b"{}", "a.safetensors": data, "b.safetensors": data})
    report = await here.fetches(order(hub))
    assert (report.state, report.total_bytes, report.done_files) == ("complete", 200_002, 3)
    assert hub.sent() == 100_002


async def test_an_adapter_and_a_model_from_one_repository_are_two_orders(hub: FakeHub, here: Installation) -> None:
    adapter_files = {"adapter_config.json": b"[]", "adapter_model.safetensors": b"a"}
    hub.add("org/model", {"config.json": b"{}", "model.safetensors": b"m"} | adapter_files)
    model, adapter = order(hub), FetchOrder("huggingface", "org/model", mirror=hub.url, want="adapter")
    assert model.key != adapter.key
    one, two = await here.fetches(model), await here.fetches(adapter)
    assert one.files is not None and two.files is not None
    assert {path.name for path in two.files.path.iterdir()} == set(adapter_files)
    assert "adapter_model.safetensors" not in {path.name for path in one.files.path.iterdir()}


# --- pruning ----------------------------------------------------------------------------------------------


async def test_pruning_removes_what_nobody_keeps_and_leaves_what_is_shared(hub: FakeHub, here: Installation) -> None:
    shared, own = random_bytes(300_000), random_bytes(200_000, 2)
    hub.add("org/one", {"config.json": b"{}", "a.safetensors": shared})
    hub.add("org/two", {"config.json": b"{}", "a.safetensors": shared, "b.safetensors": own})
    one, two = order(hub, "org/one"), order(hub, "org/two")
    for wanted in (one, two):
        await here.fetches(wanted)
    assert await here.cache.prune({one.key, two.key}) == Pruned((), 0)
    assert await here.cache.prune({one.key}, older_than_s=60) == Pruned((), 0)
    told = await here.cache.prune({one.key}, dry_run=True)
    assert told.keys == (two.key,) and len(own) <= told.freed_bytes < len(own) + 8192
    assert here.cache.report(two).state == "complete"
    assert await here.cache.prune({one.key}) == told
    assert here.cache.report(two) == FetchReport("absent") and blob(own) not in here.blobs()
    report = here.cache.report(one)
    assert report.files is not None and (report.files.path / "a.safetensors").read_bytes() == shared
    await here.cache.prune(set())
    assert here.blobs() == here.parts() == set() and await here.cache.entries() == []


async def test_pruning_spares_what_is_being_fetched_and_takes_what_was_left(hub: FakeHub, here: Installation) -> None:
    data = random_bytes(6 * MIB)
    hub.add("org/model", {"model.gguf": data})
    hub.bytes_per_s = 2 * MIB
    wanted = order(hub)
    await here.cache.fetch(wanted)
    await until(lambda: here.cache.report(wanted).done_bytes > MIB, "a MiB")
    hub.bytes_per_s = MIB // 8
    assert await here.cache.prune(set()) == Pruned((), 0)
    assert here.cache.report(wanted).state == "downloading" and blob(data) in here.parts()
    await here.cache.stop(wanted)
    assert await here.cache.prune({wanted.key}) == Pruned((), 0)  # half fetched, and kept: it goes on
    assert blob(data) in here.parts()
    pruned = await here.cache.prune(set())
    assert pruned.keys == (wanted.key,) and MIB < pruned.freed_bytes < 6 * MIB
    assert here.parts() == set()


async def test_pruning_while_fetches_begin_and_end_breaks_none(hub: FakeHub, here: Installation) -> None:
    orders = []
    for number in range(6):
        hub.add(f"org/m{number}", {"config.json": b"{}", "a.safetensors": random_bytes(300_000, number // 2)})
        orders.append(order(hub, f"org/m{number}"))
    keep, done = {wanted.key for wanted in orders}, asyncio.Event()

    async def prune_all_the_time() -> int:
        rounds = 0
        while not done.is_set():
            assert await here.cache.prune(keep) == Pruned((), 0)
            rounds += 1
        return rounds

    pruning = asyncio.create_task(prune_all_the_time())
    await asyncio.gather(*(here.cache.fetch(wanted) for wanted in orders))
    reports = [await here.ends(wanted) for wanted in orders]
    done.set()
    assert await pruning > 3
    assert [report.state for report in reports] == ["complete"] * 6
    for number, report in enumerate(reports):
        assert report.files is not None
        assert (report.files.path / "a.safetensors").read_bytes() == random_bytes(300_000, number // 2)


async def test_rubbish_in_the_cache_neither_hurts_nor_stays(hub: FakeHub, here: Installation) -> None:
    hub.add("org/model", {"model.gguf": random_bytes(100_000)})
    report = await here.fetches(order(hub))
    (here.models / "blobs" / "sha256-0").write_bytes(b"x")
    (here.models / "parts" / ".sha256-1.json.77").write_text("{")
    (here.models / "snapshots" / "nothing").mkdir()
    half = here.models / "snapshots" / "half"
    half.mkdir()
    (half / "order.json").write_text('{"source": "huggingface", "name": "a/b", "new": 1}')
    (half / "progress.json").write_text("[1")
    assert [entry.key for entry in await here.cache.entries()] == [order(hub).key]
    assert (await here.cache.prune({order(hub).key})).keys == ("half", "nothing")
    assert here.parts() == set() and len(here.blobs()) == 1
    assert here.cache.report(order(hub)) == report


async def test_a_sidecar_that_is_nonsense_means_from_the_start(hub: FakeHub, here: Installation) -> None:
    data = random_bytes(100_000)
    hub.add("org/model", {"model.gguf": data})
    parts = here.models / "parts"
    parts.mkdir(parents=True, mode=0o700)
    here.models.chmod(0o700)
    (parts / blob(data)).write_bytes(b"wrong" * 5000)
    for text in ('{"size": 100000, "segments": [[0, 99999, 100000]]}', '{"segments": [[0, 5, 3]]}', "[]", "{"):
        (parts / f"{blob(data)}.json").write_text(text)
        assert (await here.fetches(order(hub))).state == "complete"
        assert hub.sent() == 100_000
        await here.cache.prune(set())
        hub.requests.clear()
        (parts / blob(data)).write_bytes(b"wrong" * 5000)


# --- two installations, one folder ------------------------------------------------------------------------


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Installation, Installation]]:
    shared = str(tmp_path / "shared")
    made = Installation(tmp_path / "a", model_cache=shared), Installation(tmp_path / "b", model_cache=shared)
    yield made
    for one in made:
        await one.cache.stop_all()
        one.close()


async def test_two_installations_fetch_a_model_once_and_neither_prunes_the_others(
    hub: FakeHub, both: tuple[Installation, Installation]
) -> None:
    one, two = both
    hub.add("org/model", {"model.gguf": random_bytes(2 * MIB)})
    hub.bytes_per_s = 2 * MIB
    wanted = order(hub)
    await asyncio.gather(*(installation.cache.fetch(wanted) for installation in both for _ in range(3)))
    assert [(await installation.ends(wanted)).state for installation in both] == ["complete"] * 2
    assert hub.sent() == 2 * MIB
    assert await one.cache.prune(set()) == Pruned((), 0)
    assert two.cache.report(wanted).state == "complete"
    assert (await two.cache.prune({wanted.key})) == Pruned((), 0)


async def test_what_another_installation_fetched_is_used_and_kept_until_that_one_is_gone(
    hub: FakeHub, both: tuple[Installation, Installation], tmp_path: Path
) -> None:
    one, two = both
    hub.add("org/model", {"model.gguf": random_bytes(100_000)})
    wanted = order(hub)
    await one.fetches(wanted)
    assert two.cache.report(wanted).state == "complete"  # from now on it is the second's too
    assert await one.cache.prune(set()) == Pruned((), 0)
    two.close()
    (tmp_path / "b").rename(tmp_path / "gone")
    assert (await one.cache.prune(set())).keys == (wanted.key,)


async def test_a_stop_of_one_installation_leaves_the_others_fetches(
    hub: FakeHub, both: tuple[Installation, Installation]
) -> None:
    one, two = both
    for name in ("org/one", "org/two"):
        hub.add(name, {"model.gguf": random_bytes(2 * MIB, hash(name))})
    hub.bytes_per_s = MIB // 8
    await one.cache.fetch(order(hub, "org/one"))
    await two.cache.fetch(order(hub, "org/two"))
    await one.cache.stop_all()
    assert not one.is_fetching(order(hub, "org/one")) and two.is_fetching(order(hub, "org/two"))
    hub.bytes_per_s = 0
    assert (await two.ends(order(hub, "org/two"))).state == "complete"


# --- reports ----------------------------------------------------------------------------------------------


async def test_a_report_is_cheap(hub: FakeHub, here: Installation) -> None:
    files = {f"model-{number:05}-of-00060.safetensors": b"x%d" % number for number in range(1, 61)}
    hub.add("org/model", {"config.json": b"{}"} | files)
    assert (await here.fetches(order(hub))).state == "complete"
    begun = time.process_time()
    for _ in range(100):
        here.cache.report(order(hub))
    assert time.process_time() - begun < 1.0


async def test_a_report_claims_nothing_that_is_gone_from_the_disk(hub: FakeHub, here: Installation) -> None:
    hub.add("org/model", {"config.json": b"{}", "a.safetensors": random_bytes(50_000)})
    report = await here.fetches(order(hub))
    assert report.files is not None
    (report.files.path / "a.safetensors").resolve().unlink()
    left = here.cache.report(order(hub))
    assert (left.state, left.final, left.done_bytes) == ("failed", False, 2)


async def test_a_dead_fetcher_is_told_from_a_living_one_even_if_its_number_lives(
    hub: FakeHub, here: Installation
) -> None:
    hub.add("org/model", {"model.gguf": random_bytes(4 * MIB)})
    hub.bytes_per_s = MIB
    wanted = order(hub)
    await here.cache.fetch(wanted)
    await until(lambda: here.cache.report(wanted).state == "downloading", "the download")
    await here.kill(wanted)
    record = here.snapshot(wanted) / "fetcher.json"
    record.write_text(record.read_text().replace('"pid": ', f'"pid": {os.getpid()}, "was": '))
    assert here.cache.report(wanted).state == "failed"
    await here.cache.stop(wanted)  # and this process still lives
    assert not is_held(here.snapshot(wanted) / "lock")
    assert ModelCache(here.settings).report(wanted).done_bytes == here.cache.report(wanted).done_bytes
