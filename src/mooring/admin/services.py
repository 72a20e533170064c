"""Model services, and what can be seen of any service: its events and its engines' output."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, PlainTextResponse

from mooring.admin.collections import Limit, ProjectOfName, Ref, answer, collection
from mooring.admin.parts import Caller, Parts
from mooring.control.events import get_any_service, may_read_logs, newest_events
from mooring.control.external_services import runs_elsewhere
from mooring.core.external_services import ExternalService
from mooring.core.objects import DEFAULT_PROJECT, to_wire

MAX_LINES = 10_000

router: APIRouter = collection("ModelService", "services")


@router.post("/{id}/stop", summary="Stop: keep the configuration, run nothing", operation_id="stopModelService")
async def stop_service(
    caller: Caller, parts: Parts, ref: Ref, project: ProjectOfName = DEFAULT_PROJECT
) -> JSONResponse:
    """Stop a model service."""
    outcome = await parts.orders.set_stopped(ref, project, caller, stopped=True)
    return answer(outcome, 200, to_wire(outcome.noun))


@router.post("/{id}/start", summary="Start, or try a failed one anew", operation_id="startModelService")
async def start_service(
    caller: Caller, parts: Parts, ref: Ref, project: ProjectOfName = DEFAULT_PROJECT
) -> JSONResponse:
    """Start a model service."""
    outcome = await parts.orders.set_stopped(ref, project, caller, stopped=False)
    return answer(outcome, 200, to_wire(outcome.noun))


@router.get("/{id}/events", summary="What happened to a service of either kind", operation_id="listServiceEvents")
async def list_service_events(
    caller: Caller, parts: Parts, ref: Ref, project: ProjectOfName = DEFAULT_PROJECT, limit: Limit = 100
) -> dict[str, Any]:
    """Return events, newest first."""
    service = await get_any_service(parts.orders.db, ref, project)
    return {"items": await newest_events(parts.orders.db, service, limit)}


@router.get(
    "/{id}/logs",
    summary="The last lines that the engines of a service wrote",
    operation_id="readServiceLogs",
    response_class=PlainTextResponse,
)
async def read_service_logs(
    caller: Caller,
    parts: Parts,
    ref: Ref,
    project: ProjectOfName = DEFAULT_PROJECT,
    tail: Annotated[int, Query(ge=1, le=MAX_LINES, description="lines per replica")] = 200,
) -> PlainTextResponse:
    """Return plain text."""
    may_read_logs(caller)
    service = await get_any_service(parts.orders.db, ref, project)
    if isinstance(service, ExternalService):
        raise runs_elsewhere(service, "Read its logs where it runs.")
    return PlainTextResponse(await parts.read_logs(service.id, tail))
