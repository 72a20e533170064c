"""The platform under test: the real `mooring up`, with keys, usage journal and ingestion on."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import processes
from benchmarks.mock_upstream import MODEL
from benchmarks.targets import Lacking, Place, Target, wait_for_answer

NAME = "mooring"


@dataclass
class Platform(Target):
    """One platform on a data directory of its own. Its one gateway worker gets the gateway core."""

    data_dir: Path = field(default_factory=Path)
    first_start_s: float = 0.0  # empty data directory to the first 200 of /health

    def start(self, place: Place) -> None:
        """Start on an empty data directory, register the mock, stop, start again and time the first chat answer.

        Raises:
            Lacking: it did not come up.
        """
        log = place.folder / "mooring.log"
        self.first_start_s = self._up(place, log)
        self._register(place)
        processes.end(self._running())
        self._up(place, log, chat=True)
        processes.pin(self.gateway_pids(), place.gateway_core)
        processes.pin(sorted(set(self.all_pids()) - set(self.gateway_pids())), place.load_core)

    def _up(self, place: Place, log: Path, chat: bool = False) -> float:
        began = time.monotonic()
        # Both cores while it starts, as an operator would have it; pinned afterwards.
        cores = {place.load_core, place.gateway_core}
        self.process = processes.spawn(self.command, cores=cores, log=log, environ=self.environ)
        if chat:
            wait_for_answer(self, log, self.ready_within_s)
            self.start_s = time.monotonic() - began
        else:
            self._wait_for_ready(log)
        return time.monotonic() - began

    def _wait_for_ready(self, log: Path) -> None:
        deadline = time.monotonic() + self.ready_within_s
        while time.monotonic() < deadline and self._running().poll() is None:
            if "Mooring is ready" in log.read_text(errors="replace"):
                return
            time.sleep(0.01)
        raise Lacking(f"the platform did not start.\n{log.read_text(errors='replace')[-1500:]}")

    def _running(self) -> subprocess.Popen[str]:
        assert self.process is not None
        return self.process

    def _register(self, place: Place) -> None:
        """Make the external service, its endpoint and a key, as an operator would: with `mooring apply`."""
        command = [sys.executable, "-m", "mooring", "apply", "--data-dir", str(self.data_dir)]
        applied = subprocess.run(
            [*command, "-f", "-", "--wait", "--timeout", "20", "-o", "json"],
            input=_documents(place.upstream),
            capture_output=True,
            text=True,
            env=self.environ,
            check=False,
        )
        if applied.returncode != 0:
            raise Lacking(f"mooring apply failed.\n{applied.stdout[-800:]}{applied.stderr[-800:]}")
        items = {item["kind"]: item for item in json.loads(applied.stdout)["items"]}
        self.key = items["ApiKey"]["status"]["key"]
        self.model = items["Endpoint"]["id"]

    def gateway_pids(self) -> list[int]:
        """Return the gateway worker."""
        return [pid for pid in self.all_pids() if "mooring.app gateway" in processes.command_line(pid)]

    def recorded(self) -> int:
        """Return the usage records in the database; read beside the platform, so that asking costs it nothing."""
        database = sqlite3.connect(f"file:{self.data_dir / 'mooring.db'}?mode=ro", uri=True)
        try:
            return database.execute("SELECT count(*) FROM usage_requests").fetchone()[0]
        finally:
            database.close()


def platform(place: Place) -> Platform:
    """Return the platform, not yet started."""
    port, data_dir = processes.free_port(), place.folder / "data"
    command = [sys.executable, "-m", "mooring", "up", "--no-demo", "--gateway-workers", "1"]
    # Settings of another installation in the environment must not reach this one.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MOORING_")}
    return Platform(
        NAME,
        port,
        [*command, "--data-dir", str(data_dir), "--port", str(port)],
        environ,
        data_dir=data_dir,
        ready_within_s=60.0,
    )


def _documents(upstream: str) -> str:
    return f"""kind: ExternalService
metadata: {{name: bench, project: default}}
spec: {{urls: ["{upstream}/v1"], servedModel: {MODEL}, types: [chat]}}
---
kind: Endpoint
metadata: {{name: bench, project: default}}
spec: {{services: [{{name: bench, weight: 1}}]}}
---
kind: ApiKey
metadata: {{name: bench, project: default}}
spec: {{description: "benchmark", access: inference}}
"""
