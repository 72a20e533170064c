"""Why a model can't be fetched: the right cause, what to do about it, and nothing left half done."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.fetch.fetching import Installation, fetching_is_clean, order, random_bytes, until

from mooring.core.errors import Unavailable
from mooring.core.models import FetchOrder, FetchReport
from mooring.sources import REGISTRY
from mooring.testing.hub import FakeHub, sha256

SOURCES = sorted(REGISTRY)
MIB = 1 << 20


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as serving:
        serving.tokens = {"good"}
        serving.add("org/model", {"model.gguf": random_bytes(100_000)})
        serving.add("org/gated", {"model.gguf": random_bytes(100_000)}, gated=True)
        serving.add("org/private", {"model.gguf": random_bytes(100_000)}, private=True)
        yield serving


async def fails(here: Installation, wanted: FetchOrder, token: str = "") -> FetchReport:
    report = await here.fetches(wanted, token)
    assert report.state == "failed", report
    return report


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.usefixtures("really_started")
async def test_each_refusal_of_a_hub_says_what_to_do(hub: FakeHub, here: Installation, source: str) -> None:
    with fetching_is_clean(here):
        for wanted, token, says, advises in (
            (order(hub, "org/gated", source=source), "", "is gated", "Accept its licence"),
            (order(hub, "org/model", source=source), "bad", "refused the token", "valid now"),
            (order(hub, "org/none", source=source), "", "There is no model 'org/none'", "spec.model.name"),
            (order(hub, "org/private", source=source), "", "or it is private", "spec.model.tokenSecret"),
            (replace(order(hub, source=source), revision="v9"), "", "no revision 'v9'", "spec.model.revision"),
            (order(hub, source=source, file="*q8*"), "", "There are: model.gguf", "spec.model.file"),
            (replace(order(hub, source=source), mirror="no url"), "", "not an http(s) URL", "hf-mirror"),
        ):
            report = await fails(here, wanted, token)
            assert report.final and says in report.reason and advises in report.reason, report
            assert report.done_bytes == 0


@pytest.mark.parametrize("source", SOURCES)
async def test_a_better_token_opens_what_was_refused(hub: FakeHub, here: Installation, source: str) -> None:
    for name in ("org/gated", "org/private"):
        assert (await fails(here, order(hub, name, source=source))).final
        assert (await here.fetches(order(hub, name, source=source), "good")).state == "complete"


@pytest.mark.parametrize("source", SOURCES)
async def test_a_mirror_that_is_no_hub_is_refused(hub: FakeHub, here: Installation, source: str) -> None:
    with fetching_is_clean(here):
        nowhere = replace(order(hub, source=source), mirror=f"{hub.content_url}/x")
        assert (await fails(here, nowhere)).final
        hub.web_page = True
        report = await fails(here, order(hub, source=source))
    assert report.final and "it does not answer like" in report.reason and "spec.model.mirror" in report.reason


@pytest.mark.parametrize("source", SOURCES)
async def test_a_hub_that_is_away_is_asked_again_until_it_is_back(
    here: Installation, source: str, hub: FakeHub
) -> None:
    with FakeHub() as gone:
        away = order(gone, source=source)
    back = order(hub, source=source)
    hub.listing_failures = [503] * 3
    await here.cache.fetch(back)  # both at once: they wait longer from try to try
    await here.cache.fetch(away)
    await until(lambda: here.cache.report(away).reason, "a word about the trouble")
    report = here.cache.report(away)
    assert (report.state, report.final) == ("listing", False)
    assert "can't be reached" in report.reason and "HTTPS_PROXY" in report.reason and "Trying again" in report.reason
    assert (await here.ends(back)).state == "complete"
    assert hub.listing_failures == []


# --- contents that are not what was listed ----------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
async def test_a_wrong_byte_is_noticed_and_mended_once(hub: FakeHub, here: Installation, source: str) -> None:
    hub.corrupt["model.gguf"] = 1
    assert (await here.fetches(order(hub, source=source))).state == "complete"
    assert hub.sent() == 200_000 and "fetching it once more" in here.log(order(hub, source=source))


async def test_content_that_stays_wrong_is_refused_with_both_digests(hub: FakeHub, here: Installation) -> None:
    data = random_bytes(100_000)
    hub.corrupt["model.gguf"] = -1
    with fetching_is_clean(here):
        report = await fails(here, order(hub))
    assert report.final and "'model.gguf'" in report.reason
    assert sha256(data) in report.reason and sha256(bytes([data[0] ^ 1]) + data[1:]) in report.reason
    assert hub.sent() == 200_000 and here.parts() == set()
    hub.corrupt.clear()
    assert (await here.fetches(order(hub))).state == "complete"


async def test_small_files_are_verified_by_their_git_digest(hub: FakeHub, here: Installation) -> None:
    hub.add("org/small", {"config.json": b'{"a": 1}', "a.safetensors": b"x" * 100})
    hub.corrupt["config.json"] = -1
    report = await fails(here, order(hub, "org/small"))
    assert report.final and "'config.json'" in report.reason and "git-sha1:" in report.reason


@pytest.mark.parametrize("told", [99_999, 100_001])
async def test_a_size_that_is_not_true_is_refused(hub: FakeHub, here: Installation, told: int) -> None:
    hub.told_sizes["model.gguf"] = told
    with fetching_is_clean(here):
        report = await fails(here, order(hub))
    assert report.final and f"{told} bytes are listed" in report.reason and "100000" in report.reason
    assert here.parts() == set()


async def test_a_path_that_leads_out_of_the_folder_is_refused(hub: FakeHub, here: Installation) -> None:
    hub.add("org/bad", {"../../../../evil.gguf": b"x" * 100})
    with fetching_is_clean(here):
        report = await fails(here, order(hub, "org/bad"))
    assert report.final and "leads out" in report.reason and not list(here.models.rglob("*evil*"))


# --- disks ------------------------------------------------------------------------------------------------


async def test_a_disk_without_room_is_noticed_before_a_byte_is_asked_for(hub: FakeHub, here: Installation) -> None:
    hub.told_sizes["model.gguf"] = 1 << 50
    with fetching_is_clean(here):
        report = await fails(here, order(hub))
    assert not report.final and "1048576.0 GiB are still to come, and 512.0 MiB must stay free" in report.reason
    assert hub.sent() == 0


async def test_a_disk_that_fills_up_is_told_and_the_fetch_goes_on_later(hub: FakeHub, here: Installation) -> None:
    """The kernel itself says ENOSPC: the part is /dev/full."""
    wanted = order(hub)
    part = here.models / "parts" / f"sha256-{sha256(random_bytes(100_000))}"
    part.parent.mkdir(parents=True, mode=0o700)
    here.models.chmod(0o700)
    part.symlink_to("/dev/full")
    with fetching_is_clean(here):
        report = await fails(here, wanted)
    assert not report.final and f"The disk of {part.parent} is full" in report.reason
    part.unlink()
    assert (await here.fetches(wanted)).state == "complete"


@pytest.fixture
def small_disk(tmp_path: Path, lacks: Callable[[str, str], None]) -> Iterator[Path]:
    """A disk of 660 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        lacks("a small disk", "only root may mount one")
    mount = ["mount", "-t", "tmpfs", "-o", "size=660m,mode=0700", "mooring-test", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        lacks("a small disk", "mounting one is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_small_disk_filled_by_others_stops_the_fetch_and_keeps_what_came(
    hub: FakeHub, tmp_path: Path, small_disk: Path
) -> None:
    here = Installation(tmp_path / "data", model_cache=str(small_disk / "models"))
    data = random_bytes(16 * MIB)
    hub.add("org/large", {"model.gguf": data})
    hub.bytes_per_s = 4 * MIB
    wanted = order(hub, "org/large")
    await here.cache.fetch(wanted)
    await until(lambda: here.cache.report(wanted).done_bytes > 2 * MIB, "the first bytes")
    filler = small_disk / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(8 * MIB))
            file.flush()
    report = await asyncio.wait_for(here.ends(wanted), 30)
    assert (report.state, report.final) == ("failed", False) and "disk of" in report.reason and "Free" in report.reason
    assert report.done_bytes > 2 * MIB
    sent = hub.sent()
    with pytest.raises(Unavailable, match="No space left"):
        await here.cache.fetch(wanted)
    assert here.cache.report(wanted) == report and hub.sent() == sent
    filler.unlink()
    hub.bytes_per_s = 0
    report = await here.fetches(wanted)
    assert report.files is not None and report.files.path.read_bytes() == data
    assert hub.sent("model.gguf") < 16 * MIB + 5 * MIB
    here.close()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("size", "digest", "says"),
    [
        (1.5, "", "the size that it lists"),
        (-1, "", "the size that it lists"),
        ("many", "", "size"),
        (None, "../../../t/escaped", "the digest that it lists"),
        (None, "a" * 300, "the digest that it lists"),
    ],
)
async def test_a_listing_that_no_hub_would_give_is_refused(
    hub: FakeHub, here: Installation, source: str, size: object, digest: str, says: str
) -> None:
    if size is not None:
        hub.told_sizes["model.gguf"] = size  # type: ignore[assignment]
    if digest:
        hub.told_digests["model.gguf"] = digest
    with fetching_is_clean(here):
        report = await fails(here, order(hub, source=source))
    assert report.final and (says in report.reason or "does not answer like" in report.reason), report
    assert "spec.model.mirror" in report.reason


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.usefixtures("really_started")
async def test_a_listing_without_end_takes_a_bounded_part_of_the_memory(
    hub: FakeHub, here: Installation, source: str
) -> None:
    hub.endless = True
    report = await fails(here, order(hub, source=source))
    assert report.final and "does not come to an end" in report.reason, report


@pytest.mark.parametrize("token", ["hf_secret\n", "hf sec ret", "hf_sécret", "hf_\x00secret"])
@pytest.mark.parametrize("source", SOURCES)
async def test_a_token_that_cannot_be_sent_is_refused_and_quoted_nowhere(
    hub: FakeHub, here: Installation, source: str, token: str
) -> None:
    report = await fails(here, order(hub, source=source), token)
    assert report.final and "spec.model.tokenSecret" in report.reason
    written = b"".join(path.read_bytes() for path in here.models.rglob("*") if path.is_file())
    assert token.strip().encode() not in written
    assert token.strip() not in report.reason
    assert hub.requests == []


async def test_what_others_have_fetched_is_not_given_to_who_may_not_have_it(hub: FakeHub, here: Installation) -> None:
    assert (await here.fetches(replace(order(hub, "org/gated"), owner="p/ours"), "good")).state == "complete"
    report = await fails(here, order(hub, "org/gated"))
    assert report.final and "is gated" in report.reason
