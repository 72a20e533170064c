"""Fetching from both hubs, asked with their own libraries, and going on after every kind of interruption."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from tests.integration.fetch.fetching import Installation, order, random_bytes, until

from mooring.core.models import FetchOrder, FetchReport
from mooring.sources import REGISTRY
from mooring.sources.records import read_fetcher
from mooring.testing.hub import FakeHub

SOURCES = sorted(REGISTRY)
MIB = 1 << 20


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.usefixtures("really_started")
async def test_a_model_is_fetched_whole_and_nothing_else(hub: FakeHub, here: Installation, source: str) -> None:
    weights = {f"model-0000{number}-of-00002.safetensors": random_bytes(200_000, number) for number in (1, 2)}
    small = {"config.json": b"{}", "tokenizer.json": random_bytes(9000), "1_Pooling/config.json": b'{"a": 1}'}
    empty = {"vocab.txt": b""}
    made = hub.add("org/model", weights | small | empty | {"README.md": b"#", "pytorch_model.bin": b"x" * 9999})
    wanted = order(hub, source=source)
    assert here.cache.report(wanted) == FetchReport("absent")
    report = await here.fetches(wanted)
    assert (report.state, report.done_files, report.total_files) == ("complete", 6, 6)
    assert report.done_bytes == report.total_bytes == 400_000 + 2 + 9000 + 8
    files = report.files
    assert files is not None
    assert (files.format, files.bytes, files.revision) == ("safetensors", 400_000, made.commit)
    for path, data in (weights | small | empty).items():
        assert (files.path / path).read_bytes() == data
        assert not os.access(files.path / path, os.W_OK) or os.geteuid() == 0
    assert hub.sent() == report.total_bytes and here.parts() == set()


@pytest.mark.parametrize("source", SOURCES)
async def test_what_is_complete_asks_nobody_again(hub: FakeHub, here: Installation, source: str) -> None:
    hub.add("org/model", {"model-Q4_K_M.gguf": random_bytes(100_000), "model-Q8_0.gguf": random_bytes(200_000)})
    first = await here.fetches(order(hub, source=source))
    asked = len(hub.requests)
    assert await here.fetches(order(hub, source=source)) == first
    assert len(hub.requests) == asked
    assert first.files is not None and first.files.path.name == "model-Q4_K_M.gguf"
    assert (await here.fetches(order(hub, source=source, file="*q8_0*"))).total_bytes == 200_000


async def test_a_file_that_is_gone_is_fetched_again(hub: FakeHub, here: Installation) -> None:
    hub.add("org/model", {"config.json": b"{}", "a.safetensors": random_bytes(50_000)})
    report = await here.fetches(order(hub))
    assert report.files is not None
    (report.files.path / "a.safetensors").resolve().unlink()
    assert here.cache.report(order(hub)).state != "complete"
    assert await here.fetches(order(hub)) == report
    assert hub.sent("a.safetensors") == 100_000 and hub.sent("config.json") == 2


async def test_three_kills_cost_next_to_nothing_and_progress_stays_true(hub: FakeHub, here: Installation) -> None:
    data = random_bytes(12 * MIB)
    hub.add("org/model", {"model.gguf": data})
    hub.bytes_per_s = 4 * MIB
    wanted, told = order(hub), [0]

    def grown(by: int) -> bool:
        report = here.cache.report(wanted)
        told.append(report.done_bytes)
        assert told[-1] >= told[-2], "progress went back"
        assert report.state == "complete" or report.done_bytes <= here.bytes_on_disk()
        return report.done_bytes >= by

    claimed = []
    for goal in (2, 4, 6):
        await here.cache.fetch(wanted)
        await until(lambda goal=goal: grown(goal * MIB), f"{goal} MiB")
        await here.kill(wanted)
        report = here.cache.report(wanted)
        assert (report.state, report.final) == ("failed", False) and "interrupted" in report.reason
        claimed.append(report.done_bytes)
    hub.bytes_per_s = 0
    await here.cache.fetch(wanted)
    await until(lambda: grown(12 * MIB), "the end")
    report = await here.ends(wanted)
    assert report.files is not None and report.files.path.read_bytes() == data
    content = [asked for asked in hub.asked_for("model.gguf") if asked.server == "content"]
    starts = [int(asked.headers["range"][6:].partition("-")[0]) for asked in content[1:]]
    assert starts == claimed and claimed[0] >= 2 * MIB  # each went on exactly where the one before had got to
    # Sent twice is only what came after the last note on the disk, and what lay in the sockets' buffers.
    assert hub.sent("model.gguf") - len(data) < 3 * 4 * MIB


@pytest.mark.usefixtures("really_started")
async def test_a_kill_before_the_first_byte_costs_nothing(hub: FakeHub, here: Installation) -> None:
    hub.add("org/model", {"model.gguf": random_bytes(100_000)})
    hub.bytes_per_s = 1
    for state in ("listing", "downloading"):
        await here.cache.fetch(order(hub))
        await until(lambda state=state: here.cache.report(order(hub)).state == state, state)
        await here.kill(order(hub))
        assert here.cache.report(order(hub)).state == "failed"
    hub.bytes_per_s = 0
    assert (await here.fetches(order(hub))).state == "complete"


@pytest.mark.slow
async def test_large_files_come_in_several_ranges_at_once_and_go_on_so(hub: FakeHub, here: Installation) -> None:
    data = random_bytes(MIB) * 150
    hub.add("org/model", {"model.gguf": data})
    hub.bytes_per_s = 20 * MIB
    wanted = order(hub)
    await here.cache.fetch(wanted)
    await until(lambda: here.cache.report(wanted).done_bytes > 30 * MIB, "bytes from several ranges")
    content = [asked for asked in hub.asked_for("model.gguf") if asked.server == "content"]
    assert len(content) == 3 and all(asked.sent for asked in content)
    await here.kill(wanted)
    hub.bytes_per_s = 0
    report = await here.fetches(wanted)
    assert report.files is not None and report.files.path.read_bytes() == data
    assert hub.sent() < 230 * MIB
    again = [asked.headers["range"] for asked in hub.asked_for("model.gguf")[len(content) :]]
    assert len(again) == 3 and "bytes=0-67108863" not in again


@pytest.mark.usefixtures("really_started")
async def test_a_fetch_outlives_who_started_it_and_control_finds_it_again(hub: FakeHub, here: Installation) -> None:
    hub.add("org/model", {"model.gguf": random_bytes(3 * MIB)})
    hub.bytes_per_s = 2 * MIB
    wanted = order(hub)
    await here.cache.fetch(wanted)
    fetcher = read_fetcher(here.snapshot(wanted))
    assert fetcher is not None and os.getsid(fetcher.pid) == fetcher.pid != os.getsid(0)
    other = type(here.cache)(here.settings)
    await other.fetch(wanted)  # nothing new begins
    assert read_fetcher(here.snapshot(wanted)) == fetcher
    await until(lambda: other.report(wanted).state == "complete", "the end, seen by another control")
    assert hub.sent("model.gguf") == 3 * MIB


async def test_a_stop_ends_the_process_and_keeps_what_came(hub: FakeHub, here: Installation) -> None:
    hub.add("org/model", {"model.gguf": random_bytes(8 * MIB)})
    hub.bytes_per_s = 2 * MIB
    wanted = order(hub)
    await here.cache.fetch(wanted)
    await until(lambda: here.cache.report(wanted).done_bytes > MIB, "a MiB")
    hub.bytes_per_s = MIB // 8
    begun = time.monotonic()
    await here.cache.stop(wanted)
    assert not here.is_fetching(wanted) and time.monotonic() - begun < 4
    stopped = here.cache.report(wanted)
    assert stopped.done_bytes > MIB
    hub.bytes_per_s = 0
    assert (await here.fetches(wanted)).state == "complete"
    assert hub.sent("model.gguf") < 8 * MIB + MIB


@pytest.mark.usefixtures("really_started")
async def test_without_a_supervisor_a_fetch_ends_after_the_grace(hub: FakeHub, tmp_path: Path) -> None:
    here = Installation(tmp_path / "data", orphan_grace_s=0.6)
    hub.add("org/model", {"model.gguf": random_bytes(8 * MIB)})
    hub.bytes_per_s = MIB
    wanted = order(hub)
    await here.cache.fetch(wanted)
    await until(lambda: here.cache.report(wanted).done_bytes > MIB, "more time than the grace")
    assert here.is_fetching(wanted)
    here.close()
    await until(lambda: not here.is_fetching(wanted), "the end of the orphan")
    assert here.cache.report(wanted).done_bytes > MIB


@pytest.mark.usefixtures("really_started")
async def test_the_token_is_nowhere_but_in_requests_to_the_hub(hub: FakeHub, here: Installation) -> None:
    hub.tokens = {"hf_verysecret"}
    hub.add("org/model", {"model.gguf": random_bytes(3 * MIB)}, gated=True)
    hub.bytes_per_s = MIB
    wanted = order(hub)
    await here.cache.fetch(wanted, "hf_verysecret")
    await until(lambda: here.cache.report(wanted).done_bytes, "the first bytes")
    fetcher = read_fetcher(here.snapshot(wanted))
    assert fetcher is not None
    for name in ("cmdline", "environ"):
        assert b"verysecret" not in Path(f"/proc/{fetcher.pid}/{name}").read_bytes()
    hub.bytes_per_s = 0
    assert (await here.ends(wanted)).state == "complete"
    grep = subprocess.run(["grep", "-r", "verysecret", here.settings.data_dir], capture_output=True, check=False)
    assert grep.returncode == 1, grep.stdout
    seen = {(asked.server, asked.headers.get("authorization")) for asked in hub.requests}
    assert seen == {("hub", "Bearer hf_verysecret"), ("content", None)}


# --- a network and servers that misbehave -----------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
async def test_cut_connections_go_on_where_they_broke(hub: FakeHub, here: Installation, source: str) -> None:
    data = random_bytes(2 * MIB)
    hub.add("org/model", {"model.gguf": data})
    hub.cut_after, hub.cuts = 500_000, 3
    report = await here.fetches(order(hub, source=source))
    assert report.files is not None and report.files.path.read_bytes() == data
    content = [asked for asked in hub.asked_for("model.gguf") if asked.server == "content"]
    assert len(content) == 4 and all("if-range" in asked.headers for asked in content[1:])
    assert hub.sent("model.gguf") < len(data) + 500_000


async def test_errors_of_the_server_pass(here: Installation) -> None:
    await asyncio.gather(*(errors_pass(here, source) for source in SOURCES))  # most of it is waiting


async def errors_pass(here: Installation, source: str) -> None:
    with FakeHub() as hub:
        hub.add("org/model", {"model.gguf": random_bytes(100_000, SOURCES.index(source))})
        hub.listing_failures = [503]
        hub.failures = [500, 429, 403]  # 403: the content server's way to say that a signed URL has expired
        hub.retry_after = "1"
        begun = time.monotonic()
        assert (await here.fetches(order(hub, source=source))).state == "complete"
        assert time.monotonic() - begun >= 3 and hub.sent() == 100_000
        assert "status 429; trying again" in here.log(order(hub, source=source))


async def test_a_server_that_knows_no_ranges_sends_from_the_start(hub: FakeHub, here: Installation) -> None:
    data = random_bytes(3 * MIB)
    hub.add("org/model", {"model.gguf": data})
    hub.ranges, hub.bytes_per_s = False, 2 * MIB
    hub.cut_after, hub.cuts = MIB, 1
    told = [0]

    def complete() -> bool:
        report = here.cache.report(order(hub))
        told.append(report.done_bytes)
        assert told[-1] >= told[-2], "progress went back"
        return report.state == "complete"

    await here.cache.fetch(order(hub))
    await until(complete, "the end")
    report = here.cache.report(order(hub))
    assert report.files is not None and report.files.path.read_bytes() == data
    assert hub.sent("model.gguf") >= len(data) + MIB


async def test_large_files_come_whole_from_a_server_without_ranges(hub: FakeHub, here: Installation) -> None:
    data = random_bytes(MIB) * 70
    hub.add("org/model", {"model.gguf": data})
    hub.ranges = False
    report = await here.fetches(order(hub))
    assert report.files is not None and report.files.path.read_bytes() == data
    assert hub.sent("model.gguf") < 3 * len(data)


@pytest.mark.usefixtures("really_started")
async def test_a_proxy_is_used_except_for_loopback(
    hub: FakeHub, here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/model", {"model.gguf": random_bytes(1000)})
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for source in SOURCES:
        assert (await here.fetches(order(hub, source=source))).state == "complete"


@pytest.mark.usefixtures("really_started")
async def test_what_is_not_loopback_goes_through_the_proxy(
    hub: FakeHub, here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/model", {"config.json": b"{}", "a.safetensors": random_bytes(1000)})
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, hub.url)  # it answers requests with whole URLs too
    for source in SOURCES:
        wanted = FetchOrder(source, "org/model", mirror="http://hub.example")
        assert (await here.fetches(wanted)).state == "complete"
        await here.cache.prune(set())
    asked = [asked.path for asked in hub.requests if asked.server == "hub"]
    assert len(asked) >= 6 and all(path.startswith("http://hub.example/") for path in asked)


async def test_progress_is_written_whole_and_seldom(hub: FakeHub, here: Installation) -> None:
    hub.add("org/model", {"model.gguf": random_bytes(4 * MIB)})
    hub.bytes_per_s = 2 * MIB
    wanted, versions = order(hub), set[int]()
    await here.cache.fetch(wanted)
    begun = time.monotonic()

    def complete() -> bool:
        path = here.snapshot(wanted) / "progress.json"
        json.loads(path.read_text())
        versions.add(path.stat().st_ino)
        return here.cache.report(wanted).state == "complete"

    await until(complete, "the end")
    assert 2 <= len(versions) <= 2 * (time.monotonic() - begun) + 3
