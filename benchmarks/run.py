"""`make bench`: `python -m benchmarks.run [--quick] [--only nginx,litellm] …`. README.md tells how to read it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import processes
from benchmarks.measure import FOREIGN_LIMIT, Case, Run, hold, measure
from benchmarks.report import DIRECT, Outcome, markdown
from benchmarks.subject import NAME, Platform, platform
from benchmarks.targets import PEERS, Lacking, Place, Target, ask

RESULTS = Path(__file__).parent / "results"
_JSON = ("json", "--connections", "32")
_SSE = ("sse", "--connections", "200", "--chunks", "100", "--delay-ms", "20")
_RATE = ("rate", "--rate", "200")
_RETRIES = 3
_OVERHEAD_S = 1.0  # a run's start, end and settling
_SHARES = 4
_SAMPLE_S = 0.4  # how long the cores are watched before a measurement
_LONGEST_WAIT_S = 60.0
_MOST_IDLE_STREAMS = 9000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and the time it may take. The end holds even if not everything was measured."""

    cases: tuple[Case, ...]
    rounds: int
    budget_s: float
    hold_s: float  # kept for the idle streams of each target


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        cases = (
            Case("json", _JSON, "requests", 0.4, 1.5, 4.0),
            Case("sse", _SSE, "chunks", 1.0, 2.0, 4.0),
            Case("rate", _RATE, "requests", 0.3, 1.5, 4.0),
        )
        return Plan(cases, options.rounds or 1, 80.0, 3.0)
    cases = (
        Case("json", _JSON, "requests", 0.7, 2.5, 12.0),
        Case("sse", _SSE, "chunks", 1.2, 3.0, 12.0),
        Case("rate", _RATE, "requests", 0.5, 3.0, 12.0),
    )
    return Plan(cases, options.rounds or 3, options.budget, 7.0)


