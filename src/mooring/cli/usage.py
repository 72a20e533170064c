"""`mooring usage`: what was called, by whom, with how many tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from mooring.cli.kinds import API, Column
from mooring.cli.output import print_objects
from mooring.cli.problems import UsageError
from mooring.cli.session import Session, connected

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Grouping(StrEnum):
    """By what usage is summed."""

    endpoint = "endpoint"
    service = "service"
    key = "key"
    project = "project"


SUMS: tuple[Column, ...] = (
    ("NAME", lambda row: row.get("name") or row.get("id") or "–"),
    ("REQUESTS", lambda row: row.get("requests", 0)),
    ("ERRORS", lambda row: row.get("errors", 0)),
    ("TOKENS IN", lambda row: row.get("promptTokens", 0)),
    ("TOKENS OUT", lambda row: row.get("completionTokens", 0)),
)
REQUESTS: tuple[Column, ...] = (
    ("REQUEST", lambda row: row["requestId"]),
    ("ENDPOINT", lambda row: row.get("endpointId") or row.get("serviceId") or "–"),
    ("STATUS", lambda row: row["status"]),
    ("ENDED", lambda row: row["ended"]),
    ("IN", lambda row: row["promptTokens"]),
    ("OUT", lambda row: row["completionTokens"]),
    ("MS", lambda row: round(row["latencyMs"])),
)


@connected
def usage(
    session: Session,
    by: Annotated[Grouping, typer.Option(help="What to sum by.")] = Grouping.endpoint,
    since: Annotated[str, typer.Option(help="How far back: 30m, 24h, 7d, or a date and time (ISO 8601).")] = "24h",
    requests: Annotated[bool, typer.Option("--requests", help="List single requests, newest first.")] = False,
    request_id: Annotated[str, typer.Option(help="Only this request (its X-Request-Id).")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many requests at most.")] = 50,
    project: Annotated[str, typer.Option("--project", "-p", help="Only of this project.")] = "",
) -> None:
    """Show requests and tokens.

    Example: [bold]mooring usage --by key --since 7d[/bold]
    """
    start = parse_since(since, datetime.now(UTC)).isoformat()
    if requests or request_id:
        query = {"since": "" if request_id else start, "requestId": request_id, "project": project}
        rows = session.client.items(f"{API}/usage/requests", most=limit, **query)
        print_objects(rows, REQUESTS, session.output)
    else:
        answer = session.client.get(f"{API}/usage", by=by.value, since=start, project=project)
        print_objects(answer["items"], SUMS, session.output)


def parse_since(text: str, now: datetime) -> datetime:
    """Return the moment that `24h` or an ISO 8601 text means.

    Raises:
        UsageError: it is neither.
    """
    if text[-1:] in UNITS and text[:-1].isdigit():
        return now - timedelta(seconds=int(text[:-1]) * UNITS[text[-1]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since {text}: not a time.", "Write 30m, 24h, 7d or 2026-01-31T08:00.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
