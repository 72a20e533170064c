"""Secrets in the store: the names of their values in the open, each value sealed by the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from mooring.core.errors import NotFound
from mooring.core.objects import Metadata
from mooring.core.pages import Query
from mooring.core.secrets import Secret, SecretSpec, SecretStatus
from mooring.store import rows
from mooring.store.database import Transaction
from mooring.store.tables import secrets, services

Sealed = Mapping[str, bytes]
_decode = msgspec.msgpack.Decoder(dict[str, bytes]).decode


async def insert_secret(tx: Transaction, secret: Secret, sealed: Sealed) -> Secret:
    """Store a new secret; its id must be set."""
    values = {
        "id": secret.id,
        "project": secret.metadata.project,
        "name": secret.metadata.name,
        "type": secret.spec.type,
        "tags": secret.metadata.tags,
        "sealed": msgspec.msgpack.encode(sealed),
        "created_at": datetime.now(UTC),
    }
    await tx.execute(sa.insert(secrets).values(**values))
    return await get_secret(tx, secret.id)


async def update_secret(tx: Transaction, secret: Secret, sealed: Sealed | None) -> Secret:
    """Replace the tags, and the values when some are given."""
    values: dict[str, Any] = {"tags": secret.metadata.tags}
    if sealed is not None:
        values["sealed"] = msgspec.msgpack.encode(sealed)
    await tx.execute(sa.update(secrets).where(secrets.c.id == secret.id).values(**values))
    return await get_secret(tx, secret.id)


async def find_secret(tx: Transaction, ref: str, project: str) -> Secret | None:
    """Return the secret with this id, or of this name in the project, or None."""
    row = await rows.find_row(tx, secrets, ref, project)
    return None if row is None else _noun(row)


async def get_secret(tx: Transaction, ref: str, project: str = "") -> Secret:
    """Return the secret with this id, or of this name in the project.

    Raises:
        NotFound: there is none.
    """
    secret = await find_secret(tx, ref, project)
    if secret is None:
        raise NotFound(f"There is no secret '{ref}' in the project '{project}'.")
    return secret


async def list_secrets(tx: Transaction, query: Query) -> list[Secret]:
    """Return one page, ordered by (name, id)."""
    return [_noun(row) for row in await rows.fetch(tx, rows.filtered(secrets, query))]


async def delete_secret(tx: Transaction, secret_id: str) -> bool:
    """Delete it; return whether it existed."""
    return await rows.delete_row(tx, secrets, secret_id)


async def sealed_values(tx: Transaction, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Sealed]:
    """Return the sealed values of the secrets with these (project, name), those that exist."""
    wanted = list(set(names))
    if not wanted:
        return {}
    statement = sa.select(secrets).where(sa.tuple_(secrets.c.project, secrets.c.name).in_(wanted))
    return {(row.project, row.name): _decode(row.sealed) for row in await rows.fetch(tx, statement)}


async def services_using(tx: Transaction, project: str, name: str) -> list[tuple[str, str]]:
    """Return (id, name) of the services that name this secret: as upstream key, or for what they fetch from hubs."""
    statement = sa.select(services.c.id, services.c.name, services.c.spec).where(services.c.project == project)
    found = await rows.fetch(tx, statement.order_by(services.c.name))
    return [(row.id, row.name) for row in found if name in _named_in(row.spec)]


def _named_in(spec: dict[str, Any]) -> set[str]:
    """Return the names of the secrets in a stored spec. Read here: SQLite and PostgreSQL ask lists differently."""
    models = [spec.get("model", {}), *(adapter["model"] for adapter in spec.get("adapters", []))]
    return {name for name in (spec.get("apiKeySecret"), *(model.get("tokenSecret") for model in models)) if name}


def _noun(row: Any) -> Secret:
    return Secret(
        id=row.id,
        metadata=Metadata(name=row.name, project=row.project, tags=row.tags, created_at=row.created_at),
        spec=SecretSpec(type=row.type),
        status=SecretStatus(state="Active", keys=sorted(_decode(row.sealed))),
    )
