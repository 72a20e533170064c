"""Printing: tables for people, JSON and YAML for programs. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from mooring.cli.kinds import Column
from mooring.cli.session import Format

PIPED_WIDTH = 10_000  # a pipe has no width: nothing is wrapped or cut there


# Columns that may take several lines, broken at spaces, and the characters they get at least; an id fits whole.
FLEXIBLE = {"REASON": 20, "MESSAGE": 24, "DESCRIPTION": 16, "SERVICES": 16, "ENDPOINTS": 24}
# Left out in this order where width is scarce.
SPARE = ("MODEL", "REQUEST", "ENDED", "SERVICE", "TYPE", "ACCESS", "SERVICES", "ID")


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
        say(f"Left out for want of width: {', '.join(missing)}. See all with -o json, or in a wider window.")
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
        if _width(titles, rows, shown) <= width:
            break
        shown = [index for index in shown if titles[index] != title]
    return shown


def _width(titles: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> int:
    needed = 0
    for index in shown:
        size = max(len(titles[index]), *(len(row[index]) for row in rows), 0)
        needed += min(size, FLEXIBLE.get(titles[index], size))
    return needed + 2 * (len(shown) - 1)


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    print(text, file=sys.stderr)


def age(moment: str, now_s: float | None = None) -> str:
    """Return how long ago an ISO 8601 moment was: `5 s`, `3 min`, `2 h`, `4 d`."""
    from datetime import datetime

    seconds = (time.time() if now_s is None else now_s) - datetime.fromisoformat(moment).timestamp()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


_STYLES = {
    **dict.fromkeys(("healthy", "Healthy", "Active", "ready", "complete"), "green"),
    **dict.fromkeys(("failed", "unhealthy", "Abnormal", "Expired", "error"), "red"),
    **dict.fromkeys(("pending", "starting", "downloading", "updating", "Scheduling", "aborted"), "yellow"),
}


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)
