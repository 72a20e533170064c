"""The gateways' table made from the store: packed rows, ready for the feed.

Keys are read without building nouns, because there may be a hundred thousand of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from msgspec import structs

from mooring.core import snapshot
from mooring.core.external_services import ExternalService, served_model
from mooring.core.objects import Moderation
from mooring.core.secrets import token_key
from mooring.core.services import CALLABLE_STATES, ModelService, hubs_of
from mooring.core.snapshot import ReplicaEntry, Row, Table
from mooring.store import rows
from mooring.store.database import Transaction
from mooring.store.endpoints import list_endpoints_by_id
from mooring.store.secrets import sealed_values
from mooring.store.services import AnyService, list_services_by_id, service_states
from mooring.store.tables import api_keys, endpoints, projects, replicas, services, users

Unseal = Callable[[bytes], bytes]


async def load_rows(
    tx: Transaction, kind: Table, ids: Collection[str] | None = None, *, unseal: Unseal
) -> AsyncGenerator[list[Row]]:
    """Yield the rows of one table, at most ROWS_PER_MESSAGE at a time; `ids` None = all.

    Ids that are gone come as rows without data. `unseal` opens what `control.sealing` sealed.
    """
    table = {"key": api_keys, "project": projects, "service": services, "endpoint": endpoints}[kind]
    async for chunk in _chunks(tx, table, ids):
        if kind == "key":
            made = await _key_rows(tx, chunk)
        elif kind == "project":
            made = await _project_rows(tx, chunk)
        elif kind == "service":
            made = await _service_rows(tx, chunk, unseal)
        else:
            made = await _endpoint_rows(tx, chunk)
        found = {row.id for row in made}
        yield made + [Row(kind, gone, None) for gone in chunk if gone not in found]


async def upstream_keys(tx: Transaction, found: Iterable[AnyService], unseal: Unseal) -> dict[str, str]:
    """Return service id → upstream key in plain text, of the external services that have one."""
    named = {
        service.id: (service.metadata.project, service.spec.api_key_secret)
        for service in found
        if isinstance(service, ExternalService) and service.spec.api_key_secret
    }
    sealed = await sealed_values(tx, named.values())
    keys: dict[str, str] = {}
    for service_id, place in named.items():
        values = sealed.get(place, {})
        token = token_key(list(values))
        if token is not None:
            keys[service_id] = unseal(values[token]).decode().strip()
    return keys


async def hub_tokens(tx: Transaction, found: Iterable[AnyService], unseal: Unseal) -> dict[tuple[str, str], str]:
    """Return (project, secret) → credential for a hub in plain text, of the secrets that deployed models name."""
    named = {
        (service.metadata.project, hub.token_secret)
        for service in found
        if isinstance(service, ModelService)
        for hub in hubs_of(service.spec)
        if hub.token_secret
    }
    sealed = await sealed_values(tx, named)
    tokens: dict[tuple[str, str], str] = {}
    for place, values in sealed.items():
        token = token_key(list(values))
        if token is not None:
            tokens[place] = unseal(values[token]).decode().strip()  # a file or a YAML block ends with a line break
    return tokens


async def _chunks(tx: Transaction, table: sa.Table, ids: Collection[str] | None) -> AsyncGenerator[list[str]]:
    size = snapshot.ROWS_PER_MESSAGE
    if ids is not None:
        wanted = list(ids)
        for start in range(0, len(wanted), size):
            yield wanted[start : start + size]
        return
    last = ""
    while True:
        statement = sa.select(table.c.id).where(table.c.id > last).order_by(table.c.id).limit(size)
        chunk = list((await tx.execute(statement)).scalars())
        if not chunk:
            return
        yield chunk
        last = chunk[-1]


async def _key_rows(tx: Transaction, ids: Sequence[str]) -> list[Row]:
    owner = sa.select(api_keys, users.c.role.label("owner_role"), users.c.enabled.label("owner_enabled")).outerjoin(
        users, users.c.id == api_keys.c.owner
    )
    return [_key_row(row) for row in await rows.fetch(tx, owner.where(api_keys.c.id.in_(ids)))]


def _key_row(row: Any) -> Row:
    entry = snapshot.KeyEntry(
        id=row.id,
        project=row.project,
        owner=row.owner,
        endpoints=None if row.endpoints is None else tuple(row.endpoints),
        expires_at=None if row.expires_at is None else row.expires_at.timestamp(),
        enabled=bool(row.enabled and row.owner_enabled),
        limits=_limits(row.limits),
        admin=row.access == "full" and row.owner_role == "administrator",
    )
    return Row("key", row.id, snapshot.encode_entry(entry), (row.digest, row.access_digest))


async def _project_rows(tx: Transaction, ids: Sequence[str]) -> list[Row]:
    found = await rows.fetch(tx, sa.select(projects).where(projects.c.id.in_(ids)))
    return [
        Row("project", row.id, snapshot.encode_entry(snapshot.ProjectEntry(row.id, row.name, _limits(row.limits))))
        for row in found
    ]


async def _service_rows(tx: Transaction, ids: Sequence[str], unseal: Unseal) -> list[Row]:
    found = await list_services_by_id(tx, ids)
    keys = await upstream_keys(tx, found, unseal)
    ready = sa.select(replicas).where(replicas.c.service_id.in_(ids), replicas.c.state == "ready")
    running: dict[str, list[Any]] = {}
    for row in await rows.fetch(tx, ready.order_by(replicas.c.id)):
        running.setdefault(row.service_id, []).append(row)
    made: list[Row] = []
    for service in found:
        if isinstance(service, ExternalService):
            entry = _external_entry(service, keys.get(service.id))
        else:
            entry = _deployed_entry(service, running.get(service.id, []))
        made.append(Row("service", service.id, snapshot.encode_entry(entry)))
    return made


def _external_entry(service: ExternalService, key: str | None) -> snapshot.ServiceEntry:
    noted: dict[str, Any] = service.status.detail.get("urls", {})
    up = service.status.state in CALLABLE_STATES
    places = tuple(
        ReplicaEntry(
            id=f"{service.id}-{index}",
            address=url.rstrip("/"),
            key=key,
            ready=up and noted.get(url, {}).get("state", "ready") == "ready",
        )
        for index, url in enumerate(service.spec.urls)
    )
    model = served_model(service.metadata.name, service.spec)
    entry = _entry(service, model, places, service.spec.context_length)
    return structs.replace(entry, repairs=tuple(service.status.detail.get("repairs", {})))


def _deployed_entry(service: ModelService, running: Sequence[Any]) -> snapshot.ServiceEntry:
    places = tuple(
        ReplicaEntry(row.id, row.address, row.engine_key or None, True, row.slots, tuple(row.adapters))
        for row in running
    )
    known = [row.context_length for row in running if row.context_length]
    # While a roll-out goes on, old and new replicas may have other adapters: what is offered is what the new have.
    newest = max(running, key=lambda row: row.spec_version, default=None)
    adapters = tuple(newest.adapters) if newest is not None else tuple(service.status.adapters)
    return _entry(service, service.status.served_model, places, min(known, default=0), adapters)


def _entry(
    service: AnyService,
    model: str,
    places: tuple[ReplicaEntry, ...],
    context_length: int,
    adapters: tuple[str, ...] = (),
) -> snapshot.ServiceEntry:
    created = service.metadata.created_at
    return snapshot.ServiceEntry(
        id=service.id,
        name=service.metadata.name,
        project=service.metadata.project,
        external=service.kind == "ExternalService",
        engine=service.status.engine,
        served_model=model,
        chip=service.spec.chip,
        types=tuple(service.status.types),
        state=service.status.state,
        reason=service.status.reason,
        enabled=service.spec.enabled,
        direct_access=service.spec.direct_access,
        replicas=places,
        context_length=context_length,
        limits=service.spec.limits.entry(),
        description=service.spec.description,
        created=int(created.timestamp()) if created else 0,
        adapters=adapters,
        moderation=_moderated(service.spec.moderation),
    )


async def _endpoint_rows(tx: Transaction, ids: Sequence[str]) -> list[Row]:
    found = await list_endpoints_by_id(tx, ids)
    states = await service_states(tx, {endpoint.metadata.project for endpoint in found})
    made: list[Row] = []
    for endpoint in found:
        project, spec, created = endpoint.metadata.project, endpoint.spec, endpoint.metadata.created_at
        targets = tuple(
            snapshot.TargetEntry(states[project, target.name][0], target.weight)
            for target in spec.services
            if (project, target.name) in states
        )
        entry = snapshot.EndpointEntry(
            id=endpoint.id,
            name=endpoint.metadata.name,
            project=project,
            enabled=spec.enabled,
            targets=targets,
            limits=spec.limits.entry(),
            reserve_tokens=spec.reserve_tokens,
            description=spec.description,
            created=int(created.timestamp()) if created else 0,
            moderation=_moderated(spec.moderation),
        )
        made.append(Row("endpoint", endpoint.id, snapshot.encode_entry(entry)))
    return made


def _moderated(chosen: Moderation | None) -> bool | None:
    return None if chosen is None else chosen.enabled


def _limits(stored: dict[str, int]) -> snapshot.Limits:
    return snapshot.Limits(stored.get("rpm", 0), stored.get("tpm", 0), stored.get("concurrency", 0))
