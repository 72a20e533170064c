"""Progress: never above the end, never back, one line per phase where there is no terminal."""

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.cli import progress
from mooring.cli.output import duration, size
from mooring.cli.progress import Bars, Lines, Meter, amount, line_of, standing_of

MB = 1_000_000


def item(state: str = "downloading", reason: str = "", name: str = "qwen3", **told: Any) -> dict:
    status = {"state": state, "reason": reason, "progress": {"ready": 0, "wanted": 1, **told}}
    return {"kind": "ModelService", "metadata": {"name": name}, "status": status}


def download(done: int, total: int = 600 * MB, phase: str = "downloading", **more: Any) -> dict:
    told = {"doneBytes": done, "totalBytes": total, "doneFiles": 0, "totalFiles": 3, "bytesPerSecond": 10 * MB}
    return item(reason="org/repo is being downloaded.", phase=phase, **{**told, **more})


@given(st.lists(st.tuples(st.integers(0, 10**13), st.integers(0, 10**13)), max_size=50))
def test_a_meter_never_goes_back_and_never_above_its_end(reports: list[tuple[int, int]]) -> None:
    meter, fractions, dones = Meter(), [0.0], [0]
    for done, total in reports:
        arrived = meter.advance(standing_of(download(done, total)))
        assert arrived is (meter.done > dones[-1])
        fractions.append(meter.fraction)
        dones.append(meter.done)
    assert fractions == sorted(fractions) and fractions[-1] <= 1.0
    assert dones == sorted(dones)


def test_lines_tell_each_phase_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines, meter = Lines(), Meter()
    story = [
        item("pending"),
        download(0, 0, "listing"),
        download(0),
        *[download(done * 60 * MB) for done in range(1, 11)],
        download(600 * MB, phase="verifying"),
        item("starting", phase="loading", message="loads 12 of 32 layers"),
        item("starting", phase="loading", message="loads 30 of 32 layers"),
        item("healthy"),
    ]
    for told in story:
        lines.show(standing_of(told), meter)
    assert capsys.readouterr().err.splitlines() == [
        "qwen3: pending",
        "qwen3: listing files",
        "qwen3: downloading 3 files, 600.0 MB",
        "qwen3: verifying",
        "qwen3: loading (loads 12 of 32 layers)",
        "qwen3: healthy",
    ]


def test_a_reason_that_says_more_than_the_phase_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.show(standing_of(item("pending", "It waits for room: demo holds 2.0 GiB.")), Meter())
    lines.show(
        standing_of(item(reason="org/repo is being downloaded. The hub does not answer.", phase="downloading")), Meter()
    )
    out = capsys.readouterr().err
    assert "qwen3: pending (It waits for room: demo holds 2.0 GiB.)" in out
    assert "The hub does not answer." in out


def test_bars_show_bytes_speed_and_time_left_within_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    meter = Meter()
    with progress.display() as shown:
        assert isinstance(shown, Bars)
        for done in (0, 150 * MB, 120 * MB, 700 * MB):
            standing = standing_of(download(done, name="a-service-with-a-rather-long-name-indeed"))
            meter.advance(standing)
            shown.show(standing, meter)
            shown._progress.refresh()
        shown.show(standing_of(item("healthy", name="a-service-with-a-rather-long-name-indeed")), meter)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert [int(found) for found in re.findall(r"(\d+)%", text)] == sorted(
        int(found) for found in re.findall(r"(\d+)%", text)
    )
    assert "100%" in text and "10.0 MB/s" in text and "45 s left" in text
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]+", text))


def test_an_amount_is_told_as_far_as_it_is_known() -> None:
    standing = standing_of(download(150 * MB))
    meter = Meter()
    meter.advance(standing)
    assert amount(standing, meter) == " 25% 150.0 MB/600.0 MB 10.0 MB/s 45 s left"
    still = standing_of(download(150 * MB, bytesPerSecond=0))
    assert amount(still, meter) == " 25% 150.0 MB/600.0 MB"
    assert line_of(standing_of(item("pending"))) == "qwen3: pending"


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (7_190_000, "7.2 MB"), (3 * 10**12, "3.0 TB")],
)
def test_sizes_are_told_in_their_unit(count: int, told: str) -> None:
    assert size(count) == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(-1, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")]
)
def test_spans_are_told_in_two_units(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_service_that_lacks_replicas_is_not_at_its_end() -> None:
    waits = item("healthy", "1 of 2 replicas are ready.")
    waits["status"] |= {"replicas": 2, "currentReplicas": 1}
    assert not standing_of(waits).ended
    waits["status"]["currentReplicas"] = 2
    assert standing_of(waits).ended
