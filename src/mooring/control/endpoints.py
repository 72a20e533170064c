"""Rules of endpoints: what they may point to, and that their id stays."""

from __future__ import annotations

from datetime import UTC, datetime

from mooring.control.context import Actor, Context, require_administrator
from mooring.control.refusals import refuse_moderation, require_project
from mooring.core.endpoints import Endpoint
from mooring.core.errors import Unprocessable
from mooring.core.ids import new_endpoint_id
from mooring.core.pages import Query
from mooring.store import changes
from mooring.store import endpoints as store
from mooring.store.database import Transaction
from mooring.store.services import AnyService, find_service


async def prepare(endpoint: Endpoint, context: Context, actor: Actor) -> None:
    """Judge what needs no database."""
    require_administrator(actor, "create or change endpoints")
    refuse_moderation(endpoint.spec.moderation)


async def find(tx: Transaction, ref: str, project: str, actor: Actor) -> Endpoint | None:
    """Return the endpoint with this id, or of this name in the project, or None."""
    return await store.find_endpoint(tx, ref, project)


async def listing(tx: Transaction, query: Query, actor: Actor) -> list[Endpoint]:
    """Return one page of endpoints."""
    return await store.list_endpoints(tx, query)


async def create(tx: Transaction, endpoint: Endpoint, context: Context, actor: Actor) -> Endpoint:
    """Store a new endpoint. Its id tells for ever whether all its first services ran elsewhere."""
    await require_project(tx, endpoint.metadata.project)
    services = await _services(tx, endpoint)
    external = all(service.kind == "ExternalService" for service in services)
    endpoint_id = new_endpoint_id(datetime.now(UTC), external=external)
    made = await store.insert_endpoint(tx, endpoint.model_copy(update={"id": endpoint_id}))
    await changes.record(tx, "endpoint", [made.id])
    return made


async def update(
    tx: Transaction, before: Endpoint, wanted: Endpoint, context: Context, actor: Actor
) -> Endpoint | None:
    """Re-point, switch, limit or tag; None when nothing differs."""
    if (before.spec, before.metadata.tags) == (wanted.spec, wanted.metadata.tags):
        return None
    await _services(tx, wanted)
    changed = await store.update_endpoint(tx, wanted.model_copy(update={"id": before.id}))
    await changes.record(tx, "endpoint", [before.id])
    return changed


async def delete(tx: Transaction, endpoint: Endpoint, context: Context, actor: Actor) -> None:
    """Delete an endpoint. Keys confined to it keep its id, which is never given again."""
    require_administrator(actor, "delete endpoints")
    await store.delete_endpoint(tx, endpoint.id)
    await changes.record(tx, "endpoint", [endpoint.id])


async def _services(tx: Transaction, endpoint: Endpoint) -> list[AnyService]:
    project = endpoint.metadata.project
    found: list[AnyService] = []
    for index, target in enumerate(endpoint.spec.services):
        service = await find_service(tx, target.name, project)
        if service is None or (service.metadata.name, service.metadata.project) != (target.name, project):
            raise Unprocessable(
                f"There is no service '{target.name}' in the project '{project}'.",
                next_step="Deploy or register the service first; an endpoint names services by name.",
                param=f"spec.services.{index}.name",
            )
        found.append(service)
    return found
