"""Model services, and what can be seen of what runs for them: replicas and their engines' output."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import Field

from mooring.admin.bodies import read_json
from mooring.admin.collections import DryRun, IfMatch, ProjectOfName, Ref, answer, collection
from mooring.admin.events import list_service_events
from mooring.admin.instructions import add_instructions
from mooring.admin.parts import AdminParts, Caller, Parts
from mooring.control.events import get_any_service, may_read_logs
from mooring.control.external_services import runs_elsewhere
from mooring.core import objects
from mooring.core.external_services import ExternalService
from mooring.core.objects import DEFAULT_PROJECT, Noun
from mooring.core.services import MAX_REPLICAS, ModelService

MAX_LINES = 10_000


class Scale(Noun, frozen=True):
    """How many replicas are wanted."""

    replicas: Annotated[int, Field(strict=True, ge=0, le=MAX_REPLICAS)]


_SCALE_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": Scale.model_json_schema()}}}
}

router: APIRouter = collection("ModelService", "services")
router.add_api_route(
    "/{id}/events",
    list_service_events,
    methods=["GET"],
    summary="What happened to a service of either kind",
    operation_id="listServiceEvents",
)
add_instructions(router, "Service")


@router.post("/{id}/stop", summary="Stop: keep the configuration, run nothing", operation_id="stopModelService")
async def stop_service(
    caller: Caller,
    parts: Parts,
    ref: Ref,
    project: ProjectOfName = DEFAULT_PROJECT,
    if_match: IfMatch = "",
    dry_run: DryRun = False,
) -> JSONResponse:
    """Stop a model service."""
    return answer(await parts.orders.set_stopped(ref, project, caller, stopped=True, etag=if_match, dry_run=dry_run))


@router.post("/{id}/start", summary="Start, or try a failed one anew", operation_id="startModelService")
async def start_service(
    caller: Caller,
    parts: Parts,
    ref: Ref,
    project: ProjectOfName = DEFAULT_PROJECT,
    if_match: IfMatch = "",
    dry_run: DryRun = False,
) -> JSONResponse:
    """Start a model service."""
    return answer(await parts.orders.set_stopped(ref, project, caller, stopped=False, etag=if_match, dry_run=dry_run))


@router.post(
    "/{id}/scale",
    summary="Set the number of replicas; a stopped service stays stopped",
    operation_id="scaleModelService",
    openapi_extra=_SCALE_BODY,
)
async def scale_service(
    request: Request,
    caller: Caller,
    parts: Parts,
    ref: Ref,
    project: ProjectOfName = DEFAULT_PROJECT,
    if_match: IfMatch = "",
    dry_run: DryRun = False,
) -> JSONResponse:
    """Scale a model service."""
    count = objects.validate(Scale, await read_json(request)).replicas
    return answer(await parts.orders.scale(ref, project, caller, replicas=count, etag=if_match, dry_run=dry_run))


@router.get("/{id}/replicas", summary="The replicas of a service, and what they use", operation_id="listReplicas")
async def list_service_replicas(
    caller: Caller, parts: Parts, ref: Ref, project: ProjectOfName = DEFAULT_PROJECT
) -> dict[str, Any]:
    """Return all replicas."""
    service = await _deployed(parts, ref, project, "Look at its state instead: its replicas are not known here.")
    return {"items": await parts.running.replicas(service.id)}


@router.get(
    "/{id}/logs",
    summary="The last lines that the engines of a service wrote, and those that come",
    operation_id="readServiceLogs",
    response_class=PlainTextResponse,
)
async def read_service_logs(
    caller: Caller,
    parts: Parts,
    ref: Ref,
    project: ProjectOfName = DEFAULT_PROJECT,
    tail: Annotated[int, Query(ge=1, le=MAX_LINES, description="Lines per replica")] = 200,
    replica: Annotated[str, Query(description="Id of the only replica wanted", max_length=200)] = "",
    follow: Annotated[bool, Query(description="Go on with what comes, until the caller leaves")] = False,
) -> Response:
    """Return plain text."""
    may_read_logs(caller)
    service = await _deployed(parts, ref, project, "Read its logs where it runs.")
    if not follow:
        return PlainTextResponse(await parts.running.logs(service.id, tail, replica))
    await parts.running.replica_ids(service.id, replica)  # refuses what is not there before the answer begins
    return StreamingResponse(parts.running.follow(service.id, tail, replica), media_type="text/plain")


async def _deployed(parts: AdminParts, ref: str, project: str, advice: str) -> ModelService:
    service = await get_any_service(parts.orders.db, ref, project)
    if isinstance(service, ExternalService):
        raise runs_elsewhere(service, advice)
    return service
