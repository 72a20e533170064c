"""Run a GGUF file under llama.cpp's HTTP server in a process of its own, and ask it questions."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_SECONDS = 30.0
SAMPLING_SEED = 1
SERVE = """
import json, signal, sys, threading
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 8192, 4, 1  # four slots of 2048 tokens
params.n_batch = params.n_ubatch = 2048  # an embedding takes its whole text at once
params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.cors_origins = ""
server = xllamacpp.Server(params)
print(json.dumps({"url": server.listening_address}), flush=True)
threading.Event().wait()
"""


@dataclass(frozen=True)
class Reply:
    """What the model said, and what it thought first."""

    content: str
    reasoning: str


@dataclass(frozen=True)
class Engine:
    """A running engine."""

    url: str

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a JSON request."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def chat(self, messages: list[dict[str, str]], thinking: bool = True, temperature: float = 0.0) -> Reply:
        """The answer to a conversation; greedy unless a temperature is given."""
        body = {
            "messages": messages,
            "temperature": temperature,
            "seed": SAMPLING_SEED,
            "max_tokens": 300,
            "chat_template_kwargs": {"enable_thinking": thinking},
        }
        message = self.post("/v1/chat/completions", body)["choices"][0]["message"]
        return Reply(message.get("content") or "", (message.get("reasoning_content") or "").strip())


def wait_for_address(process: subprocess.Popen[bytes], output: Path) -> str:
    """The address that the server prints once the model is loaded."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        lines = output.read_text().splitlines()
        if lines:
            return json.loads(lines[0])["url"]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the engine did not start (exit status {process.poll()})")


@contextmanager
def run_engine(model: Path) -> Iterator[Engine]:
    """Start the engine, and stop it at the end."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "stdout"
        log = Path(directory) / "stderr"
        with output.open("wb") as stdout, log.open("wb") as stderr:
            process = subprocess.Popen([sys.executable, "-c", SERVE, str(model)], stdout=stdout, stderr=stderr)
        try:
            yield Engine(wait_for_address(process, output))
        finally:
            process.kill()
            process.wait()
