"""What finished requests used, as the management API shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mooring.control.context import Actor, require_administrator
from mooring.core.errors import Invalid
from mooring.core.pages import DEFAULT_LIMIT, Page, decode_cursor, encode_cursor
from mooring.core.usage import UsageRecord
from mooring.store.database import Database
from mooring.store.endpoints import find_endpoint
from mooring.store.keys import find_key
from mooring.store.usage import By, UsageSum, list_requests, sums


@dataclass(frozen=True, slots=True)
class RequestsQuery:
    """Which requests. Empty = all. `endpoint` and `key` are ids, or names in `project`."""

    since: str = ""  # ISO 8601 with zone, or Unix seconds
    request_id: str = ""
    project: str = ""
    endpoint: str = ""
    key: str = ""
    service: str = ""
    cursor: str = ""
    limit: int = DEFAULT_LIMIT


async def page_requests(db: Database, query: RequestsQuery, actor: Actor) -> Page[dict[str, Any]]:
    """Return one page of finished requests, newest start first.

    Raises:
        Forbidden: the caller is no administrator.
        Invalid: `since` or `cursor` can't be read.
    """
    require_administrator(actor, "read the usage of requests")
    since = read_moment(query.since)
    after = decode_cursor(query.cursor, float, str) if query.cursor else None
    async with db.read() as tx:
        project = query.project or "default"
        endpoint = await find_endpoint(tx, query.endpoint, project) if query.endpoint else None
        key = await find_key(tx, query.key, project) if query.key else None
        found = await list_requests(
            tx,
            since=since,
            request_id=query.request_id,
            project=query.project,
            endpoint_id=endpoint.id if endpoint else query.endpoint,
            key_id=key.id if key else query.key,
            service_id=query.service,
            limit=query.limit + 1,
            after=(after[0], after[1]) if after else None,
        )
    shown = found[: query.limit]
    cursor = encode_cursor(float(shown[-1].started_at), shown[-1].request_id) if len(found) > query.limit else None
    return Page([_wire(record) for record in shown], cursor)


async def sum_usage(
    db: Database, *, by: By, since: str, until: str, project: str, actor: Actor
) -> list[dict[str, Any]]:
    """Return sums per endpoint, key, service or project of the requests that started in `since` ≤ start < `until`.

    Raises:
        Forbidden: the caller is no administrator.
        Invalid: a time can't be read.
    """
    require_administrator(actor, "read usage")
    start, end = read_moment(since), read_moment(until, "until") or float(2**53)
    async with db.read() as tx:
        found = await sums(tx, by=by, since=start, until=end, project=project)
    return [_wire_sum(total) for total in found]


def read_moment(text: str, param: str = "since") -> float:
    """Return Unix seconds of an ISO 8601 time with a zone or of Unix seconds; 0 for "".

    Raises:
        Invalid: it is neither.
    """
    if not text:
        return 0.0
    try:
        return float(text) if text[0].isdigit() and "-" not in text else _iso(text)
    except (ValueError, OverflowError):
        raise Invalid(
            f"{param}={text!r} is not a time.",
            next_step="Send ISO 8601 with a zone, such as 2026-01-31T08:00:00Z, or Unix seconds.",
            param=param,
        ) from None


def _iso(text: str) -> float:
    moment = datetime.fromisoformat(text.replace(" ", "+"))  # a bare '+' in a query string arrives as a space
    if moment.tzinfo is None:
        raise ValueError("no zone")
    return moment.timestamp()


def _told_moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _wire_sum(total: UsageSum) -> dict[str, Any]:
    return {
        "name": total.name,
        "requests": total.requests,
        "errors": total.errors,
        "promptTokens": total.prompt_tokens,
        "completionTokens": total.completion_tokens,
        "cachedTokens": total.cached_tokens,
        "reasoningTokens": total.reasoning_tokens,
    }


def _wire(record: UsageRecord) -> dict[str, Any]:
    return {
        "requestId": record.request_id,
        "endpointId": record.endpoint_id,
        "serviceId": record.service_id,
        "keyId": record.key_id,
        "project": record.project,
        "dialect": record.dialect,
        "status": record.status,
        "promptTokens": record.prompt_tokens,
        "completionTokens": record.completion_tokens,
        "cachedTokens": record.cached_tokens,
        "reasoningTokens": record.reasoning_tokens,
        "estimated": record.estimated,
        "ended": record.ended,
        "startedAt": _told_moment(record.started_at),
        "ttftMs": record.ttft_ms,
        "latencyMs": record.latency_ms,
    }
