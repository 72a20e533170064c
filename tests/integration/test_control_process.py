import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mooring.core.snapshot import FEED_LAYOUT, Ack, Commit, FrameReader, Hello, Rows, decode_from_control, pack_frame
from mooring.settings import Settings

START_S = 30.0


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("control", timeout=20)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Control:
    """One control process on a data folder, as the supervisor would start it."""

    def __init__(self, folder: Path, **settings: str):
        self.folder = folder
        self.run = Settings(data_dir=folder).run_dir
        source = str(Path(__file__).parents[2] / "src")
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": source,
            "MOORING_DATA_DIR": str(folder),
            "MOORING_LOG_LEVEL": "warning",
            "MOORING_DRAIN_S": "2",
            **{f"MOORING_{name.upper()}": value for name, value in settings.items()},
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self, role="control"):
        command = [sys.executable, "-P", "-m", "mooring.app", role]
        self.process = subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)
        return self

    def ready(self):
        begun = time.monotonic()
        mark = self.run / "control.ready"
        until(lambda: mark.exists() or self.process.poll() is not None, "control is ready")
        assert self.process.poll() is None, self.process.stderr.read()
        return time.monotonic() - begun

    def call(self, method, path, body=None):
        key = json.loads((self.folder / "admin.json").read_text())["api_key"]
        with contextlib.closing(UnixConnection(self.run / "public.sock")) as connection:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None

    def service(self, name="mooring-demo"):
        _, page = self.call("GET", "/manage/v1/services")
        return next((item for item in page["items"] if item["metadata"]["name"] == name), None)

    def until_state(self, state, name="mooring-demo"):
        found = until(lambda: (s := self.service(name)) and s["status"]["state"] == state and s, f"{name} is {state}")
        return found["status"]

    def engine_pids(self):
        known = (self.folder / "replicas").glob("*/identity.json")
        return sorted(json.loads(path.read_text())["pid"] for path in known)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(30)
        self.process.stderr.close()
        return self.process.returncode

    def said(self):
        _, text = self.process.communicate(timeout=30)
        return self.process.returncode, text


