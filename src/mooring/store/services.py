"""Model services and external services in the store: one table, for a name is unique over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mooring.core import external_services as external_nouns
from mooring.core import services as nouns
from mooring.core.errors import NotFound
from mooring.core.external_services import ExternalService, ExternalServiceSpec
from mooring.core.objects import Metadata, slug, to_wire
from mooring.core.pages import Query
from mooring.core.services import ModelService, ModelServiceSpec, ServiceStatus
from mooring.store import rows
from mooring.store.database import Transaction
from mooring.store.tables import replicas, services

AnyService = ModelService | ExternalService


async def insert_service(tx: Transaction, service: AnyService) -> AnyService:
    """Store a new service; its id must be set and its `status.state` is where it starts."""
    now = datetime.now(UTC)
    values = _values(service) | {
        "id": service.id,
        "project": service.metadata.project,
        "name": service.metadata.name,
        "slug": slug(service.metadata.name),
        "kind": service.kind,
        "progress": {},
        "detail": {},
        "good": {},
        "types": [],
        "engine": "" if service.kind == "ModelService" else "external",
        "spec_version": 1,
        "created_at": now,
        "updated_at": now,
    }
    await tx.execute(sa.insert(services).values(**values))
    return await get_service(tx, service.id)


async def update_service(tx: Transaction, service: AnyService, *, again: bool = False) -> AnyService:
    """Replace tags, spec and state; `spec_version` grows by one when the spec differs or `again` is set.

    A failed service is tried anew when its `spec_version` grows: that is what `again` is for.
    """
    before = await get_service(tx, service.id)
    values = _values(service) | {"updated_at": datetime.now(UTC)}
    if again or before.spec != service.spec:
        values |= {"spec_version": services.c.spec_version + 1, "detail": {}}  # what was told of the version before
    await tx.execute(sa.update(services).where(services.c.id == service.id).values(**values))
    return await get_service(tx, service.id)


async def add_repairs(tx: Transaction, service_id: str, told: Mapping[str, str]) -> bool:
    """Add to what the answers of an external service need (name → sentence); return whether anything is new.

    A changed spec forgets all of it. The caller records the change.
    """
    chosen = sa.and_(services.c.id == service_id, services.c.kind == "ExternalService")
    row = (await tx.execute(sa.select(services.c.detail).where(chosen))).first()
    if row is None or not told.keys() - row.detail.get("repairs", {}).keys():
        return False
    repairs = {**row.detail.get("repairs", {}), **told}
    await tx.execute(sa.update(services).where(chosen).values(detail={**row.detail, "repairs": repairs}))
    return True


async def find_service(tx: Transaction, ref: str, project: str, kind: str = "") -> AnyService | None:
    """Return the service with this id, or of this name in the project (and of this kind, if given), or None."""
    row = await rows.find_row(tx, services, ref, project)
    if row is None or (kind and row.kind != kind):
        return None
    return (await _nouns(tx, [row]))[0]


async def get_service(tx: Transaction, ref: str, project: str = "", kind: str = "") -> AnyService:
    """Return the service with this id, or of this name in the project (and of this kind, if given).

    Raises:
        NotFound: there is none.
    """
    service = await find_service(tx, ref, project, kind)
    if service is None:
        word = "external service" if kind == "ExternalService" else "model service"
        where = f" in the project '{project}'" if project else ""
        raise NotFound(f"There is no {word} '{ref}'{where}.")
    return service


async def find_by_slug(tx: Transaction, project: str, name: str) -> AnyService | None:
    """Return the service whose name equals `name` after dots → dashes, or None."""
    condition = (services.c.project == project) & (services.c.slug == slug(name))
    row = (await tx.execute(sa.select(services).where(condition))).one_or_none()
    return None if row is None else (await _nouns(tx, [row]))[0]


async def list_services(tx: Transaction, query: Query, kind: str = "") -> list[AnyService]:
    """Return one page, ordered by (name, id), of one kind or both."""
    statement = rows.filtered(services, query)
    if kind:
        statement = statement.where(services.c.kind == kind)
    return await _nouns(tx, await rows.fetch(tx, statement))


async def list_all_services(tx: Transaction) -> list[AnyService]:
    """Return every service of the installation, for the loops."""
    return await _nouns(tx, await rows.fetch(tx, sa.select(services).order_by(services.c.id)))


async def list_services_by_id(tx: Transaction, ids: Sequence[str]) -> list[AnyService]:
    """Return those that exist."""
    return await _nouns(tx, await rows.fetch(tx, sa.select(services).where(services.c.id.in_(ids))))


async def good_recipes(tx: Transaction) -> dict[str, dict[str, Any]]:
    """Return service id → `{"version", "recipe"}` of the last version that ran well, of those that have one."""
    found = await rows.fetch(tx, sa.select(services.c.id, services.c.good).where(services.c.kind == "ModelService"))
    return {row.id: row.good for row in found if row.good}


async def set_good(tx: Transaction, service_id: str, version: int, recipe: dict[str, Any]) -> None:
    """Remember the version that runs well, to go back to."""
    good = {"version": version, "recipe": recipe}
    await tx.execute(sa.update(services).where(services.c.id == service_id).values(good=good))


async def roll_back(tx: Transaction, service: ModelService, spec: ModelServiceSpec, told: dict[str, Any]) -> bool:
    """Put `spec` in the place of the version looked at, unless it changed meanwhile; `told` goes into the detail."""
    same = (services.c.id == service.id) & (services.c.spec_version == service.status.spec_version)
    values = {
        "spec": to_wire(spec),
        "spec_version": services.c.spec_version + 1,
        "detail": {"rolledBack": told},
        "updated_at": datetime.now(UTC),
    }
    return (await tx.execute(sa.update(services).where(same).values(**values))).rowcount > 0


async def revive(tx: Transaction, ids: Sequence[str]) -> None:
    """Put those of the services that have failed back to `pending`: what they failed for has changed."""
    failed = services.c.id.in_(ids) & (services.c.state == "failed")
    await tx.execute(sa.update(services).where(failed).values(state="pending", reason=""))


async def service_states(tx: Transaction, projects: set[str]) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Return (project, name) → (id, state, reason) for the services of these projects."""
    columns = services.c.id, services.c.project, services.c.name, services.c.state, services.c.reason
    found = await rows.fetch(tx, sa.select(*columns).where(services.c.project.in_(projects)))
    return {(row.project, row.name): (row.id, row.state, row.reason) for row in found}


