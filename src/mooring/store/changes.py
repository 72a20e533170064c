"""What changed, in order: the version counter and the list from which the feed makes its deltas."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from mooring.core.snapshot import Table
from mooring.store.database import Transaction
from mooring.store.tables import changes, meta

KEPT = 10_000  # versions a gateway worker may lag behind before it needs a full snapshot

_ADVANCE = sa.text(
    "UPDATE meta SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT) WHERE name = 'version' RETURNING value"
)


async def record(tx: Transaction, kind: Table, ids: Iterable[str]) -> int:
    """Note that these objects changed and return the version that says so.

    The update of the one counter row makes writers wait for each other, so versions become visible in order.
    """
    advanced = await tx.execute(_ADVANCE)
    version = int(advanced.scalar_one())
    rows = [{"version": version, "kind": kind, "object_id": changed} for changed in sorted(set(ids))]
    if rows:
        await tx.execute(sa.insert(changes), rows)
    return version


async def current(tx: Transaction) -> tuple[str, int]:
    """Return `(epoch, version)`: which database this is and how many changes it has seen."""
    rows = await tx.execute(sa.select(meta.c.name, meta.c.value).where(meta.c.name.in_(("epoch", "version"))))
    found = {row.name: row.value for row in rows}
    return found["epoch"], int(found["version"])


async def epoch(tx: Transaction) -> str:
    """Return the name of this database."""
    return (await current(tx))[0]


async def version(tx: Transaction) -> int:
    """Return the newest version."""
    return (await current(tx))[1]


async def since(tx: Transaction, base: int) -> list[tuple[Table, str]] | None:
    """Return what changed after version `base`, each object once; None when that is no longer known."""
    newest = await version(tx)
    if base < 0 or base > newest or base < newest - KEPT:
        return None
    if base == newest:
        return []
    found = await tx.execute(sa.select(changes.c.kind, changes.c.object_id).where(changes.c.version > base).distinct())
    return [(kind, changed) for kind, changed in found]


async def prune(tx: Transaction) -> int:
    """Forget all but the newest `KEPT` versions and return how many rows went."""
    newest = await version(tx)
    gone = await tx.execute(sa.delete(changes).where(changes.c.version <= newest - KEPT))
    return gone.rowcount
