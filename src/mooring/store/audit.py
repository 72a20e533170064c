"""Who did what, when. Written in the transaction of the deed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mooring.store.database import Transaction
from mooring.store.tables import audit


async def add_entry(
    tx: Transaction,
    *,
    actor: str,
    action: str,
    kind: str,
    object_id: str,
    project: str = "",
    detail: dict[str, Any] | None = None,
) -> None:
    """Note a deed. `detail` must hold nothing secret."""
    await tx.execute(
        sa.insert(audit).values(
            at=datetime.now(UTC),
            actor=actor,
            action=action,
            kind=kind,
            object_id=object_id,
            project=project,
            detail=detail or {},
        )
    )
