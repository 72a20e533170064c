"""`mooring usage`: what was called, by whom, with how many tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from mooring.cli.client import Json
from mooring.cli.kinds import API, Column, names_of
from mooring.cli.output import print_objects
from mooring.cli.problems import UsageError
from mooring.cli.session import Format, Session, connected

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Grouping(StrEnum):
    """By what usage is summed."""

    endpoint = "endpoint"
    service = "service"
    key = "key"
    project = "project"


DIRECT = "(direct)"  # the service itself was called, through no endpoint
SUMS: tuple[Column, ...] = (
    ("NAME", lambda row: row.get("name") or DIRECT),
    ("REQUESTS", lambda row: row.get("requests", 0)),
    ("ERRORS", lambda row: row.get("errors", 0)),
    ("TOKENS IN", lambda row: row.get("promptTokens", 0)),
    ("TOKENS OUT", lambda row: row.get("completionTokens", 0)),
)
REQUESTS: tuple[Column, ...] = (
    ("STARTED (UTC)", lambda row: moment(row.get("startedAt"))),
    ("ENDPOINT", lambda row: row.get("endpointId") or DIRECT),
    ("SERVICE", lambda row: row.get("serviceId") or "–"),
    ("KEY", lambda row: row.get("keyId") or "–"),
    ("STATUS", lambda row: row["status"]),
    ("ENDED", lambda row: row["ended"]),
    ("IN", lambda row: row["promptTokens"]),
    ("OUT", lambda row: row["completionTokens"]),
    ("MS", lambda row: round(row["latencyMs"])),
    ("REQUEST", lambda row: row["requestId"]),
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
        print_objects(_named(session, rows, ("endpointId", "serviceId", "keyId")), REQUESTS, session.output)
    else:
        answer = session.client.get(f"{API}/usage", by=by.value, since=start, project=project)
        print_objects(_named(session, answer["items"], ("name",)), SUMS, session.output)


def moment(started: str | float | None) -> str:
    """Return when a request started, without year and zone: `01-31 08:00:00`; it is ISO 8601 or Unix seconds."""
    if started is None or started == "":
        return ""
    if isinstance(started, str):
        found = datetime.fromisoformat(started)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
    else:
        found = datetime.fromtimestamp(started, UTC)
    return found.astimezone(UTC).strftime("%m-%d %H:%M:%S")


def _named(session: Session, rows: list[Json], fields: tuple[str, ...]) -> list[Json]:
    """Return the rows with names where a table would show ids; what was deleted keeps its id."""
    if session.output is not Format.table or not rows:
        return rows
    names = names_of(session.client, "endpoint", "service", "external", "key")
    return [{**row, **{field: names.get(row.get(field, ""), row.get(field)) for field in fields}} for row in rows]


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
