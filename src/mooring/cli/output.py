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


def print_data(data: Any, output: Format) -> None:
    """Print JSON-ready data as JSON, or as YAML for `yaml` and `table` (one object reads best as YAML)."""
    if output is Format.json:
        print(json.dumps(data, ensure_ascii=False, indent=2))
        return
    import yaml

    print(yaml.safe_dump(data, allow_unicode=True, sort_keys=False).rstrip())


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; on a terminal long cells are wrapped, in a pipe they stay whole."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title in ("NAME", "LABEL", "ID", "STATE"))
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PIPED_WIDTH)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


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
