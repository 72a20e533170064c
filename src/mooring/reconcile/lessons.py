"""What gateways learn of services that run elsewhere, kept with the service: for people and for every worker."""

from __future__ import annotations

from mooring.core.repairs import REPAIRS
from mooring.core.snapshot import Lesson
from mooring.store import changes
from mooring.store.database import Database
from mooring.store.services import add_repairs


async def note_lesson(db: Database, lesson: Lesson) -> bool:
    """Note what a service's answers needed; return whether that was news."""
    told = {name: REPAIRS[name] for name in lesson.repairs if name in REPAIRS}
    async with db.transaction() as tx:
        if not await add_repairs(tx, lesson.service, told):
            return False
        await changes.record(tx, "service", [lesson.service])
    return True
