"""Printing: tables for people, JSON and YAML for programs. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from mooring.cli.kinds import Column
from mooring.cli.session import Format

PIPED_WIDTH = 10_000  # a pipe has no width: nothing is wrapped or cut there


# Columns that may take several lines, broken at spaces: the characters they get at least (an id fits whole), and those
# for whose sake others are left out.
FLEXIBLE = {
    "REASON": (20, 36),
    "MESSAGE": (24, 36),
    "DESCRIPTION": (16, 16),
    "SERVICES": (16, 16),
    "ENDPOINTS": (24, 24),
    "USED BY": (16, 16),
}
# Left out in this order where width is scarce.
SPARE = ("CACHE KEY", "FILES", "PID", "MODEL", "REQUEST", "ENDED", "SERVICE", "TYPE", "ACCESS", "ID")


def print_objects(items: Sequence[dict[str, Any]], columns: Sequence[Column], output: Format) -> None:
    """Print a list: a table with the columns that say something, or `{"items": […]}`."""
    if output is not Format.table:
        print_data({"items": list(items)}, output)
        return
    if not items:
        say("Nothing yet.")
        return
    values = [[_cell(value(item)) for _, value in columns] for item in items]
    used = [index for index in range(len(columns)) if any(row[index] for row in values)]
    print_table([columns[index][0] for index in used], [[row[index] for index in used] for row in values])


def print_object(item: dict[str, Any], columns: Sequence[Column], output: Format) -> None:
    """Print one object: a row of its table, or the object itself."""
    if output is Format.table:
        print_objects([item], columns, output)
    else:
        print_data(item, output)


def print_data(data: Any, output: Format) -> None:
    """Print JSON-ready data as JSON, or as YAML for `yaml` and `table` (one object reads best as YAML)."""
    if output is Format.json:
        print(json.dumps(data, ensure_ascii=False, indent=2))
        return
    import yaml

    print(yaml.safe_dump(data, allow_unicode=True, sort_keys=False).rstrip())


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns. On a terminal columns are left out or texts wrapped, ids never; a pipe gets all."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = Console().width if sys.stdout.isatty() else PIPED_WIDTH
    shown = fitting(titles, rows, width)
    if missing := [titles[index] for index in range(len(titles)) if index not in shown]:
        say(f"Left out for want of width: {', '.join(missing)}. See all with -o json.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index in shown:
        flexible = titles[index] in FLEXIBLE
        least = _width(titles, rows, [index])
        table.add_column(titles[index], overflow="fold", no_wrap=not flexible, min_width=least)
    for row in rows:
        table.add_row(*(Text(row[index], style=_STYLES.get(row[index], "")) for index in shown))
    console = Console(width=max(width, _width(titles, rows, shown)))
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def fitting(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the columns to show in `width` characters: all, or those that remain after leaving out SPARE ones."""
    shown = list(range(len(titles)))
    for title in SPARE:
        if _width(titles, rows, shown, wanted=True) <= width:
            break
        shown = [index for index in shown if titles[index] != title]
    return shown


def _width(titles: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int], *, wanted: bool = False) -> int:
    needed = 0
    for index in shown:
        size = max(len(titles[index]), *(len(row[index]) for row in rows), 0)
        needed += min(size, FLEXIBLE[titles[index]][wanted]) if titles[index] in FLEXIBLE else size
    return needed + 2 * (len(shown) - 1)


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    print(text, file=sys.stderr)


def paint(style: str, text: str, stream: TextIO) -> str:
    """Return the text dim, green, yellow or red where it is written to a terminal and NO_COLOR is not set."""
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"{_CODES[style]}{text}\x1b[0m"


def wrapped(text: str, stream: TextIO, columns: int = 0) -> str:
    """Return a text broken at spaces where a terminal would break words; lines after the first begin in a column."""
    if not stream.isatty():
        return text
    import shutil
    import textwrap

    width = max(20, shutil.get_terminal_size().columns - columns)
    lines = [
        line
        for paragraph in text.split("\n")
        for line in textwrap.wrap(paragraph, width, break_long_words=False, break_on_hyphens=False) or [""]
    ]
    return ("\n" + " " * columns).join(lines)


def age(moment: str, now_s: float | None = None) -> str:
    """Return how long ago an ISO 8601 moment was: `5 s`, `3 min`, `2 h`, `4 d`."""
    from datetime import datetime

    seconds = (time.time() if now_s is None else now_s) - datetime.fromisoformat(moment).timestamp()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def duration(seconds: float) -> str:
    """Return a span of time in its two largest units: `8 s`, `2 min 5 s`, `3 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Return a number of bytes as people read it: `512 B`, `4.1 MB`, `7.2 GB` (powers of 1000, as hubs tell it)."""
    for power, unit in enumerate(("B", "kB", "MB", "GB")):
        number = count / 1000**power
        if number < 999.95:
            return f"{number:.1f} {unit}" if power else f"{int(number)} B"
    return f"{count / 1000**4:.1f} TB"


_CODES = {"dim": "\x1b[2m", "green": "\x1b[32m", "yellow": "\x1b[33m", "red": "\x1b[31m"}
_STYLES = {
    **dict.fromkeys(("healthy", "Healthy", "Active", "ready", "complete"), "green"),
    **dict.fromkeys(("failed", "unhealthy", "Abnormal", "Expired", "error"), "red"),
    **dict.fromkeys(("pending", "starting", "downloading", "updating", "Scheduling", "aborted"), "yellow"),
}


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)
