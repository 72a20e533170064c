"""The lease that lets only one control process act on a database."""

from __future__ import annotations

import logging

from mooring.reconcile.loop import Clock, SystemClock
from mooring.store import leases
from mooring.store.database import Database

log = logging.getLogger(__name__)

TTL_S = 15.0


class Lease:
    """Held as long as it is asked for. `holder` must be the same after a restart of this control process."""

    def __init__(self, db: Database, name: str, holder: str, clock: Clock | None = None) -> None:
        self._db = db
        self._name = name
        self._holder = holder
        self._clock = clock or SystemClock()
        self._ask_again_at = 0.0
        self._held = False

    async def held(self) -> bool:
        """Return whether we may act now; renews in time, so that the store is asked only every few seconds.

        Raises:
            Unavailable: the database does not answer; then nobody may act.
        """
        if self._held and self._clock.monotonic() < self._ask_again_at:
            return True
        before, asked_at = self._held, self._clock.monotonic()
        self._held = False
        async with self._db.transaction(serial=False) as tx:
            got = await leases.acquire(tx, self._name, self._holder, self._clock.now(), TTL_S)
        self._ask_again_at = asked_at + TTL_S / 3
        self._held = got
        if got != before:
            log.info("lease %s: %s", self._name, "ours" if got else "held by another control process")
        return got

    async def release(self) -> None:
        """Give it back, so that another control process takes over at once."""
        self._held = False
        async with self._db.transaction(serial=False) as tx:
            await leases.release(tx, self._name, self._holder)
