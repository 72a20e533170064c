"""From runs to tables: medians over the clean runs, ratios within a round where both are clean."""

from __future__ import annotations

import os
import platform as machine
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.measure import Held, Run
from benchmarks.subject import NAME

DIRECT = "direct"


@dataclass
class Outcome:
    """Everything one `make bench` found out."""

    runs: list[Run] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    start_s: dict[str, float] = field(default_factory=dict)
    first_start_s: float = 0.0  # the platform, on an empty data directory
    pss_mib: dict[str, tuple[float, float]] = field(default_factory=dict)  # gateway, everything; idle
    lacking: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, target: str, case: str) -> list[Run]:
        """Return the runs to believe: the clean ones; if none is, the one that others disturbed least."""
        runs = [run for run in self.runs if (run.target, run.case) == (target, case) and not run.error]
        runs.sort(key=lambda run: abs(run.foreign))
        return [run for run in runs if run.clean] or runs[:1]

    def median(self, target: str, case: str, value: Callable[[Run], float]) -> float | None:
        """Return the median of `value`, None without runs."""
        values = [value(run) for run in self.of(target, case)]
        return statistics.median(values) if values else None

    def noisy(self, target: str, case: str) -> bool:
        """Return whether no clean run is behind the figures."""
        return not any(run.clean for run in self.of(target, case))

    def ratio(self, case: str, other: str, value: Callable[[Run], float]) -> float | None:
        """Return the median over rounds of (platform / other), both taken from the same round."""
        theirs = {run.round: run.gateway_us for run in self.of(other, case)}
        pairs = [(value(run), theirs[run.round]) for run in self.of(NAME, case) if theirs.get(run.round)]
        if not pairs:  # the clean runs of the two come from different rounds
            ours, other_us = self.median(NAME, case, value), self.median(other, case, lambda run: run.gateway_us)
            return ours / other_us if ours and other_us else None
        return statistics.median(mine / their for mine, their in pairs)

    @property
    def targets(self) -> list[str]:
        """Names in the order of measurement, without the direct way."""
        return [name for name in self.start_s if name != DIRECT]

    def as_json(self) -> dict:
        """Return everything as plain data."""
        return {"machine": describe_machine(), **asdict(self)}


def describe_machine() -> dict[str, str | int]:
    """Return what others need in order to compare."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": machine.release(),
        "python": machine.python_version(),
    }


def markdown(outcome: Outcome) -> str:
    """Return the tables."""
    about = describe_machine()
    lines = [
        f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}; "
        f"{outcome.seconds:.0f} s, {len(outcome.runs)} runs.",
        "",
        *_costs(outcome),
        "",
        *_ratios(outcome),
    ]
    if any("~" in line for line in lines):
        lines += [
            "",
            "`~`: other processes used more than 12 % of a core in every run; the least disturbed one is shown.",
        ]
    lines += ["", f"- {NAME}: empty data directory to `Mooring is ready` in {outcome.first_start_s:.2f} s."]
    lines += [*(f"- {note}" for note in [*outcome.lacking, *outcome.notes, *_failures(outcome)])]
    return "\n".join(lines).rstrip() + "\n"


_HEADINGS = (
    "gateway",
    "CPU µs / request",
    "requests/s",
    "CPU µs / chunk",
    "added p50 µs",
    "added p99 µs",
    "start s",
    "PSS idle MiB",
    "KiB / idle stream",
)


def _costs(outcome: Outcome) -> list[str]:
    rows = []
    for name in outcome.targets:
        ours = name == NAME
        rows.append([f"**{name}**, gateway worker" if ours else name, *_row(outcome, name, everything=False)])
        if ours:
            rows.append([f"**{name}**, everything", *_row(outcome, name, everything=True)])
    return _table(_HEADINGS, rows)


def _row(outcome: Outcome, name: str, *, everything: bool) -> list[str]:
    def cpu(case: str) -> str:
        value = outcome.median(name, case, _all_us if everything else _gateway_us)
        return _number(value, 1, outcome.noisy(name, case))

    which = 1 if everything else 0
    memory = _number(outcome.pss_mib.get(name, (0.0, 0.0))[which] or None, 0)
    held = outcome.held.get(name)
    stream = (held.all_kib if everything else held.gateway_kib) if held and held.streams else None
    rest = [memory, _number(stream, 1)]
    if everything:
        return [cpu("json"), "", cpu("sse"), "", "", "", *rest]
    rate = _number(outcome.median(name, "json", lambda run: run.per_second), 0)
    added = [_added(outcome, name, lambda run: run.p50_us), _added(outcome, name, lambda run: run.p99_us)]
    return [cpu("json"), rate, cpu("sse"), *added, _number(outcome.start_s.get(name), 2), *rest]


def _added(outcome: Outcome, name: str, value: Callable[[Run], float]) -> str:
    through, direct = outcome.median(name, "rate", value), outcome.median(DIRECT, "rate", value)
    if through is None or direct is None:
        return "–"
    if any(run.backlog for run in outcome.of(name, "rate")):
        return "cannot keep up"
    return _number(through - direct, 0, outcome.noisy(name, "rate"))


def _ratios(outcome: Outcome) -> list[str]:
    rows = []
    for other in outcome.targets:
        if other != NAME:
            cells = [_share(outcome.ratio(case, other, value)) for case in ("json", "sse") for value in _VALUES]
            rows.append([f"÷ {other}", *cells])
    headings = ("mooring", "request, worker", "request, everything", "chunk, worker", "chunk, everything")
    return _table(headings, rows) if rows else []


def _failures(outcome: Outcome) -> list[str]:
    found = [f"{run.target}, {run.case}, round {run.round}: {run.error[:200]}" for run in outcome.runs if run.error]
    held = [
        f"{one.target}, idle streams: {one.streams} of {one.asked} held in time. {one.error[:200]}".rstrip()
        for one in outcome.held.values()
        if one.streams < one.asked
    ]
    return found + held


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = "|" + "---|" + "---:|" * (len(headings) - 1)
    return ["| " + " | ".join(cells) + " |" if cells else line for cells in (headings, [], *rows)]


def _number(value: float | None, digits: int, noisy: bool = False) -> str:
    return "–" if value is None else f"{'~' if noisy else ''}{value:.{digits}f}"


def _share(value: float | None) -> str:
    return _number(value, 2 if value is None or value >= 0.1 else 3)


def _gateway_us(run: Run) -> float:
    return run.gateway_us


def _all_us(run: Run) -> float:
    return run.all_us


_VALUES = (_gateway_us, _all_us)
