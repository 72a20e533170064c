"""The real supervisor over small stand-ins for control and gateway: starting, restarting, replacing, stopping."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mooring.core.processes import start_time, wait_for_end
from mooring.core.replicas import LaunchPlan
from mooring.placements.local import LocalPlacement
from mooring.settings import Settings

PATIENCE_S = 30.0

SUPERVISOR = """
import json, sys
from mooring.settings import load
from mooring.supervise.__main__ import main
from mooring.supervise.children import Commands
sys.exit(main(Commands(**json.loads(sys.argv[1]))))
"""

CONTROL = """
import json, os, signal, sys, time
from mooring.core.parent import die_with_parent
from mooring.settings import load
settings = load()
die_with_parent(settings.supervisor_pid)
(settings.data_dir / "admin.json").write_text(json.dumps(
    {"base_url": settings.base_url, "username": "admin", "password": "pw-secret", "api_key": "mk-secret",
     "endpoint_id": "ep-1"}))
if not (settings.data_dir / "endpoint").exists():
    (settings.data_dir / "endpoint").write_text("Healthy 2999-01-01T00:00:00Z")
(settings.data_dir / "control.pid").write_text(str(os.getpid()))
(settings.run_dir / "control.ready").write_text("")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True: signal.pause()
"""

# Answers every request with facts about itself; /slow holds its answer until the file `go` exists.
GATEWAY = """
import json, os, resource, signal, socket, struct, threading, time
from mooring.core.parent import die_with_parent
from mooring.settings import load
settings = load()
die_with_parent(settings.supervisor_pid)
listener = socket.socket(fileno=settings.listen_fd)
cells = os.open(settings.run_dir / "beats", os.O_RDWR)
stopping = threading.Event()
threads = []

def beat_once():
    os.pwrite(cells, struct.pack("<Q", time.monotonic_ns()), 8 * settings.worker_slot)

def beat():
    while not stopping.wait(0.05):
        beat_once()

def answer(connection):
    with connection:
        head = b""
        while b"\\r\\n\\r\\n" not in head:
            data = connection.recv(65536)
            if not data:
                return
            head += data
        path = head.split()[1].decode()
        while path == "/slow" and not (settings.data_dir / "go").exists():
            time.sleep(0.01)
        facts = {"pid": os.getpid(), "slot": settings.worker_slot, "port": settings.port,
                 "files": resource.getrlimit(resource.RLIMIT_NOFILE), "path": path}
        if path.startswith("/manage/v1/endpoints/"):
            state, made = (settings.data_dir / "endpoint").read_text().split()
            facts = {"metadata": {"createdAt": made}, "status": {"state": state}}
        if path == "/v1/models":
            facts = {"data": [{"id": "ep-1", "state": "healthy"}]}
        if path.endswith("/chat/completions"):
            with open(settings.data_dir / "chats", "a") as chats:
                chats.write("x")
            facts = {"choices": [{"message": {"content": "你好！很高兴见到您。"}}]}
        body = json.dumps(facts).encode()
        head = b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
        connection.sendall(head + body)

def serve():
    while not stopping.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.settimeout(None)
        thread = threading.Thread(target=answer, args=(connection,))
        thread.start()
        threads.append(thread)

signal.signal(signal.SIGTERM, lambda *_: stopping.set())
beat_once()
threading.Thread(target=beat, daemon=True).start()
listener.settimeout(0.05)
serve()
for thread in threads:
    thread.join()
