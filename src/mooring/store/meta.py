"""Single facts about this installation, beside `epoch` and `version` (see `store.changes`)."""

from __future__ import annotations

import sqlalchemy as sa

from mooring.store.database import Transaction
from mooring.store.tables import meta


async def find_fact(tx: Transaction, name: str) -> str | None:
    """Return the value noted under `name`, or None."""
    return (await tx.execute(sa.select(meta.c.value).where(meta.c.name == name))).scalar_one_or_none()


async def put_fact(tx: Transaction, name: str, value: str) -> None:
    """Note a fact in the place of what was noted under this name before."""
    changed = await tx.execute(sa.update(meta).where(meta.c.name == name).values(value=value))
    if not changed.rowcount:
        await note_fact(tx, name, value)


async def note_fact(tx: Transaction, name: str, value: str) -> None:
    """Note a fact that has not been noted yet."""
    await tx.execute(sa.insert(meta).values(name=name, value=value))
