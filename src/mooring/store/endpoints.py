"""Endpoints in the store. Their state is derived from the services behind them at every reading."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mooring.core.endpoints import Endpoint, EndpointSpec, EndpointStatus, TargetState, endpoint_state
from mooring.core.errors import NotFound
from mooring.core.objects import Metadata, to_wire
from mooring.core.pages import Query
from mooring.store import rows
from mooring.store.database import Transaction
from mooring.store.services import service_states
from mooring.store.tables import endpoints

States = dict[tuple[str, str], tuple[str, str, str]]


async def insert_endpoint(tx: Transaction, endpoint: Endpoint) -> Endpoint:
    """Store a new endpoint; its id must be set."""
    now = datetime.now(UTC)
    values = _values(endpoint) | {
        "id": endpoint.id,
        "project": endpoint.metadata.project,
        "name": endpoint.metadata.name,
        "spec_version": 1,
        "created_at": now,
        "updated_at": now,
    }
    await tx.execute(sa.insert(endpoints).values(**values))
    return await get_endpoint(tx, endpoint.id)


async def update_endpoint(tx: Transaction, endpoint: Endpoint) -> Endpoint:
    """Replace tags and spec; `spec_version` grows by one."""
    values = _values(endpoint) | {"updated_at": datetime.now(UTC), "spec_version": endpoints.c.spec_version + 1}
    await tx.execute(sa.update(endpoints).where(endpoints.c.id == endpoint.id).values(**values))
    return await get_endpoint(tx, endpoint.id)


async def find_endpoint(tx: Transaction, ref: str, project: str) -> Endpoint | None:
    """Return the endpoint with this id, or of this name in the project, or None."""
    row = await rows.find_row(tx, endpoints, ref, project)
    return None if row is None else (await _nouns(tx, [row]))[0]


async def get_endpoint(tx: Transaction, ref: str, project: str = "") -> Endpoint:
    """Return the endpoint with this id, or of this name in the project.

    Raises:
        NotFound: there is none.
    """
    endpoint = await find_endpoint(tx, ref, project)
    if endpoint is None:
        where = f" in the project '{project}'" if project else ""
        raise NotFound(f"There is no endpoint '{ref}'{where}.")
    return endpoint


async def list_endpoints(tx: Transaction, query: Query) -> list[Endpoint]:
    """Return one page, ordered by (name, id)."""
    return await _nouns(tx, await rows.fetch(tx, rows.filtered(endpoints, query)))


async def list_endpoints_by_id(tx: Transaction, ids: Sequence[str]) -> list[Endpoint]:
    """Return those that exist."""
    return await _nouns(tx, await rows.fetch(tx, sa.select(endpoints).where(endpoints.c.id.in_(ids))))


async def endpoint_ids(tx: Transaction, project: str) -> dict[str, str]:
    """Return name → id of the project's endpoints."""
    statement = sa.select(endpoints.c.name, endpoints.c.id).where(endpoints.c.project == project)
    return {row.name: row.id for row in await rows.fetch(tx, statement)}


async def endpoints_using(tx: Transaction, project: str, service: str) -> list[str]:
    """Return the names of the endpoints that name this service, whatever its weight."""
    statement = sa.select(endpoints.c.name, endpoints.c.spec).where(endpoints.c.project == project)
    found = await rows.fetch(tx, statement.order_by(endpoints.c.name))
    return [row.name for row in found if any(target["name"] == service for target in row.spec["services"])]


async def delete_endpoint(tx: Transaction, endpoint_id: str) -> bool:
    """Delete it; return whether it existed."""
    return await rows.delete_row(tx, endpoints, endpoint_id)


def _values(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "spec": to_wire(endpoint.spec),
        "tags": endpoint.metadata.tags,
        "enabled": endpoint.spec.enabled,
    }


async def _nouns(tx: Transaction, found: Sequence[Any]) -> list[Endpoint]:
    states = await service_states(tx, {row.project for row in found}) if found else {}
    return [_noun(row, states) for row in found]


def _noun(row: Any, states: States) -> Endpoint:
    spec = EndpointSpec.model_validate(row.spec)
    targets: list[TargetState] = []
    for target in spec.services:
        _, state, reason = states.get((row.project, target.name), ("", "gone", ""))
        targets.append(TargetState(target.name, target.weight, state, reason))
    state, reason = endpoint_state(enabled=row.enabled, targets=targets)
    status = EndpointStatus(state=state, reason=reason, spec_version=row.spec_version, updated_at=row.updated_at)
    metadata = Metadata(name=row.name, project=row.project, tags=row.tags, created_at=row.created_at)
    return Endpoint(id=row.id, metadata=metadata, spec=spec, status=status)
