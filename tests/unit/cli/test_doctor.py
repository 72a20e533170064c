"""What the doctor finds, check by check, and how it tells it."""

import fcntl
import json
import os
import time
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
from tests.unit.cli.scripted import Answer, Script, run

import mooring
from mooring.cli.doctor_machine import (
    check_data_dir,
    check_gpus,
    check_hub,
    check_leftovers,
    check_memory,
    check_model_roots,
    check_processor,
    check_vllm,
    is_running,
)  # fmt: skip
from mooring.cli.doctor_platform import check_clock, check_endpoint, check_expiry, check_service

NOW = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(("flags", "fine"), [("fpu avx avx2 bmi1", True), ("fpu avx bmi1", False)])
def test_the_processor_needs_avx2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, fine: bool) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n")
    assert check_processor(cpuinfo).fine is fine


@pytest.mark.parametrize(("free_mib", "level"), [(2048, "ok"), (100, "note")])
def test_little_memory_is_worth_a_note(tmp_path: Path, free_mib: int, level: str) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:  8388608 kB\nMemAvailable: {free_mib << 10} kB\n")
    assert check_memory(meminfo).level == level
    assert check_memory(tmp_path / "nothing").level == "note"


def test_a_private_data_directory_is_fine_and_an_open_one_is_told_with_its_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "admin.json").touch(0o600)
    assert [check.level for check in check_data_dir(folder)] == ["ok"]
    (folder / "admin.json").chmod(0o644)
    folder.chmod(0o750)
    (found,) = check_data_dir(folder)
    assert found.level == "BAD"
    assert f"chmod go= {folder}/admin.json" in found.next_step
    assert "(750)" in found.found


def test_a_database_without_its_key_is_a_fault(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "mooring.db").touch()
    assert [check.name for check in check_data_dir(folder) if not check.fine] == ["Secret key"]
    (folder / "secret.key").touch(0o600)
    assert all(check.fine for check in check_data_dir(folder))


def test_a_data_directory_that_does_not_exist_is_no_fault(tmp_path: Path) -> None:
    (found,) = check_data_dir(tmp_path / "a" / "b")
    assert found.fine and "does not exist yet" in found.found


def test_model_roots_must_be_folders(tmp_path: Path) -> None:
    found = list(check_model_roots((str(tmp_path), str(tmp_path / "gone"))))
    assert [check.level for check in found] == ["ok", "BAD"]


