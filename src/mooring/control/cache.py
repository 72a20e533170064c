"""The models from hubs on this machine: which services use them, and which may go."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from mooring.control.context import Actor, require_administrator
from mooring.core.errors import Unavailable
from mooring.core.models import CacheEntry
from mooring.core.services import ModelService, orders_of, with_recipe
from mooring.sources.cache import ModelCache
from mooring.store import audit
from mooring.store.database import Database
from mooring.store.services import good_recipes, list_all_services

Users = dict[str, list[ModelService]]


async def list_cache(db: Database, cache: ModelCache, actor: Actor) -> dict[str, Any]:
    """Return what is in the cache with the services that use it, and the sum of the bytes.

    Raises:
        Forbidden: the caller is no administrator.
    """
    require_administrator(actor, "see the fetched models")
    users = await _users(db)
    entries = await cache.entries()
    items = [_wire(entry, users.get(entry.key, [])) for entry in entries]
    return {"items": items, "bytes": sum(entry.bytes for entry in entries)}


async def prune_cache(
    db: Database, cache: ModelCache, actor: Actor, *, older_than_s: float, dry_run: bool
) -> dict[str, Any]:
    """Remove the models that no service uses, neither as it is nor to go back to; return their keys and the room.

    Raises:
        Forbidden: the caller is no administrator.
        Unavailable: the disk refuses.
    """
    require_administrator(actor, "remove fetched models")
    keep = set(await _users(db))
    try:
        pruned = await cache.prune(keep, older_than_s=older_than_s, dry_run=dry_run)
    except OSError as error:
        raise Unavailable(
            f"{error.filename or 'The model cache'} can't be removed: {error.strerror}.",
            next_step="Look at the permissions of the model cache, then repeat; what went is gone.",
        ) from error
    if pruned.keys and not dry_run:
        async with db.transaction(serial=False) as tx:
            detail = {"keys": list(pruned.keys), "freedBytes": pruned.freed_bytes}
            await audit.add_entry(tx, actor=actor.told, action="prune", kind="Cache", object_id="cache", detail=detail)
    return {"keys": list(pruned.keys), "freedBytes": pruned.freed_bytes}


async def _users(db: Database) -> Users:
    """Return key of an order → the services that want it now, or would after a roll-back."""
    async with db.read() as tx:
        found = [service for service in await list_all_services(tx) if isinstance(service, ModelService)]
        good = await good_recipes(tx)
    users: Users = defaultdict(list)
    for service in found:
        specs = [service.spec]
        if service.id in good:
            specs.append(with_recipe(service.spec, good[service.id]["recipe"]))
        for key in {order.key for spec in specs for _, order in orders_of(spec, service.metadata.project)}:
            users[key].append(service)
    return users


def _wire(entry: CacheEntry, users: list[ModelService]) -> dict[str, Any]:
    order = entry.order
    fetched = datetime.fromtimestamp(entry.fetched_at, UTC) if entry.fetched_at else None
    return {
        "key": entry.key,
        "source": order.source,
        "name": order.name,
        "revision": entry.revision or order.revision,
        "file": order.file,
        "mirror": order.mirror,
        "state": entry.state,
        "bytes": entry.bytes,
        "files": entry.files,
        "fetchedAt": fetched.isoformat(timespec="seconds").replace("+00:00", "Z") if fetched else None,
        "usedBy": [
            {"id": user.id, "name": user.metadata.name, "project": user.metadata.project}
            for user in sorted(users, key=lambda user: (user.metadata.project, user.metadata.name))
        ],
    }
