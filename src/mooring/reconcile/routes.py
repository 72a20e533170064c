"""From the store to the gateways' tables: the frames that bring a gateway worker from what it has to what is."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import get_args

from mooring.core.snapshot import Begin, Commit, Rows, Table, pack_frame
from mooring.store import changes
from mooring.store.database import Database, Transaction
from mooring.store.snapshot_rows import Unseal, load_rows

TABLES: tuple[Table, ...] = get_args(Table)


@dataclass(frozen=True, slots=True)
class Update:
    """Begin, Rows… and Commit, after which a worker stands at `(epoch, version)`."""

    epoch: str
    version: int
    frames: AsyncGenerator[bytes]


class Routes:
    """Reads snapshots and deltas.

    Args:
        pepper: key of the digests under which API keys are looked up; travels to the gateways.
        unseal: opens the sealed upstream keys.
    """

    def __init__(self, db: Database, *, pepper: bytes, unseal: Unseal) -> None:
        self._db = db
        self._pepper = pepper
        self._unseal = unseal

    async def current(self) -> tuple[str, int]:
        """Return `(epoch, version)` of the store."""
        async with self._db.read() as tx:
            return await changes.current(tx)

    @asynccontextmanager
    async def update(self, epoch: str, version: int) -> AsyncGenerator[Update]:
        """Give the update of a worker that stands at `(epoch, version)`; its frames are read while it is open.

        A delta if the changes since then are still known, else everything; no frames if the worker has all.
        """
        async with self._db.read() as tx:
            ours, newest = await changes.current(tx)
            changed = await changes.since(tx, version) if epoch == ours else None
            yield Update(ours, newest, self._frames(tx, ours, version, newest, changed))

    async def _frames(
        self, tx: Transaction, epoch: str, version: int, newest: int, changed: list[tuple[Table, str]] | None
    ) -> AsyncGenerator[bytes]:
        if changed is not None and version == newest:
            return
        full = changed is None
        yield pack_frame(Begin(epoch, -1 if full else version, newest, full, self._pepper))
        wanted: dict[Table, list[str] | None] = dict.fromkeys(TABLES) if changed is None else _by_table(changed)
        async for frame in self._rows(tx, wanted):
            yield frame
        yield pack_frame(Commit(newest))

    async def _rows(self, tx: Transaction, wanted: dict[Table, list[str] | None]) -> AsyncGenerator[bytes]:
        for table, ids in wanted.items():
            async for rows in load_rows(tx, table, ids, unseal=self._unseal):
                yield pack_frame(Rows(tuple(rows)))
                await asyncio.sleep(0)


def _by_table(changed: list[tuple[Table, str]]) -> dict[Table, list[str] | None]:
    found: dict[Table, list[str]] = defaultdict(list)
    for table, changed_id in changed:
        found[table].append(changed_id)
    return {table: sorted(ids) for table, ids in found.items()}
