from __future__ import annotations

from pathlib import Path

import pytest

from mooring.core.machine import NO_AVX2, has_avx2
from mooring.settings import Settings
from mooring.supervise import start


@pytest.mark.parametrize(("flags", "able"), [("fpu avx avx2 fma", True), ("fpu avx avx2x", False), ("fpu avx", False)])
def test_avx2_is_read_from_the_list_of_the_processors_flags(tmp_path: Path, flags: str, able: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t: none\n")
    assert has_avx2(str(path)) is able


def test_a_machine_that_tells_nothing_about_its_processor_is_tried(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert has_avx2(str(tmp_path / "cpuinfo"))
    assert has_avx2(str(tmp_path / "absent"))


def test_a_demo_on_a_cpu_without_avx2_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "has_avx2", lambda: False)
    with pytest.raises(start.StartError, match="--no-demo") as refusal:
        start.check_processor(Settings(demo=True))
    assert NO_AVX2 in str(refusal.value)
    start.check_processor(Settings(demo=False))


def test_a_model_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    roots = (str(tmp_path), str(tmp_path / "absent"))
    assert start.missing_model_roots(Settings(model_roots=roots)) == [str(tmp_path / "absent")]


@pytest.mark.parametrize("settings", [Settings(port=-1), Settings(port=65536), Settings(gateway_workers=0)])
def test_numbers_out_of_range_are_refused(settings: Settings) -> None:
    with pytest.raises(start.StartError):
        start.listen(settings)
