"""The platform as its users run it: `mooring up` in a process of its own, with the real engine and the demo model."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

import mooring
from mooring.settings import Settings

START_S = 45.0
STOP_S = 60.0
PATIENCE_S = 20.0
PROBE_S = 3.0  # the time the platform gives an engine to answer
_ROLES = (  # in the order in which command lines are looked at
    ("shim", "mooring.supervise.shim"),
    ("engine", "mooring.engines."),
    ("banner", "mooring.supervise.banner"),
    ("control", "mooring.app control"),
    ("gateway", "mooring.app gateway"),
    ("supervisor", "mooring.supervise"),
)
Found = TypeVar("Found")


def until(condition: Callable[[], Found], what: str, timeout_s: float = PATIENCE_S) -> Found:
    """Poll until `condition` returns something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for: {what}"
        time.sleep(0.02)
    return found


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python_environment(**more: str) -> dict[str, str]:
    """Return the environment for a process that runs this checkout and knows nothing of the caller's platform."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOORING_")}
    return {**kept, "PYTHONPATH": str(Path(mooring.__file__).parents[1]), **more}


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Platform:
    """One installation in a folder and on a port of its own; it can be started, killed and started again."""

    def __init__(self, folder: Path, *flags: str, **settings: str) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.port = free_port()
        self.flags = flags
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self._out, self._err = folder / "out", folder / "err"

    # --- starting and stopping

    def launch(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start `mooring up` and return at once."""
        chosen = {f"MOORING_{name.upper()}": value for name, value in self.settings.items()}
        command = [sys.executable, "-m", "mooring", "up", "--data-dir", str(self.data_dir), "--port", str(self.port)]
        with open(self._out, "wb") as out, open(self._err, "ab") as err:
            self.process = subprocess.Popen(
                [*command, *self.flags, *flags],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=python_environment(**chosen),
                cwd=self.folder,
                start_new_session=True,
            )
        return self.process

    def start(self, *flags: str) -> Platform:
        """Start `mooring up` and return when it says that it is ready."""
        process = self.launch(*flags)
        until(lambda: "Mooring is ready" in self.out() or process.poll() is not None, "the banner", START_S)
        assert process.poll() is None, f"it ended with {process.returncode}:\n{self.err()}"
        if self.admin.get("endpoint_id"):  # a later start does not wait for the demo model
            until(lambda: self._demo_state() != "Scheduling", "the demo endpoint", START_S)
        return self

    def _demo_state(self) -> str:
        answer = self.call("GET", f"/manage/v1/endpoints/{self.admin['endpoint_id']}")
        return str(answer.json["status"]["state"]) if answer.status == 200 else ""

    def stop(self) -> int:
        """Stop it in order; return its exit status."""
        assert self.process
        self.process.terminate()
        return self.process.wait(STOP_S)

    def close(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        for pid in (self.process.pid,) if self.process and self.process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
        until(self._kill_rest, "the end of all processes")
        shutil.rmtree(Settings(data_dir=self.data_dir).run_dir, ignore_errors=True)  # may lie outside our folder
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill_rest(self) -> bool:
        rest = self.processes()
        for pid in rest:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not rest

    # --- what it says of itself

    def out(self) -> str:
        return self._out.read_text()

    def err(self) -> str:
        return self._err.read_text()

    @property
    def admin(self) -> dict[str, str]:
        return json.loads((self.data_dir / "admin.json").read_text())

    @property
    def url(self) -> str:
        return self.admin["base_url"]

    @property
    def key(self) -> str:
        return self.admin["api_key"]

    @property
    def endpoint(self) -> str:
        return self.admin["endpoint_id"]

    # --- its processes

    def processes(self) -> dict[int, str]:
        """Return pid → role of everything that runs for this installation."""
        return dict(_processes_of(str(self.data_dir).encode()))

    def pids(self, role: str) -> list[int]:
        """Return the processes of one role, oldest first."""
        return sorted(pid for pid, found in self.processes().items() if found == role)

    def pid(self, role: str) -> int:
        """Return the only process of a role."""
        (pid,) = self.pids(role)
        return pid

    def kill(self, role: str) -> list[int]:
        """Kill -9 every process of a role; return which."""
        pids = self.pids(role)
        assert pids, f"there is no {role}"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids

    # --- calling it

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = PATIENCE_S,
    ) -> Answer:
        """Send one request on a connection of its own. `key` "" sends none, None the administrator's."""
        connection = self._connection(timeout_s)
        bearer = self.key if key is None else key
        sent = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        with contextlib.closing(connection):
            connection.request(method, path, data, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if not self.url.startswith("https:"):
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        context = ssl.create_default_context(cafile=str(self.data_dir / "tls" / "cert.pem"))
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout_s, context=context)

    def chat(self, text: str = "Hello", *, model: str = "", key: str | None = None, **more: Any) -> Answer:
        """Ask greedily, without streaming."""
        body = {"model": model or self.endpoint, "messages": [{"role": "user", "content": text}], "temperature": 0}
        return self.call("POST", "/v1/chat/completions", {**body, **more}, key=key)

    def manage(self, method: str, path: str, body: Any = None, *, expect: int | None = None) -> Any:
        """Call the management API as the administrator; return the answer's JSON."""
        answer = self.call(method, f"/manage/v1/{path}", body)
        good = answer.status == expect if expect else answer.status < 300
        assert good, f"{method} {path}: {answer.status} {answer.body.decode()}"
        return answer.json

    def create(self, path: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Create an object and return it."""
        kinds = {
            "keys": "ApiKey",
            "endpoints": "Endpoint",
            "services": "ModelService",
            "external-services": "ExternalService",
            "secrets": "Secret",
        }
        return self.manage("POST", path, {"kind": kinds[path], "metadata": {"name": name}, "spec": spec})

    def client(self, **more: Any) -> httpx.AsyncClient:
        """Return an asynchronous client with the administrator's key."""
        unbounded = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {"Authorization": f"Bearer {self.key}"}
        chosen = {"timeout": 60.0, "limits": unbounded, "headers": headers, "trust_env": False, **more}
        return httpx.AsyncClient(base_url=self.url, **chosen)

    def cli(self, *arguments: str, stdin: str = "") -> Done:
        """Run a `mooring` command beside this platform."""
        done = subprocess.run(
            [sys.executable, "-m", "mooring", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=python_environment(MOORING_DATA_DIR=str(self.data_dir)),
            cwd=self.folder,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def usage(self, page: int = 100) -> list[dict[str, Any]]:
        """Return every usage record, read page by page."""
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = self.manage("GET", f"usage/requests?limit={page}&cursor={cursor}")
            items += answer["items"]
            cursor = answer["nextCursor"]
            if not cursor:
                return items

    # --- its engine

    def identity(self) -> dict[str, Any]:
        """Return what the shim of the only replica wrote down, {} if there is none."""
        found = sorted(self.data_dir.glob("replicas/*/identity.json"))
        return json.loads(found[-1].read_text()) if found else {}

    def engine_load(self) -> int:
        """Return how many requests the engine works on or holds in its queue."""
        numbers = self._engine_metrics()
        return int(numbers["llamacpp:requests_processing"] + numbers["llamacpp:requests_deferred"])

    def _engine_metrics(self) -> dict[str, float]:
        identity = self.identity()
        transport = httpx.HTTPTransport(uds=identity["address"].removeprefix("unix:"))
        with httpx.Client(transport=transport, timeout=PROBE_S) as client:
            text = client.get("http://engine/metrics", headers={"Authorization": f"Bearer {identity['key']}"}).text
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


def _processes_of(data_dir: bytes) -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            arguments = Path("/proc", name, "cmdline").read_bytes()
            variables = Path("/proc", name, "environ").read_bytes().split(b"\0")
            line = arguments.replace(b"\0", b" ").decode(errors="replace")
            if data_dir in arguments or b"MOORING_DATA_DIR=" + data_dir in variables:
                role = next((role for role, mark in _ROLES if mark in line), None)
                if role:
                    yield int(name), role


def run_command(words: list[str], environment: dict[str, str], folder: Path, out: Path, err: Path) -> None:
    """Be the command `mooring` with these words: in its environment and folder, with its output in two files."""
    from mooring.cli import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in enumerate((Path(os.devnull), out, err)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if stream else os.O_RDONLY
        os.dup2(os.open(path, flags, 0o600), stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    main.run(words)


def proportional_kib(pid: int) -> int:
    """Return the memory of a process, with shared pages shared out (PSS), in KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError(f"no Pss of {pid}")


def descriptors(pid: int) -> int:
    """Return how many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