"""

REFUSES = "import sys; print('The database is damaged: restore a backup.', file=sys.stderr); sys.exit(78)"
DIES = "import sys; sys.exit(5)"
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + CONTROL.replace(
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", ""
)


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)


class Platform:
    """One supervisor as a subprocess, in a folder and on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.port = 0
        self.terminal: int = subprocess.DEVNULL
        self.supervisor: subprocess.Popen[bytes] | None = None
        self._out, self._err = folder / "out", folder / "err"

    def start(
        self, *, control: str = CONTROL, gateway: str = GATEWAY, banner: bool = True, **settings: str
    ) -> subprocess.Popen[bytes]:
        python = [sys.executable, "-c"]
        commands = {"control": [*python, control], "gateway": [*python, gateway]}
        if not banner:
            commands["banner"] = []
        chosen = {"data_dir": str(self.data_dir), "port": str(self.port), "drain_s": "10", **settings}
        variables = {f"MOORING_{name.upper()}": value for name, value in chosen.items()}
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, json.dumps(commands)],
                stdin=self.terminal,
                stdout=out,
                stderr=err,
                env={**os.environ, **variables},
                start_new_session=True,
            )
        return self.supervisor

    def out(self) -> str:
        return self._out.read_text()

    def err(self) -> str:
        return self._err.read_text()

    def wait_ready(self) -> None:
        until(lambda: "Mooring is ready" in self.out() or self.ended(), "the banner")
        assert not self.ended(), self.err()
        self.port = int(self.out().rstrip().rpartition(":")[2])

    def ended(self) -> bool:
        assert self.supervisor
        return self.supervisor.poll() is not None

    def signal(self, number: int) -> None:
        assert self.supervisor
        self.supervisor.send_signal(number)

    def wait(self) -> int:
        assert self.supervisor
        return self.supervisor.wait(PATIENCE_S)

    def ask(self, path: str = "/health") -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())

    def pid(self) -> int:
        pid = self.ask()["pid"]
        assert isinstance(pid, int)
        return pid

    def control_pid(self) -> int:
        path = self.data_dir / "control.pid"
        return int(path.read_text() or 0) if path.exists() else 0


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(tmp_path)
    yield made
    if made.supervisor is not None:
        if made.supervisor.poll() is None:
            made.supervisor.kill()
        made.supervisor.wait(PATIENCE_S)
    shutil.rmtree(Settings(data_dir=made.data_dir).run_dir, ignore_errors=True)  # may lie outside tmp_path


# --- starting ---------------------------------------------------------------------------------------------


def test_it_starts_says_where_everything_is_and_stops_with_zero(platform: Platform) -> None:
    platform.start()
    platform.wait_ready()
    said = platform.out()
    assert said.splitlines()[-1] == f"Mooring is ready: http://127.0.0.1:{platform.port}"
    assert "你好 → 你好！很高兴见到您。" in said
    assert (platform.data_dir / "chats").read_text() == "x", "one call"
    assert "admin.json" in said and "secret" not in said
    gateway, control = platform.pid(), platform.control_pid()
    assert platform.ask()["port"] == platform.port, "children are told the port that was chosen"
    soft, hard = platform.ask()["files"]  # type: ignore[misc]
    assert soft == hard
    platform.signal(signal.SIGTERM)
    assert platform.wait() == 0
    assert start_time(gateway) is None and start_time(control) is None
    assert "Traceback" not in platform.err()


@pytest.mark.parametrize(
    ("state", "told", "shows_curl"),
    [
        ("Healthy", "It just answered", True),
        ("Stopped", "The demo endpoint is stopped.", False),
        ("Abnormal", "The demo endpoint can't answer: its service does not run", False),
    ],
)
def test_a_later_start_calls_the_demo_model_only_when_it_can_answer(
    platform: Platform, state: str, told: str, shows_curl: bool
) -> None:
    platform.data_dir.mkdir()
    (platform.data_dir / "endpoint").write_text(f"{state} 2026-01-01T00:00:00Z")
    platform.start()
    platform.wait_ready()
    said = platform.out()
    assert told in said
    assert ("curl" in said) is shows_curl
    assert (platform.data_dir / "chats").exists() is (state == "Healthy")


def test_a_model_root_that_does_not_exist_is_a_warning_and_no_refusal(platform: Platform) -> None:
    platform.start(model_roots="/no/such/folder")
    platform.wait_ready()
    assert "warning: the model root /no/such/folder (--model-roots) is not a folder" in platform.err()


