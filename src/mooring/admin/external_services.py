"""External services: services that run elsewhere."""

from __future__ import annotations

from fastapi import APIRouter

from mooring.admin.collections import collection
from mooring.admin.services import list_service_events

router: APIRouter = collection("ExternalService", "external-services")
router.add_api_route(
    "/{id}/events",
    list_service_events,
    methods=["GET"],
    summary="What happened to an external service",
    operation_id="listExternalServiceEvents",
)
