"""Leases: of several control processes on one database, only the holder lets its loops act."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from mooring.store.database import Transaction
from mooring.store.tables import leases


async def acquire(tx: Transaction, name: str, holder: str, now: datetime, ttl_s: float) -> bool:
    """Take or renew the lease `name` for `ttl_s` seconds; return whether `holder` has it now.

    A holder keeps its name over restarts, so a restarted process continues at once.
    """
    until = now + timedelta(seconds=ttl_s)
    renewed = await tx.execute(
        sa.update(leases)
        .where(leases.c.name == name, sa.or_(leases.c.holder == holder, leases.c.expires_at <= now))
        .values(holder=holder, expires_at=until)
    )
    if renewed.rowcount:
        return True
    known = await tx.execute(sa.select(leases.c.holder).where(leases.c.name == name))
    if known.first() is not None:
        return False
    await tx.execute(sa.insert(leases).values(name=name, holder=holder, expires_at=until))
    return True


async def release(tx: Transaction, name: str, holder: str) -> None:
    """Give the lease back, if it is ours."""
    await tx.execute(sa.delete(leases).where(leases.c.name == name, leases.c.holder == holder))