class Bench:
    """One whole benchmark: start everything, measure in turn, weigh the idle streams."""

    def __init__(self, plan: Plan, place: Place, upstream: Target) -> None:
        self.plan = plan
        self.place = place
        self.upstream = upstream
        self.outcome = Outcome()
        self.began = time.monotonic()
        self.targets: list[Target] = []

    def elapsed(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self.began

    def bring_up(self, target: Target) -> None:
        """Start a target and weigh it idle. Lacking is raised by the target."""
        _say(f"starting {target.name}")
        self.targets.append(target)
        try:
            target.start(self.place)
        except Lacking:
            self.targets.remove(target)
            target.stop()
            raise
        time.sleep(0.5)  # what its start left to do
        self.outcome.start_s[target.name] = target.start_s
        self.outcome.pss_mib[target.name] = (
            processes.pss_mib(target.gateway_pids()),
            processes.pss_mib(target.all_pids()),
        )
        if isinstance(target, Platform):
            self.outcome.first_start_s = target.first_start_s

    def stop(self) -> None:
        """Stop every target."""
        for target in self.targets:
            target.stop()

    def run(self) -> None:
        """Measure round after round, as long as the time lasts."""
        jobs = list(self._jobs())
        reserve = self.plan.hold_s * len(self.targets)
        costs = [case.warm_s + case.seconds + _OVERHEAD_S for _, case, _ in jobs]
        for position, (number, case, target) in enumerate(jobs):
            left = self.plan.budget_s - reserve - self.elapsed()
            if left < costs[position]:
                self.outcome.notes.append(f"The time was over after {position} of {len(jobs)} measurements.")
                return
            # A few shares of the time that is to spare: a busy minute must not use up the waiting of all the others.
            spare = (left - sum(costs[position:])) * min(1.0, _SHARES / (len(jobs) - position))
            self.outcome.runs.append(self._measure(target, case, number, spare))

    def _jobs(self) -> Iterator[tuple[int, Case, Target]]:
        direct = Target(DIRECT, self.upstream.port, [])
        for number in range(1, self.plan.rounds + 1):
            for case in self.plan.cases:
                if case.name == "rate":
                    yield number, case, direct
                for target in self.targets:
                    yield number, case, target

    def _measure(self, target: Target, case: Case, number: int, spare_s: float) -> Run:
        """Measure once, and again while others disturb it and time allows; return the least disturbed run."""
        assert self.upstream.process is not None
        deadline = self.elapsed() + spare_s
        cost = case.warm_s + case.seconds + _OVERHEAD_S
        best: Run | None = None
        for attempt in range(1 + _RETRIES):
            if attempt and self.elapsed() + cost > deadline:
                break
            self._wait_for_quiet(deadline - cost if attempt else deadline)
            run = measure(target, case, number, self.place, self.upstream.process.pid)
            if best is None or abs(run.foreign) < abs(best.foreign):
                best = run
            if run.clean or run.error:
                break
            _say(f"  others used {run.foreign:.0%} of a core")
        assert best is not None
        _say(_line(best))
        return best

    def _wait_for_quiet(self, deadline: float) -> None:
        """Let the work of others pass, as long as time can be spared and for a minute at most."""
        cores = {self.place.gateway_core, self.place.load_core}
        deadline = min(deadline, self.elapsed() + _LONGEST_WAIT_S)
        while self.elapsed() < deadline:
            before = processes.busy_s(sorted(cores))
            time.sleep(_SAMPLE_S)
            if processes.busy_s(sorted(cores)) - before <= FOREIGN_LIMIT * _SAMPLE_S:
                return

    def hold(self, streams: int) -> None:
        """Weigh idle streams, one target after the other."""
        for target in self.targets:
            if self.plan.budget_s - self.elapsed() < self.plan.hold_s / 2:
                self.outcome.notes.append(f"No time was left for the idle streams of {target.name}.")
                continue
            held = hold(target, streams, self.place)
            self.outcome.held[target.name] = held
            _say(f"{target.name}: {held.streams} idle streams, {held.gateway_kib:.1f} KiB each")


def _line(run: Run) -> str:
    if run.error:
        return f"round {run.round} {run.case:5} {run.target:14} failed: {run.error[:100]}"
    text = f"round {run.round} {run.case:5} {run.target:14} {run.gateway_us:8.1f} µs CPU  {run.per_second:8.0f}/s"
    times = f"  p50 {run.p50_us:.0f} µs p99 {run.p99_us:.0f} µs" if run.p50_us else ""
    return f"{text}  others {run.foreign:4.0%}{times}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _descriptors() -> int:
    """Raise the limit of open files as far as it goes; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def _cores(options: argparse.Namespace, outcome_notes: list[str]) -> tuple[int, int]:
    """Return (gateway core, load core)."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        outcome_notes.append("Only one core: gateway and load share it; requests/s and latencies say nothing.")
    gateway = options.gateway_core if options.gateway_core is not None else allowed[-1]
    return gateway, options.load_core if options.load_core is not None else allowed[0]


def _start_mock(place: Place, port: int) -> Target:
    command = [sys.executable, "-m", "benchmarks.mock_upstream", str(port)]
    mock = Target("mock", port, command)
    mock.process = processes.spawn(command, cores={place.load_core}, log=place.folder / "mock.log")
    deadline = time.monotonic() + 10
    while ask(mock) != "200":
        if time.monotonic() > deadline:
            raise Lacking("the mock upstream did not start")
        time.sleep(0.02)
    return mock


def _bench(options: argparse.Namespace, folder: Path) -> Outcome:
    """Run everything in `folder`.

    Raises:
        Lacking: the platform itself can't be measured.
    """
    notes: list[str] = []
    gateway_core, load_core = _cores(options, notes)
    port, descriptors = processes.free_port(), _descriptors()
    place = Place(gateway_core, load_core, folder, f"http://127.0.0.1:{port}", descriptors)
    with contextlib.ExitStack() as stack:
        mock = _start_mock(place, port)
        stack.callback(mock.stop)
        bench = Bench(_plan(options), place, mock)
        bench.outcome.notes = notes
        stack.callback(bench.stop)
        bench.bring_up(platform(place))
        for name in options.only:
            try:
                bench.bring_up(PEERS[name](place))
            except Lacking as error:
                bench.outcome.lacking.append(f"{name} is left out: {error}")
                _say(bench.outcome.lacking[-1])
        bench.run()
        streams = options.streams or min(_MOST_IDLE_STREAMS, (descriptors - 500) // 2)
        bench.hold(min(streams, 2000) if options.quick and not options.streams else streams)
        bench.outcome.seconds = bench.elapsed()
        return bench.outcome


def _write(outcome: Outcome) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(outcome.as_json(), indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(outcome))
    return path


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name and name != "none"]
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(PEERS)}, or none")
    return names


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description="Measure the platform beside nginx and peers.")
    parser.add_argument("--quick", action="store_true", help="one short round in at most 90 s, without litellm")
    parser.add_argument("--only", type=_names, help=f"beside the platform: {','.join(PEERS)} (default: all), or none")
    parser.add_argument("--rounds", type=int, default=0, help="default: 3, with --quick 1")
    parser.add_argument("--budget", type=float, default=340.0, help="seconds it may take (default: 340)")
    parser.add_argument(
        "--streams", type=int, default=0, help="idle streams (default: 9000, or what descriptors allow)"
    )
    parser.add_argument("--gateway-core", type=int, help="default: the last one allowed")
    parser.add_argument("--load-core", type=int, help="client, upstream and control; default: the first one allowed")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder with the logs")
    options = parser.parse_args(arguments)
    if options.only is None:
        options.only = [name for name in PEERS if not (options.quick and name == "litellm")]
    return options


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Run the benchmark; return 0, 1 if the platform could not be measured, 130 after an interruption."""
    options = _options(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="mooring-bench-"))
    try:
        outcome = _bench(options, folder)
    except Lacking as error:
        print(f"{NAME} can't be measured: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; everything started is stopped.", file=sys.stderr)
        return 130
    finally:
        if options.keep:
            _say(f"The logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    path = _write(outcome)
    print(markdown(outcome))
    _say(f"Everything measured is in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