def test_parts_that_nobody_goes_on_with_are_worth_a_note(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("fresh", "old", "old.json"):
        (parts / name).write_bytes(b"x" * 100)
    os.utime(parts / "old", (0, 0))
    os.utime(parts / "old.json", (0, 0))
    (found,) = check_leftovers(tmp_path, time.time())
    assert found.level == "note" and found.found.startswith("1 half fetched")
    assert list(check_leftovers(tmp_path / "nothing", time.time())) == []


def test_programs_are_looked_for_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_vllm("vllm serve").level == "note"
    assert check_gpus().level == "ok"
    for name, text in (("vllm", "exit 0"), ("nvidia-smi", "echo 'NVIDIA H100, 81559 MiB, 570.1'")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    assert check_vllm("vllm serve").level == "ok"
    assert check_gpus().found == "NVIDIA H100, 81559 MiB, 570.1"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'Driver/library version mismatch' >&2\nexit 18\n")
    assert (check_gpus().level, "mismatch" in check_gpus().found) == ("BAD", True)


def test_a_hub_that_does_not_answer_is_a_note(script: Script) -> None:
    assert check_hub(script.url).level == "ok"  # a 404 is an answer
    assert check_hub("http://127.0.0.1:1").level == "note"
    assert check_hub("no address").level == "note"


def test_a_running_platform_is_told_by_its_lock(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with open(tmp_path / "lock", "w") as lock:
        assert not is_running(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_running(tmp_path)


@pytest.mark.parametrize(("skew", "level"), [(0, "ok"), (60, "note"), (-4000, "BAD")])
def test_clocks_must_agree(skew: int, level: str) -> None:
    (found,) = check_clock(formatdate(1_000_000 + skew, usegmt=True), 1_000_000.0)
    assert found.level == level
    assert list(check_clock("", 0.0)) == []


@pytest.mark.parametrize(("days", "level"), [(90, "ok"), (3, "note"), (-1, "BAD")])
def test_a_certificate_is_told_before_it_ends(days: int, level: str) -> None:
    assert check_expiry(NOW + timedelta(days=days, hours=1), NOW).level == level


def object_with(state: str, reason: str = "", kind: str = "ModelService", **status: object) -> dict:
    told = {"state": state, "reason": reason, **status}
    return {"kind": kind, "id": "svc-1", "metadata": {"name": "demo"}, "spec": {}, "status": told}


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (object_with("healthy"), "ok"),
        (object_with("stopped", "Stopped: it has no replicas."), "ok"),
        (object_with("healthy", "1 of 2 replicas are ready. Waits for 15.0 GiB of memory."), "note"),
        (object_with("pending", "It waits for room: other holds 2.0 GiB."), "note"),
        (object_with("failed", "The engine ended."), "BAD"),
        (object_with("healthy", "Version 2 was rolled back", detail={"rolledBack": {"version": 2}}), "note"),
    ],
)
def test_a_service_is_judged_with_its_reason(found: dict, level: str) -> None:
    check = check_service(found, started=True)
    assert check.level == level
    assert found["status"]["reason"] in check.found


def test_a_service_that_can_never_fit_is_a_fault_with_that_reason() -> None:
    check = check_service(object_with("pending", "Waits.", detail={"unfit": "It needs 9 TiB."}), started=False)
    assert (check.level, check.found) == ("BAD", "pending: It needs 9 TiB.")
    assert check.next_step == "See: mooring services events demo"


def test_an_endpoint_is_told_only_if_something_is_the_matter() -> None:
    assert check_endpoint(object_with("Healthy")) is None
    abnormal = check_endpoint(object_with("Abnormal", "No service is ready."))
    assert abnormal is not None and abnormal.level == "BAD" and "No service is ready." in abnormal.found


@pytest.fixture
def healthy(script: Script) -> Script:
    script.on("GET", "/health", {"status": "ok"})
    script.on("GET", "/manage/v1/version", {"name": "mooring", "version": mooring.__version__})
    script.on("GET", "/manage/v1/services", {"items": [object_with("healthy")]})
    script.on("GET", "/manage/v1/external-services", {"items": []})
    script.on("GET", "/manage/v1/endpoints", {"items": []})
    script.on("GET", "/manage/v1/services/svc-1/replicas", {"items": [{"id": "rep-a", "state": "ready"}]})
    return script


def test_a_healthy_platform_is_well(healthy: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--offline") == 0
    out = capsys.readouterr().out
    for line in (
        "ok   Gateway: answers",
        "ok   Management API: answers in",
        "ok   Version",
        "ok   Service demo: healthy",
    ):
        assert line in out
    assert "Model hub" not in out


def test_programs_read_level_and_next_step(healthy: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--hub", "http://127.0.0.1:1", "-o", "json") == 0
    items = json.loads(capsys.readouterr().out)["items"]
    (hub,) = [item for item in items if item["name"] == "Model hub"]
    assert (hub["level"], hub["fine"]) == ("note", True)
    assert hub["nextStep"]


def test_another_version_orphans_and_replicas_in_trouble_are_told(
    healthy: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    healthy.on("GET", "/manage/v1/version", {"version": "0.0.1"})
    failed = {"id": "rep-a", "state": "failed", "reason": "Out of memory."}
    healthy.on("GET", "/manage/v1/services/svc-1/replicas", {"items": [failed]})
    Path(".mooring/replicas/rep-lost").mkdir(parents=True)
    assert run("doctor", "--offline") == 1
    out = capsys.readouterr().out
    assert f"note Version: the platform runs 0.0.1, this command is {mooring.__version__}" in out
    assert "BAD  Replica rep-a of demo: failed: Out of memory." in out
    assert "note Replica folders: no service has rep-lost" in out


def test_the_reason_of_a_failed_service_is_told_once(healthy: Script, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "The engine exited with status 1: bad flag."
    healthy.on("GET", "/manage/v1/services", {"items": [object_with("failed", f"Failed 3 times in a row. {reason}")]})
    failed = {"id": "rep-a", "state": "failed", "reason": reason}
    healthy.on("GET", "/manage/v1/services/svc-1/replicas", {"items": [failed]})
    endpoint = object_with("Abnormal", f"demo is failed: {reason}", "Endpoint")
    endpoint["spec"] = {"services": [{"name": "demo"}]}
    healthy.on("GET", "/manage/v1/endpoints", {"items": [endpoint]})
    assert run("doctor", "--offline") == 1
    out = capsys.readouterr().out
    assert out.count(reason) == 1
    assert "BAD  Endpoint demo: Abnormal, see above: Service demo" in out
    assert "See: mooring services logs demo" in out


def test_a_gateway_that_does_not_answer_while_the_data_directory_is_held(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script.on("GET", "/health", Answer(503, {"detail": "No snapshot yet."}))
    with open(".mooring/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run("doctor", "--offline") == 1
    assert "a platform holds .mooring and its gateway does not answer" in capsys.readouterr().out
