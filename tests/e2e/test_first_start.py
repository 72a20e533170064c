"""An empty folder and one command: what a newcomer sees, and what each mistake says."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.conftest import MakePlatform
from tests.e2e.running import Platform, proportional_kib, python_environment, until

WORKER_KIB = 40 << 10
EVERYTHING_KIB = 300 << 10


@pytest.fixture(scope="module")
def first(make_module_platform: MakePlatform) -> Platform:
    return make_module_platform().start()


def refusal(platform: Platform) -> str:
    """Start what must be refused; return the only line it says."""
    process = platform.launch()
    assert process.wait(30) not in (0, None)
    assert platform.out() == ""
    return platform.err()


def one_sentence(text: str) -> str:
    assert "Traceback" not in text
    (line,) = text.strip().splitlines()
    return line


# --- the first start --------------------------------------------------------------------------------------


def test_the_banner_says_where_everything_is_and_that_the_model_answered(first: Platform) -> None:
    banner = first.out()
    assert f"{first.url}/v1" in banner
    assert "admin.json" in banner
    assert first.endpoint in banner
    assert "你好 → 你好！很高兴见到您，有什么可以帮您？" in banner
    assert banner.splitlines()[-1] == f"Mooring is ready: http://127.0.0.1:{first.port}"


def test_no_secret_is_in_the_banner_or_the_log(first: Platform) -> None:
    said = first.out() + first.err()
    assert first.key not in said
    assert first.admin["password"] not in said


def test_admin_json_is_private_and_holds_exactly_what_is_promised(first: Platform) -> None:
    file = first.data_dir / "admin.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(first.admin) == {"base_url", "username", "password", "api_key", "endpoint_id"}
    assert first.key.startswith("mk-")
    assert first.endpoint.startswith("ep-")
    assert all(first.admin.values())


def test_nothing_in_the_data_directory_is_for_others(first: Platform) -> None:
    assert stat.S_IMODE(first.data_dir.stat().st_mode) == 0o700


def test_the_curl_in_the_banner_answers(first: Platform, requires: Callable[[str], str]) -> None:
    requires("curl")
    lines = first.out().splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().startswith("KEY="))
    script = "\n".join(lines[start : lines.index("", start)])
    done = subprocess.run(
        [requires("bash"), "-c", script],
        capture_output=True,
        text=True,
        cwd=first.folder,
        timeout=30,
        check=True,
        env={**os.environ, "no_proxy": "*"},
    )
    answer = json.loads(done.stdout)
    assert answer["choices"][0]["message"]["content"] == "你好！很高兴见到您，有什么可以帮您？"


def test_health_is_open_and_models_are_not(first: Platform) -> None:
    assert first.call("GET", "/health", key="").status == 200
    assert first.call("GET", "/v1/models", key="").status == 401
    listed = [model["id"] for model in first.call("GET", "/v1/models").json["data"]]
    assert first.endpoint in listed


def test_the_administrator_signs_in_with_the_password_of_admin_json(first: Platform) -> None:
    from base64 import b64encode

    pair = b64encode(f"{first.admin['username']}:{first.admin['password']}".encode()).decode()
    answer = first.call("GET", "/manage/v1/projects", key="", headers={"Authorization": f"Basic {pair}"})
    assert [project["metadata"]["name"] for project in answer.json["items"]] == ["default"]


def test_a_gateway_worker_loads_nothing_of_management(first: Platform) -> None:
    mapped = Path(f"/proc/{first.pid('gateway')}/maps").read_text()
    assert "httptools" in mapped, "the worker is the process looked at"
    for name in ("pydantic_core", "sqlalchemy", "cryptography", "sqlite"):
        assert name not in mapped
    script = "import sys, mooring.gateway.worker; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=python_environment()
    )
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"fastapi", "starlette", "pydantic", "sqlalchemy", "alembic", "xllamacpp"})


def test_it_is_small(first: Platform) -> None:
    memory = dict.fromkeys(("supervisor", "control", "gateway", "shim", "engine"), 0)
    until(lambda: not first.pids("banner"), "the banner's end")
    for pid, role in first.processes().items():
        memory[role] += proportional_kib(pid)
    assert all(memory.values()), memory
    assert memory["gateway"] <= WORKER_KIB, memory
    assert sum(memory.values()) <= EVERYTHING_KIB, memory


# --- mistakes ---------------------------------------------------------------------------------------------


def test_a_second_instance_on_the_same_data_directory_is_told_so(first: Platform, make_platform: MakePlatform) -> None:
    second = make_platform()
    second.data_dir = first.data_dir
    assert first.process
    try:
        line = one_sentence(refusal(second))
    finally:
        second.data_dir = second.folder / "data"
    assert "in use" in line and str(first.data_dir) in line and str(first.process.pid) in line
    assert first.chat().status == 200, "the first one goes on"


def test_a_taken_port_is_told_with_a_way_out(first: Platform, make_platform: MakePlatform) -> None:
    second = make_platform()
    second.port = first.port
    line = one_sentence(refusal(second))
    assert f"{first.port}" in line and "taken" in line and "--port" in line


def test_a_data_directory_that_is_a_file_is_told(make_platform: MakePlatform) -> None:
    platform = make_platform()
    platform.data_dir.write_text("a file")
    line = one_sentence(refusal(platform))
    assert str(platform.data_dir) in line and "--data-dir" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_can_not_be_written_is_told(make_platform: MakePlatform) -> None:
    platform = make_platform()
    platform.data_dir.mkdir(mode=0o500)
    line = one_sentence(refusal(platform))
    assert str(platform.data_dir) in line and "--data-dir" in line


@pytest.mark.parametrize("content", [b"this is no database " * 500, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_damaged_database_is_told_and_left_as_it_is(make_platform: MakePlatform, content: bytes) -> None:
    platform = make_platform()
    platform.data_dir.mkdir()
    database = platform.data_dir / "mooring.db"
    database.write_bytes(content)
    said = refusal(platform)
    assert "Traceback" not in said
    sentences = [line for line in said.splitlines() if "mooring.db" in line]
    assert len(sentences) == 1, said
    assert database.read_bytes() == content


# --- stopping and starting again --------------------------------------------------------------------------


def test_sigterm_stops_everything_and_the_second_start_knows_all_again(make_platform: MakePlatform) -> None:
    platform = make_platform().start()
    before, engine = platform.admin, platform.identity()["pid"]
    made = platform.create("keys", "kept", {})
    first_banner = platform.out()
    assert platform.stop() == 0
    until(lambda: not platform.processes(), "no process left", 2)
    assert "Traceback" not in platform.err()
    platform.start()
    assert platform.admin == before
    assert platform.endpoint in platform.out() and platform.endpoint in first_banner
    assert platform.chat("Hello", key=made["status"]["key"]).status == 200
    assert platform.identity()["pid"] != engine, "an ordered stop ends the engine"
    names = [service["metadata"]["name"] for service in platform.manage("GET", "services")["items"]]
    assert names == ["mooring-demo"], "the demo is made once"
    assert platform.stop() == 0


def test_without_the_demo_it_starts_empty(make_platform: MakePlatform) -> None:
    platform = make_platform("--no-demo").start()
    assert platform.manage("GET", "services")["items"] == []
    assert platform.pids("engine") == []
    assert platform.call("GET", "/v1/models").json["data"] == []
    assert platform.stop() == 0