def test_the_curl_in_the_banner_finds_the_key(platform: Platform, requires: Callable[[str], str]) -> None:
    platform.start()
    platform.wait_ready()
    line = next(line for line in platform.out().splitlines() if line.strip().startswith("KEY="))
    shown = subprocess.run([requires("bash"), "-c", f"{line}; echo $KEY"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "mk-secret"


def test_ctrl_c_stops_it_too(platform: Platform) -> None:
    platform.start()
    platform.wait_ready()
    platform.signal(signal.SIGINT)
    assert platform.wait() == 0


def test_a_taken_port_is_one_clear_sentence(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        platform.port = taken.getsockname()[1]
        platform.start()
        assert platform.wait() == 1
    assert platform.err().count("\n") == 1
    assert f"The port {platform.port} on 127.0.0.1 is taken" in platform.err() and "--port" in platform.err()


def test_a_data_directory_in_use_is_told_with_the_process_that_uses_it(platform: Platform, tmp_path: Path) -> None:
    first = platform.start()
    platform.wait_ready()
    (tmp_path / "b").mkdir()
    second = Platform(tmp_path / "b")
    second.data_dir = platform.data_dir
    second.start()
    assert second.wait() == 1
    assert f"is in use by the Mooring with process id {first.pid}" in second.err()
    assert platform.pid(), "the first one goes on"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"data_dir": "/proc/nowhere"}, "can't be used"),
        ({"host": "192.0.2.7"}, "is not an address of this machine"),
        ({"port": "99999"}, "choose one from 1 to 65535"),
        ({"port": "http"}, "MOORING_PORT='http'"),
    ],
)
def test_a_setting_that_can_not_work_is_one_clear_sentence(
    platform: Platform, settings: dict[str, str], sentence: str
) -> None:
    platform.start(**settings)
    assert platform.wait() == 1
    assert sentence in platform.err()
    assert platform.err().count("\n") == 1


def test_control_that_can_not_start_ends_everything_with_its_sentence(platform: Platform) -> None:
    platform.start(control=REFUSES)
    assert platform.wait() == 1
    assert "The database is damaged: restore a backup." in platform.err()
    assert "Traceback" not in platform.err()
    assert "ready" not in platform.out()


def test_control_that_dies_again_and_again_before_it_was_ready_ends_everything(platform: Platform) -> None:
    platform.start(control=DIES)
    assert platform.wait() == 1
    assert "ended with status 5 before it was ready" in platform.err().splitlines()[-1]


def test_what_an_unclean_stop_left_is_cleaned_but_not_the_engines_sockets(platform: Platform) -> None:
    run = Settings(data_dir=platform.data_dir).run_dir
    run.mkdir(parents=True, mode=0o755)
    for name in ("control.ready", "public.sock", "feed.sock", "beats", "rpl-1.sock"):
        (run / name).write_text("old")
    platform.start(control="import signal; signal.pause()", banner=False)
    until(lambda: (run / "beats").exists() and (run / "beats").stat().st_size == 16, "a new beat file")
    assert sorted(path.name for path in run.iterdir()) == ["beats", "rpl-1.sock"]
    assert run.stat().st_mode & 0o777 == 0o700


# --- restarting and replacing -----------------------------------------------------------------------------


def test_dead_children_are_started_again(platform: Platform) -> None:
    platform.start()
    platform.wait_ready()
    gateway, control = platform.pid(), platform.control_pid()
    os.kill(gateway, signal.SIGKILL)
    os.kill(control, signal.SIGKILL)
    assert platform.pid() != gateway, "the connection waited in the socket that stayed open"
    until(lambda: platform.control_pid() not in (0, control), "a new control")
    assert "was ended by signal 9; it is started again" in platform.err()
    assert platform.out().count("Mooring is ready") == 1


@pytest.mark.slow
def test_a_gateway_that_hangs_is_replaced(platform: Platform) -> None:
    platform.start()
    platform.wait_ready()
    gateway = platform.pid()
    started = start_time(gateway)
    assert started
    os.kill(gateway, signal.SIGSTOP)
    assert platform.pid() != gateway
    assert wait_for_end(gateway, started, PATIENCE_S)
    assert "does not answer" in platform.err()


