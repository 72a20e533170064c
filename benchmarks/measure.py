"""One measurement: one load against one target, with the CPU it cost and how clean it was."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import processes
from benchmarks.targets import Place, Target

FOREIGN_LIMIT = 0.12  # share of a core that others may use during a clean run
_SETTLE_S = 3.0  # longest wait for what a load leaves behind
_QUIET_S = 0.25


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load. `per` is what its CPU is divided by."""

    name: str
    arguments: Sequence[str]
    per: str  # "requests" | "chunks"
    warm_s: float
    seconds: float
    patience_s: float  # longest wait for the usage records of the load, where the target keeps such


@dataclass
class Run:
    """The outcome of one measurement. Microseconds; shares of one core; a run with an error text has no figures."""

    target: str
    case: str
    round: int
    gateway_us: float = 0.0  # CPU of the gateway per request or chunk, in the counted window
    all_us: float = 0.0  # gateway_us and what the other processes of the target spent until its usage was recorded
    per_second: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    backlog: int = 0
    gateway_share: float = 0.0
    load_share: float = 0.0  # client and upstream together: near 1 means they are the limit
    foreign: float = 0.0
    errors: int = 0
    error: str = ""
    raw: dict = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Return whether the machine was ours enough to believe the figures."""
        return abs(self.foreign) <= FOREIGN_LIMIT and not self.error


def measure(target: Target, case: Case, number: int, place: Place, upstream_pid: int) -> Run:
    """Run `case` against `target` once."""
    gateway, everything = target.gateway_pids(), target.all_pids()
    watch = {"gateway": gateway, "all": everything, "upstream": [upstream_pid]}
    cores = sorted({place.gateway_core, place.load_core})
    more = ["--warm", str(case.warm_s), "--seconds", str(case.seconds), "--watch", json.dumps(watch)]
    behind = sorted(set(everything) - set(gateway))
    recorded, before = target.recorded(), processes.cpu_s(behind)
    client = _client(target, [*case.arguments, *more, "--cores", json.dumps(cores)], place)
    try:
        output, _ = client.communicate(timeout=case.warm_s + case.seconds + 30)
    finally:
        processes.end(client)
    run = Run(target.name, case.name, number)
    if not output.strip():
        run.error = "the load client failed; its log has the reason"
        return run
    raw = run.raw = json.loads(output)
    if recorded is not None:
        raw["recorded"] = _wait_for_records(target, recorded, raw["all_requests"], case.patience_s)
    _settle(everything)
    raw["behind"] = processes.cpu_s(behind) - before
    _fill(run, case)
    return run


def _fill(run: Run, case: Case) -> None:
    raw = run.raw
    wall, work, all_work = raw["wall"], raw[case.per], raw[f"all_{case.per}"]
    run.errors = raw["errors"]
    if not work or run.errors > 0.01 * max(1, raw["all_requests"]):
        run.error = raw["first_error"] or "no answer within the window"
        return
    run.gateway_us = 1e6 * raw["gateway"] / work
    # What was not yet recorded when the patience ended has not cost anything yet either.
    share = min(1.0, raw.get("recorded", raw["all_requests"]) / max(1, raw["all_requests"]))
    run.all_us = run.gateway_us + (1e6 * raw["behind"] / (all_work * share) if share else 0.0)
    run.per_second = work / wall
    run.p50_us, run.p99_us = raw.get("p50_us", 0.0), raw.get("p99_us", 0.0)
    run.backlog = raw.get("backlog", 0)
    run.gateway_share = raw["gateway"] / wall
    run.load_share = (raw["client"] + raw["upstream"]) / wall
    run.foreign = (raw["busy"] - raw["all"] - raw["client"] - raw["upstream"]) / wall


def _wait_for_records(target: Target, before: int, requests: int, patience_s: float) -> int:
    """Wait until the usage of `requests` is in the database; return how many of them are, when that takes too long."""
    deadline = time.monotonic() + patience_s
    while True:
        recorded = (target.recorded() or 0) - before
        if recorded >= requests or time.monotonic() > deadline:
            return recorded
        time.sleep(_QUIET_S)


def _client(target: Target, arguments: Sequence[str], place: Place) -> subprocess.Popen[str]:
    kind, *rest = arguments
    command = [sys.executable, "-m", "benchmarks.load", kind, "--url", target.url, "--model", target.model]
    if target.key:
        command += ["--key", target.key]
    return processes.spawn([*command, *rest], cores={place.load_core}, log=place.folder / "load.log", talk=True)


def _settle(pids: Sequence[int]) -> None:
    """Wait until the processes rest: usage is ingested behind the requests and is part of their price."""
    deadline = time.monotonic() + _SETTLE_S
    last = processes.cpu_s(pids)
    while pids and time.monotonic() < deadline:
        time.sleep(_QUIET_S)
        now = processes.cpu_s(pids)
        if now - last <= 0.05 * _QUIET_S + 0.011:  # one tick of the clock may be anything
            return
        last = now


@dataclass
class Held:
    """Idle streams and what they cost."""

    target: str
    asked: int
    streams: int = 0
    gateway_kib: float = 0.0  # growth of the gateway's PSS per stream
    all_kib: float = 0.0
    error: str = ""


def hold(target: Target, streams: int, place: Place, within_s: float = 15.0) -> Held:
    """Open `streams` idle streams (as many as come within `within_s`) and weigh the target before and then."""
    held = Held(target.name, min(streams, target.most_streams))
    gateway, everything = target.gateway_pids(), target.all_pids()
    before = processes.pss_mib(gateway), processes.pss_mib(everything)
    arguments = ["hold", "--connections", str(held.asked), "--delay-ms", "600000"]
    client = _client(target, [*arguments, "--seconds", str(within_s)], place)
    try:
        assert client.stdout is not None
        line = client.stdout.readline()
        answer = json.loads(line) if line else {"held": 0, "first_error": "the load client failed"}
        held.streams, held.error = answer["held"], answer["first_error"]
        _settle(everything)
        after = processes.pss_mib(gateway), processes.pss_mib(everything)
    finally:
        processes.end(client, patience_s=2.0)
    if held.streams:
        held.gateway_kib, held.all_kib = ((b - a) * 1024 / held.streams for a, b in zip(before, after, strict=True))
    return held
