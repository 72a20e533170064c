"""Users in the store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mooring.core.errors import NotFound
from mooring.core.pages import Query
from mooring.core.users import User, UserMetadata, UserSpec, user_status
from mooring.store import rows
from mooring.store.database import Transaction
from mooring.store.tables import api_keys, users


async def insert_user(tx: Transaction, user: User, password_hash: str) -> User:
    """Store a new user; the id must be set. An empty hash means: no password."""
    values = _values(user) | {
        "id": user.id,
        "name": user.metadata.name,
        "password_hash": password_hash,
        "created_at": datetime.now(UTC),
    }
    await tx.execute(sa.insert(users).values(**values))
    return await get_user(tx, user.id)


async def update_user(tx: Transaction, user: User, password_hash: str | None = None) -> User:
    """Replace role and enabled, and the password when a hash is given."""
    values = _values(user)
    if password_hash is not None:
        values["password_hash"] = password_hash
    await tx.execute(sa.update(users).where(users.c.id == user.id).values(**values))
    return await get_user(tx, user.id)


async def find_user(tx: Transaction, ref: str) -> User | None:
    """Return the user with this id or name, or None."""
    row = await rows.find_row(tx, users, ref, None)
    return None if row is None else _noun(row)


async def get_user(tx: Transaction, ref: str) -> User:
    """Return the user with this id or name.

    Raises:
        NotFound: there is none.
    """
    user = await find_user(tx, ref)
    if user is None:
        raise NotFound(f"There is no user '{ref}'.")
    return user


async def find_password(tx: Transaction, name: str) -> tuple[User, str] | None:
    """Return (user, password hash) of the user of this name, or None."""
    row = (await tx.execute(sa.select(users).where(users.c.name == name))).one_or_none()
    return None if row is None else (_noun(row), row.password_hash)


async def list_users(tx: Transaction, query: Query) -> list[User]:
    """Return one page, ordered by (name, id)."""
    return [_noun(row) for row in await rows.fetch(tx, rows.filtered(users, query))]


async def delete_user(tx: Transaction, user_id: str) -> bool:
    """Delete the user; return whether there was one. Its keys must be gone before."""
    return await rows.delete_row(tx, users, user_id)


async def count_administrators(tx: Transaction) -> int:
    """Return how many enabled administrators there are."""
    condition = (users.c.role == "administrator") & users.c.enabled
    return (await tx.execute(sa.select(sa.func.count()).select_from(users).where(condition))).scalar_one()


async def key_ids_of(tx: Transaction, user_id: str) -> list[str]:
    """Return the ids of the user's API keys."""
    return list((await tx.execute(sa.select(api_keys.c.id).where(api_keys.c.owner == user_id))).scalars())


def _values(user: User) -> dict[str, Any]:
    return {"role": user.spec.role, "enabled": user.spec.enabled}


def _noun(row: Any) -> User:
    return User(
        id=row.id,
        metadata=UserMetadata(name=row.name, created_at=row.created_at),
        spec=UserSpec(role=row.role, enabled=row.enabled),
        status=user_status(enabled=row.enabled),
    )
