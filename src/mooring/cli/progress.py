"""How far services are, told while a command waits: bars on a terminal, one line per phase elsewhere."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mooring.cli.client import Json
from mooring.cli.output import duration, size

_PHASES = {
    "waiting": "waiting for the download",
    "listing": "listing files",
    "downloading": "downloading",
    "verifying": "verifying",
    "loading": "loading",
}
_PLAIN = re.compile(
    r"^(\S+ (waits|is being looked up|is being verified|is being downloaded)|The engine loads the model)\.$"
)  # what the phase says already
_NUMBER = re.compile(r"\d+(\.\d+)?")
_NAME_WIDTH, _PHASE_WIDTH, _BAR_WIDTH = 18, 13, 12


@dataclass(frozen=True)
class Standing:
    """What is told of a service: its phase (or its state, where there is no finer word), and bytes of the download."""

    name: str
    state: str
    phase: str
    note: str  # why it is so, "" where the phase says it all
    done: int = 0
    total: int = 0  # 0 = not known
    files: int = 0
    speed: float = 0.0  # bytes per second
    ended: bool = False  # nothing more is to come

    @property
    def fraction(self) -> float:
        """How much of the download is there, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def is_download(self) -> bool:
        """Whether bytes are what is waited for."""
        return self.state == "downloading" and self.total > 0


def standing_of(item: Json) -> Standing:
    """Return what a service object says of its way to being ready."""
    status = item["status"]
    progress, reason = status.get("progress") or {}, status.get("reason") or ""
    state, phase = status["state"], str(progress.get("phase") or "")
    coming = state in ("pending", "downloading", "starting", "updating", "upgrading")
    note = "" if _PLAIN.match(reason) else reason
    if phase == "loading" and not note and coming:
        note = str(progress.get("message") or "")
    return Standing(
        item["metadata"]["name"],
        state,
        _PHASES.get(phase, state) if coming and phase else state,
        note,
        int(progress.get("doneBytes") or 0),
        int(progress.get("totalBytes") or 0),
        int(progress.get("totalFiles") or 0),
        float(progress.get("bytesPerSecond") or 0),
        state in ("stopped", "sleeping") or (state == "healthy" and _is_complete(status)),
    )


def _is_complete(status: Json) -> bool:
    return status.get("currentReplicas", 0) >= status.get("replicas", 0)


@dataclass
class Meter:
    """Keeps what is shown of one service from going back or above its end, whatever is reported."""

    done: int = 0
    total: int = 0
    fraction: float = 0.0

    def advance(self, standing: Standing) -> bool:
        """Take in a report; return whether bytes have arrived since the last one."""
        self.total = max(self.total, standing.total)
        done = max(self.done, min(standing.done, self.total) if self.total else standing.done)
        arrived, self.done = done > self.done, done
        if self.total:
            self.fraction = max(self.fraction, min(1.0, self.done / self.total))
        return arrived


class Display(Protocol):
    """Where the standing of services is shown."""

    def show(self, standing: Standing, meter: Meter) -> None:
        """Show how far a service is."""
        ...


@contextlib.contextmanager
def display() -> Iterator[Display]:
    """Yield what fits stderr: bars on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    with Bars() as bars:
        yield bars


@dataclass
class Lines:
    """One line per phase; numbers alone make no new line."""

    told: dict[str, str] = field(default_factory=dict)

    def show(self, standing: Standing, meter: Meter) -> None:
        """Write a line if the phase or its reason is another than before."""
        key = _NUMBER.sub("#", f"{standing.phase} {standing.note}")
        if self.told.get(standing.name) == key:
            return
        self.told[standing.name] = key
        print(line_of(standing), file=sys.stderr, flush=True)


def line_of(standing: Standing) -> str:
    """Return the line that tells where a service stands."""
    line = f"{standing.name}: {standing.phase}"
    if standing.is_download and standing.phase == "downloading":
        files = f"{standing.files} files, " if standing.files > 1 else ""
        line += f" {files}{size(standing.total)}"
    return line + (f" ({standing.note})" if standing.note else "")


class Bars:
    """One bar per service with bytes, speed and time left; reasons are lines above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._told: dict[str, str] = {}
        self._tasks: dict[str, Any] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.fields[name]}", markup=False),
            TextColumn("{task.fields[phase]}", markup=False),
            BarColumn(_BAR_WIDTH),
            TextColumn("{task.fields[amount]}", markup=False),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for task in self._tasks.values() if kind is not None else ():
            self._progress.update(task, visible=False)  # what failed is told in words; no bar stands half way
        self._progress.stop()

    def show(self, standing: Standing, meter: Meter) -> None:
        """Move the bar of a service, and write its reason above if that is another than before."""
        key = _NUMBER.sub("#", f"{standing.state} {standing.note}")
        if standing.note and self._told.get(standing.name) != key:
            self._progress.console.print(line_of(standing), markup=False, highlight=False)
        self._told[standing.name] = key
        if standing.name not in self._tasks:
            self._tasks[standing.name] = self._progress.add_task("", total=1.0, name="", phase="", amount="")
        shown = standing.is_download
        self._progress.update(
            self._tasks[standing.name],
            total=1.0 if shown or standing.ended else None,  # None: it moves to and fro
            completed=1.0 if standing.ended else meter.fraction,
            name=_cut(standing.name, _NAME_WIDTH),
            phase=_cut(standing.phase, _PHASE_WIDTH),
            amount=amount(standing, meter) if shown else "",
        )


def amount(standing: Standing, meter: Meter) -> str:
    """Return how much is there, how fast it comes and how long it still takes."""
    parts = [f"{int(meter.fraction * 100):3d}%", f"{size(meter.done)}/{size(meter.total)}"]
    if standing.speed > 0 and meter.done < meter.total:
        parts += [f"{size(int(standing.speed))}/s", f"{duration((meter.total - meter.done) / standing.speed)} left"]
    return " ".join(parts)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
