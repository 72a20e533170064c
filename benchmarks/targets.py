"""What is measured beside the platform: nginx as the floor, and the gateways other projects ship."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import processes
from benchmarks.mock_upstream import MODEL

PEERS_VARIABLE = "MOORING_BENCH_PEERS"  # the folder that peers.sh fills


class Lacking(Exception):
    """A target can't be measured here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where things run: the core of the gateway under test, the core of load and upstream, and a scratch folder."""

    gateway_core: int
    load_core: int
    folder: Path
    upstream: str  # http://127.0.0.1:<port>
    descriptors: int  # the limit of open files


@dataclass
class Target:
    """One gateway. `command` is started pinned to the gateway core, and is ready at its first 200."""

    name: str
    port: int
    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    model: str = MODEL
    ready_within_s: float = 30.0
    most_streams: int = 1_000_000  # idle streams it is asked to hold
    start_s: float = 0.0  # from the start of the process to its first 200
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where the load goes."""
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    def start(self, place: Place) -> None:
        """Start it and wait for its first answer.

        Raises:
            Lacking: it did not come up; the text has the last lines it wrote.
        """
        log = place.folder / f"{self.name.replace(' ', '-')}.log"
        began = time.monotonic()
        environ = {**os.environ, **self.environ}
        self.process = processes.spawn(self.command, cores={place.gateway_core}, log=log, environ=environ)
        wait_for_answer(self, log, self.ready_within_s)
        self.start_s = time.monotonic() - began

    def stop(self) -> None:
        """End it and all it started."""
        if self.process is not None:
            processes.end(self.process)
            self.process = None

    def gateway_pids(self) -> list[int]:
        """Return the processes whose CPU is the price of a request."""
        return self.all_pids()

    def all_pids(self) -> list[int]:
        """Return every process of it."""
        return processes.tree(self.process.pid) if self.process else []

    def recorded(self) -> int | None:
        """Return how many requests it has in its records, None if it keeps none."""
        return None


def wait_for_answer(target: Target, log: Path, within_s: float) -> None:
    """Ask until the target answers a chat call with 200.

    Raises:
        Lacking: it died or gave no 200 within `within_s`.
    """
    deadline = time.monotonic() + within_s
    seen = ""
    while time.monotonic() < deadline:
        if target.process is not None and target.process.poll() is not None:
            break
        seen = ask(target)
        if seen == "200":
            return
        time.sleep(0.01)
    tail = log.read_text(errors="replace")[-600:] if log.exists() else ""
    raise Lacking(f"{target.name} gave no answer (last: {seen or 'nothing'}).\n{tail}")


def ask(target: Target) -> str:
    """Make one small chat call; return its status, or what went wrong."""
    body = json.dumps({"model": target.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {target.key}"}
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=5)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        text = response.read(300).decode(errors="replace")
        return "200" if response.status == 200 else f"{response.status} {text}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()


def nginx(place: Place) -> Target:
    """Return nginx as a plain reverse proxy to the mock: no keys, no accounting.

    Raises:
        Lacking: nginx is not installed.
    """
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise Lacking("nginx is not installed (Debian: apt-get install nginx-light).")
    port = processes.free_port()
    folder = place.folder / "nginx"
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(_nginx_config(place, port))
    return Target("nginx", port, [binary, "-p", str(folder), "-e", "error.log", "-c", str(config)])


def _nginx_config(place: Place, port: int) -> str:
    temporary = "\n  ".join(
        f"{name}_temp_path temp-{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""worker_processes 1; daemon off; pid nginx.pid; worker_rlimit_nofile {place.descriptors};
events {{ worker_connections {place.descriptors - 100}; use epoll; multi_accept on; }}
http {{
  access_log off; error_log error.log error;
  {temporary}
  tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 300s; client_body_buffer_size 256k;
  upstream mock {{ server {place.upstream.removeprefix("http://")}; keepalive 2048; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""


def _peer_binary(folder: str, name: str) -> str:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mooring-bench" / "peers"
    binary = Path(os.environ.get(PEERS_VARIABLE) or default) / folder / "bin" / name
    if not binary.exists():
        raise Lacking(f"{binary} is not there (benchmarks/peers.sh {folder} installs it).")
    return str(binary)


def _router(binary: str, place: Place, *more: str) -> tuple[int, list[str]]:
    port, metrics = processes.free_port(), processes.free_port()
    command = [binary, *more, "--host", "127.0.0.1", "--port", str(port), "--worker-urls", place.upstream]
    command += ["--policy", "round_robin", "--log-level", "error", "--disable-retries"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics)]
    return port, [*command, "--max-concurrent-requests", "20000"]


def vllm_router(place: Place) -> Target:
    """Return the vLLM project's router (Rust), without keys: it has none."""
    port, command = _router(_peer_binary("vllm", "vllm-router"), place)
    return Target("vllm-router", port, command)


def sglang_router(place: Place) -> Target:
    """Return the SGLang project's router (Rust), with its one key."""
    port, command = _router(_peer_binary("sglang", "smg"), place, "launch", "--api-key", "sk-bench")
    return Target("sglang-router", port, command, key="sk-bench")


def litellm(place: Place) -> Target:
    """Return LiteLLM's proxy (Python) with one worker, its master key and no database."""
    binary, port = _peer_binary("litellm", "litellm"), processes.free_port()
    config = place.folder / "litellm.yaml"
    config.write_text(f"""model_list:
  - model_name: {MODEL}
    litellm_params: {{ model: openai/{MODEL}, api_base: "{place.upstream}/v1", api_key: "none" }}
general_settings: {{ master_key: sk-bench, disable_spend_logs: true }}
litellm_settings: {{ telemetry: false, set_verbose: false, request_timeout: 600, num_retries: 0 }}
""")
    command = [binary, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    environ = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
    return Target("litellm", port, command, environ, key="sk-bench", ready_within_s=90.0, most_streams=300)


PEERS = {"nginx": nginx, "vllm-router": vllm_router, "sglang-router": sglang_router, "litellm": litellm}
