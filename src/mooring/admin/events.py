"""What happened: to one service, or to all of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse

from mooring.admin.collections import Limit, ProjectOfName, Ref, problem_responses
from mooring.admin.parts import AdminParts, Caller, Parts
from mooring.control.events import at_least, follow_events, get_any_service, newest_events
from mooring.core.objects import DEFAULT_PROJECT
from mooring.store.events import EventFilter, Level

STREAM = "application/x-ndjson"

After = Annotated[int | None, Query(ge=0, le=(1 << 31) - 1, description="Only what came after the event of this id")]
Follow = Annotated[bool, Query(description="JSON lines, oldest first; new ones as they come, until the caller leaves")]

router = APIRouter(prefix="/manage/v1/events", tags=["Event"], responses=problem_responses())


@router.get("", summary="What happened to all services", operation_id="listEvents")
async def list_events(
    caller: Caller,
    parts: Parts,
    project: Annotated[str, Query(description="Only to services of this project")] = "",
    level: Annotated[Level, Query(description="Only of this level or a worse one")] = "info",
    limit: Limit = 100,
    after: After = None,
    follow: Follow = False,
) -> Response:
    """Return events, newest first, or a stream of them."""
    return await _answer(parts, EventFilter("", project, at_least(level)), limit, after, follow=follow)


async def list_service_events(
    caller: Caller,
    parts: Parts,
    ref: Ref,
    project: ProjectOfName = DEFAULT_PROJECT,
    level: Annotated[Level, Query(description="Only of this level or a worse one")] = "info",
    limit: Limit = 100,
    after: After = None,
    follow: Follow = False,
) -> Response:
    """Return events, newest first, or a stream of them that ends when the service is deleted."""
    service = await get_any_service(parts.orders.db, ref, project)
    return await _answer(parts, EventFilter(service.id, "", at_least(level)), limit, after, follow=follow)


async def _answer(parts: AdminParts, wanted: EventFilter, limit: int, after: int | None, *, follow: bool) -> Response:
    if follow:
        return StreamingResponse(follow_events(parts.orders.db, wanted, limit, after), media_type=STREAM)
    return JSONResponse({"items": await newest_events(parts.orders.db, wanted, limit, after or 0)})
