"""External services: services that run elsewhere."""

from __future__ import annotations

from fastapi import APIRouter

from mooring.admin.collections import collection
from mooring.admin.events import list_service_events
from mooring.admin.instructions import add_instructions

router: APIRouter = collection("ExternalService", "external-services")
router.add_api_route(
    "/{id}/events",
    list_service_events,
    methods=["GET"],
    summary="What happened to an external service",
    operation_id="listExternalServiceEvents",
)
add_instructions(router, "ExternalService")