def until(condition, what, timeout_s=START_S):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def control(tmp_path) -> Iterator[Control]:
    folder = tmp_path / "data"
    folder.mkdir()
    control = Control(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the supervisor holds it
        yield control
        if control.process is not None and control.process.poll() is None:
            control.end()
        for pid in control.engine_pids():
            if running(pid):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(control.run, ignore_errors=True)


@pytest.fixture
def served(control):
    control.start().ready()
    control.until_state("healthy")
    return control


def test_the_first_start_serves_management_on_private_sockets_and_brings_up_the_demo_engine(control):
    took_s = control.start().ready()
    status = control.until_state("healthy")
    assert took_s < 15, "measured 1.7 s on an idle machine"
    assert (status["replicas"], status["readyReplicas"], status["currentReplicas"]) == (1, 1, 1)
    for name in ("public.sock", "feed.sock"):
        assert stat.S_IMODE((control.run / name).stat().st_mode) == 0o600
    assert control.end() == 0


def test_control_killed_and_started_again_adopts_the_engine(served):
    (pid,) = served.engine_pids()
    served.end(signal.SIGKILL)
    (served.run / "control.ready").unlink()
    assert running(pid)
    served.start().ready()
    served.until_state("healthy")
    assert served.engine_pids() == [pid]
    assert running(pid)


def test_an_ordered_stop_leaves_no_engine_and_no_ready_mark_and_the_next_start_serves_again(served):
    (pid,) = served.engine_pids()
    assert served.end() == 0
    assert not running(pid)
    assert not (served.run / "control.ready").exists()
    served.start().ready()
    served.until_state("healthy")
    assert served.engine_pids() != [pid]


def test_a_killed_engine_is_started_again_under_the_same_replica(served):
    (pid,) = served.engine_pids()
    (name,) = os.listdir(served.folder / "replicas")
    os.kill(pid, signal.SIGKILL)
    served.until_state("unhealthy")
    served.until_state("healthy")
    assert os.listdir(served.folder / "replicas") == [name]
    assert served.engine_pids() != [pid]


def test_a_model_that_is_none_ends_in_failed_before_anything_is_started(control, tmp_path):
    broken = tmp_path / "models" / "broken.gguf"
    broken.parent.mkdir()
    broken.write_bytes(b"this is not a model" * 100)
    control.environment["MOORING_MODEL_ROOTS"] = str(broken.parent)
    control.environment["MOORING_DEMO"] = "0"
    control.start().ready()
    status, _ = control.call(
        "POST",
        "/manage/v1/services",
        {
            "kind": "ModelService",
            "metadata": {"name": "broken", "project": "default"},
            "spec": {"model": {"source": "local", "path": str(broken)}},
        },
    )
    assert status == 201
    found = control.until_state("failed", "broken")
    assert "broken.gguf is no usable GGUF file" in found["reason"]
    assert not list(control.folder.glob("replicas/*"))


def test_a_deleted_service_leaves_no_process_and_no_folder(served):
    (pid,) = served.engine_pids()
    endpoints = served.call("GET", "/manage/v1/endpoints")[1]["items"]
    for endpoint in endpoints:
        assert served.call("DELETE", f"/manage/v1/endpoints/{endpoint['id']}")[0] in (200, 204)
    assert served.call("DELETE", f"/manage/v1/services/{served.service()['id']}")[0] in (200, 204)
    until(lambda: not running(pid), "the engine has ended")
    until(lambda: not os.listdir(served.folder / "replicas"), "its folder is gone")


def test_a_created_key_is_at_the_gateways_when_the_call_returns(served):
    body = {"kind": "ApiKey", "metadata": {"name": "k1", "project": "default"}, "spec": {}}
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as feed, ThreadPoolExecutor(1) as other:
        feed.settimeout(10)
        feed.connect(str(served.run / "feed.sock"))
        feed.sendall(pack_frame(Hello(FEED_LAYOUT, "w0", os.getpid(), "", -1)))
        frames, rows = FrameReader(), {}
        calling, created = None, None
        while created is None:
            for frame in frames.feed(feed.recv(1 << 18)):
                message = decode_from_control(frame)
                if isinstance(message, Rows):
                    rows |= {row.id: row for row in message.rows}
                elif isinstance(message, Commit):
                    feed.sendall(pack_frame(Ack(message.version)))
                    calling = calling or other.submit(served.call, "POST", "/manage/v1/keys", body)
            created = calling.result() if calling and calling.done() else None
    status, key = created
    assert status == 201
    assert rows[key["id"]].data is not None


def test_a_damaged_database_is_one_sentence_and_exit_status_78(control):
    (control.folder / "mooring.db").write_bytes(b"not a database at all, but long enough to look like one" * 100)
    code, text = control.start().said()
    assert code == 78
    assert len(text.strip().splitlines()) == 1
    assert "mooring.db" in text


def test_a_database_of_a_newer_version_is_refused_in_one_sentence(control):
    control.start().ready()
    control.end()
    with contextlib.closing(sqlite3.connect(control.folder / "mooring.db")) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()
    code, text = control.start().said()
    assert code == 78
    assert len(text.strip().splitlines()) == 1
    assert "newer version" in text


def test_a_setting_that_can_not_be_read_is_named(control):
    control.environment["MOORING_PORT"] = "many"
    code, text = control.start().said()
    assert code == 78
    assert "MOORING_PORT" in text


def test_an_unknown_role_is_told_the_usage(control):
    code, text = control.start("nonsense").said()
    assert code == 2
    assert "control|gateway" in text


def test_a_gateway_process_loads_nothing_of_management():
    code = (
        "import sys, mooring.app, mooring.gateway.worker;"
        "print([name for name in ('fastapi', 'pydantic', 'sqlalchemy', 'alembic') if name in sys.modules])"
    )
    source = str(Path(__file__).parents[2] / "src")
    environment = {"PYTHONPATH": source, "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_data_directory_deleted_under_it_starts_no_second_engine(served):
    (engine,) = served.engine_pids()
    output = served.process.stderr.fileno()
    os.set_blocking(output, False)
    said = b""

    def told():
        nonlocal said
        with contextlib.suppress(BlockingIOError):
            said += os.read(output, 65536)
        return b"no engine is started or stopped any more" in said

    shutil.rmtree(served.folder, ignore_errors=True)
    try:
        until(told, "control says that its folder is gone", 15)
        assert running(engine)
        assert not (served.folder / "replicas").exists()
        assert said.count(b"any more") == 1
    finally:
        served.end(signal.SIGKILL)
        os.kill(engine, signal.SIGKILL)
