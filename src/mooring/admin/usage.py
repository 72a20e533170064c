"""Usage: one record per finished request, and sums."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from mooring.admin.collections import Limit, problem_responses
from mooring.admin.parts import Caller, Parts
from mooring.control.usage import RequestsQuery, page_requests, sum_usage
from mooring.core.pages import DEFAULT_LIMIT

router = APIRouter(prefix="/manage/v1/usage", tags=["Usage"], responses=problem_responses())

Since = Annotated[str, Query(description="ISO 8601 with a zone, or Unix seconds")]


@router.get("/requests", summary="Finished requests, newest start first", operation_id="listRequests")
async def list_requests(
    caller: Caller,
    parts: Parts,
    since: Since = "",
    request_id: Annotated[str, Query(alias="requestId")] = "",
    project: str = "",
    endpoint: Annotated[str, Query(description="id, or name in the project")] = "",
    key: Annotated[str, Query(description="id, or label in the project")] = "",
    service: Annotated[str, Query(description="id")] = "",
    cursor: str = "",
    limit: Limit = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """Return one page."""
    query = RequestsQuery(since, request_id, project, endpoint, key, service, cursor, limit)
    page = await page_requests(parts.orders.db, query, caller)
    return {"items": page.items, "nextCursor": page.cursor}


@router.get("", summary="Sums of finished requests", operation_id="sumUsage")
async def sum_requests(
    caller: Caller,
    parts: Parts,
    by: Literal["project", "endpoint", "key", "service"] = "endpoint",
    since: Since = "",
    until: Since = "",
    project: str = "",
) -> dict[str, Any]:
    """Return one sum per group."""
    items = await sum_usage(parts.orders.db, by=by, since=since, until=until, project=project, actor=caller)
    return {"items": items}