def test_replacing_the_gateways_breaks_no_answer_and_refuses_no_connection(platform: Platform) -> None:
    platform.start(gateway_workers="2")
    platform.wait_ready()
    first = {platform.pid() for _ in range(40)}
    waiting = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=PATIENCE_S)
    waiting.request("GET", "/slow")
    platform.signal(signal.SIGHUP)
    until(lambda: platform.pid() not in first and platform.pid() not in first, "the successors")
    until(lambda: {platform.pid() for _ in range(20)}.isdisjoint(first), "the old ones to accept no more")
    (platform.data_dir / "go").write_text("")
    answer = waiting.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read())["pid"] in first, "an old worker finished what it had begun"
    waiting.close()
    slots = {platform.ask()["slot"] for _ in range(40)}
    assert slots <= {2, 3}, "a successor has a beat of its own"
    platform.signal(signal.SIGHUP)
    until(lambda: platform.ask()["slot"] in (0, 1), "the second generation's successors")
    platform.signal(signal.SIGTERM)
    assert platform.wait() == 0


# --- stopping ---------------------------------------------------------------------------------------------


def test_an_ordered_stop_lets_running_answers_end_first(platform: Platform) -> None:
    platform.start()
    platform.wait_ready()
    waiting = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=PATIENCE_S)
    waiting.request("GET", "/slow")
    control = platform.control_pid()
    until(lambda: platform.ask(), "an answer while another waits")
    platform.signal(signal.SIGTERM)
    assert start_time(control), "control stays until the gateways are gone"
    (platform.data_dir / "go").write_text("")
    assert waiting.getresponse().status == 200
    waiting.close()
    assert platform.wait() == 0


def test_it_stops_when_its_terminal_is_closed(platform: Platform) -> None:
    keyboard, platform.terminal = pty.openpty()
    platform.start()
    os.close(platform.terminal)
    platform.wait_ready()
    gateway = platform.pid()
    platform.signal(signal.SIGHUP)
    until(lambda: platform.pid() != gateway, "a new gateway: the terminal is still there")
    os.close(keyboard)
    platform.signal(signal.SIGHUP)
    assert platform.wait() == 0


def test_the_drain_is_bounded(platform: Platform) -> None:
    platform.start(gateway="import signal\n" + GATEWAY + "\nwhile True: signal.pause()\n", drain_s="-4.5")
    platform.wait_ready()
    begun = time.monotonic()
    platform.signal(signal.SIGTERM)
    assert platform.wait() == 0
    assert time.monotonic() - begun < 10


def test_a_second_signal_kills(platform: Platform) -> None:
    platform.start(control=DEAF)
    platform.wait_ready()
    control = platform.control_pid()
    platform.signal(signal.SIGTERM)
    until(lambda: not _accepts(platform.port), "the gateways' end")
    assert not platform.ended()
    platform.signal(signal.SIGTERM)
    begun = time.monotonic()
    assert platform.wait() == 1
    assert time.monotonic() - begun < 5
    assert start_time(control) is None


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.settimeout(0.5)
            connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            return bool(connection.recv(1))
    except OSError:
        return False


async def test_engines_end_with_an_ordered_stop_and_survive_a_kill(platform: Platform) -> None:
    platform.start()
    platform.wait_ready()
    placement = LocalPlacement(Settings(data_dir=platform.data_dir))
    place = placement.place("rpl-1")
    plan = LaunchPlan((sys.executable, "-c", "import signal; signal.pause()"), {}, "unix:x", "toy", 1)
    await placement.start(place, plan, service_id="svc-1", spec_version=1)
    engine = (await placement.list())[0].pid
    assert engine
    gateway, control = platform.pid(), platform.control_pid()
    seen = {pid: start_time(pid) or 0 for pid in (gateway, control)}
    platform.signal(signal.SIGKILL)
    platform.wait()
    assert all(wait_for_end(pid, since, PATIENCE_S) for pid, since in seen.items()), "children die with the supervisor"
    assert (await placement.list())[0].alive
    platform.start()  # on the same port: the kernel freed it
    platform.wait_ready()
    assert (await placement.list())[0].pid == engine
    platform.signal(signal.SIGTERM)
    assert platform.wait() == 0
    until(lambda: start_time(engine) is None, "the engine's end")


def test_the_lock_is_free_after_the_stop(platform: Platform) -> None:
    platform.start()
    platform.wait_ready()
    platform.signal(signal.SIGTERM)
    platform.wait()
    with open(platform.data_dir / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