async def delete_service(tx: Transaction, service_id: str) -> bool:
    """Delete it; return whether it existed. Its replica rows stay until the loop has ended the processes."""
    return await rows.delete_row(tx, services, service_id)


def _values(service: AnyService) -> dict[str, Any]:
    return {
        "spec": to_wire(service.spec),
        "tags": service.metadata.tags,
        "enabled": service.spec.enabled,
        "state": service.status.state,
        "reason": service.status.reason,
    }


async def _nouns(tx: Transaction, found: Sequence[Any]) -> list[AnyService]:
    ids = [row.id for row in found if row.kind == "ModelService"]
    versions: dict[str, list[int]] = {}
    if ids:
        statement = sa.select(replicas.c.service_id, replicas.c.spec_version).where(
            replicas.c.service_id.in_(ids), replicas.c.state == "ready"
        )
        for row in await rows.fetch(tx, statement):
            versions.setdefault(row.service_id, []).append(row.spec_version)
    return [_noun(row, versions.get(row.id, [])) for row in found]


def _noun(row: Any, ready_versions: Sequence[int]) -> AnyService:
    """Return the service; `ready_versions` holds the spec version of each ready replica."""
    metadata = Metadata(name=row.name, project=row.project, tags=row.tags, created_at=row.created_at)
    status: dict[str, Any] = {
        "state": row.state,
        "reason": row.reason,
        "progress": row.progress,
        "detail": row.detail,
        "spec_version": row.spec_version,
        "updated_at": row.updated_at,
    }
    if row.kind == "ExternalService":
        spec = ExternalServiceSpec.model_validate(row.spec)
        status["served_model"] = external_nouns.served_model(row.name, spec)
        status |= {"engine": "external", "types": list(external_nouns.types_of(spec))}
        return ExternalService(id=row.id, metadata=metadata, spec=spec, status=ServiceStatus(**status))
    deployed = ModelServiceSpec.model_validate(row.spec)
    status |= {
        "replicas": nouns.wanted_replicas(deployed),
        "ready_replicas": len(ready_versions),
        "current_replicas": sum(version == row.spec_version for version in ready_versions),
    }
    status["served_model"] = nouns.served_model(row.name, deployed)
    adapters = [adapter.name for adapter in deployed.adapters]
    status |= {
        "engine": row.engine or nouns.guessed_engine(deployed),
        "types": row.types or list(nouns.types_of(deployed)),
        "adapters": adapters,
    }
    return ModelService(id=row.id, metadata=metadata, spec=deployed, status=ServiceStatus(**status))
