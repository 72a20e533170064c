from __future__ import annotations

import os
from pathlib import Path

import pytest

from mooring.supervise.children import Beats, Pause, is_hung, next_pause_s


def test_pauses_double_up_to_ten_seconds() -> None:
    pauses = [0.0]
    for _ in range(9):
        pauses.append(next_pause_s(pauses[-1], lived_s=1.0))
    assert pauses[1:] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_child_that_lived_half_a_minute_starts_again_at_once() -> None:
    assert next_pause_s(10.0, lived_s=30.0) == 0.1


def test_a_pause_counts_from_the_death() -> None:
    pause = Pause()
    pause.after_death(100.0, lived_s=1.0)
    pause.after_death(200.0, lived_s=1.0)
    assert pause.until == 200.2


@pytest.mark.parametrize(
    ("beat_s", "started", "now", "hung"),
    [
        (0.0, 100.0, 159.0, False),  # still importing
        (0.0, 100.0, 161.0, True),
        (200.0, 100.0, 204.9, False),
        (200.0, 100.0, 205.1, True),
    ],
)
def test_a_gateway_without_a_beat_for_five_seconds_is_hung(
    beat_s: float, started: float, now: float, hung: bool
) -> None:
    assert is_hung(int(beat_s * 1e9), started, now) is hung


def test_beats_are_read_and_cleared_per_slot(tmp_path: Path) -> None:
    path = tmp_path / "beats"
    path.write_bytes(b"what an unclean stop left")
    beats = Beats(str(path), slots=4)
    assert path.read_bytes() == bytes(32)
    with open(path, "r+b") as file:
        file.seek(16)
        file.write((123456789).to_bytes(8, "little"))
    assert [beats.read(slot) for slot in range(4)] == [0, 0, 123456789, 0]
    beats.clear(2)
    assert beats.read(2) == 0
    assert os.stat(path).st_mode & 0o777 == 0o600
