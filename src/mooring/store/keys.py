"""API keys in the store: their digests, never the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mooring.core.errors import NotFound
from mooring.core.keys import ApiKey, ApiKeySpec, KeyMetadata, KeyStatus, key_state
from mooring.core.objects import Limits, to_wire
from mooring.core.pages import Query
from mooring.core.users import User
from mooring.store import rows
from mooring.store.database import Transaction
from mooring.store.tables import api_keys, users
from mooring.store.users import get_user


@dataclass(frozen=True, slots=True)
class Digests:
    """`core.ids.key_digest` of the two forms of one key."""

    key: bytes
    access_key: bytes


async def insert_key(tx: Transaction, key: ApiKey, digests: Digests) -> ApiKey:
    """Store a new key; id, `status.owner` (user id) and endpoint ids in the spec must be set."""
    values = _values(key) | {
        "id": key.id,
        "project": key.metadata.project,
        "label": key.metadata.name,
        "description": key.spec.description or "",
        "owner": key.status.owner,
        "access": key.spec.access,
        "digest": digests.key,
        "access_digest": digests.access_key,
        "created_at": datetime.now(UTC),
    }
    await tx.execute(sa.insert(api_keys).values(**values))
    return await get_key(tx, key.id)


async def update_key(tx: Transaction, key: ApiKey) -> ApiKey:
    """Replace what may change: endpoints, limits, expiry, enabled, tags."""
    await tx.execute(sa.update(api_keys).where(api_keys.c.id == key.id).values(**_values(key)))
    return await get_key(tx, key.id)


async def find_key(tx: Transaction, ref: str, project: str, owner: str = "") -> ApiKey | None:
    """Return the key with this id, or of this label in the project (of this owner), or None.

    A label that several users gave is found only with `owner`.
    """
    row = (await tx.execute(sa.select(api_keys).where(api_keys.c.id == ref))).one_or_none()
    if row is None:
        statement = sa.select(api_keys).where(api_keys.c.label == ref, api_keys.c.project == project)
        if owner:
            statement = statement.where(api_keys.c.owner == owner)
        found = await rows.fetch(tx, statement.limit(2))
        row = found[0] if len(found) == 1 else None
    return None if row is None else (await _nouns(tx, [row]))[0]


async def get_key(tx: Transaction, ref: str, project: str = "", owner: str = "") -> ApiKey:
    """Return the key with this id, or of this label in the project (of this owner).

    Raises:
        NotFound: there is none.
    """
    key = await find_key(tx, ref, project, owner)
    if key is None:
        raise NotFound(f"There is no API key '{ref}'" + (f" in the project '{project}'." if project else "."))
    return key


async def list_keys(tx: Transaction, query: Query) -> list[ApiKey]:
    """Return one page, ordered by (label, id)."""
    return await _nouns(tx, await rows.fetch(tx, rows.filtered(api_keys, query, name="label")))


async def count_keys(tx: Transaction, owner: str) -> int:
    """Return how many keys the user holds, in all projects."""
    statement = sa.select(sa.func.count()).select_from(api_keys).where(api_keys.c.owner == owner)
    return (await tx.execute(statement)).scalar_one()


async def find_by_digest(tx: Transaction, digest: bytes) -> tuple[ApiKey, User] | None:
    """Return (key, owner) of the key with this digest in either form, or None."""
    condition = (api_keys.c.digest == digest) | (api_keys.c.access_digest == digest)
    row = (await tx.execute(sa.select(api_keys).where(condition))).one_or_none()
    if row is None:
        return None
    return (await _nouns(tx, [row]))[0], await get_user(tx, row.owner)


async def delete_key(tx: Transaction, key_id: str) -> bool:
    """Delete it; return whether it existed."""
    return await rows.delete_row(tx, api_keys, key_id)


def _values(key: ApiKey) -> dict[str, Any]:
    return {
        "endpoints": key.spec.endpoints,
        "limits": to_wire(key.spec.limits),
        "expires_at": key.spec.expires_at,
        "enabled": key.spec.enabled,
        "tags": key.metadata.tags,
    }


async def _nouns(tx: Transaction, found: Sequence[Any]) -> list[ApiKey]:
    ids = {row.owner for row in found}
    owners = {row.id: row for row in await rows.fetch(tx, sa.select(users).where(users.c.id.in_(ids)))}
    now = datetime.now(UTC)
    return [_noun(row, owners.get(row.owner), now) for row in found]


def _noun(row: Any, owner: Any, now: datetime) -> ApiKey:
    owner_enabled = owner is not None and owner.enabled
    state, reason = key_state(enabled=row.enabled, owner_enabled=owner_enabled, expires_at=row.expires_at, now=now)
    return ApiKey(
        id=row.id,
        metadata=KeyMetadata(name=row.label, project=row.project, tags=row.tags, created_at=row.created_at),
        spec=ApiKeySpec(
            description=row.description or None,
            endpoints=row.endpoints,
            access=row.access,
            limits=Limits.model_validate(row.limits),
            expires_at=row.expires_at,
            enabled=row.enabled,
        ),
        status=KeyStatus(state=state, reason=reason, owner=row.owner, owner_name=owner.name if owner else ""),
    )
