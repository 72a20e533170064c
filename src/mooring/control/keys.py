"""Rules of API keys: shown once, bounded in number, never stronger than their owner."""

from __future__ import annotations

from datetime import UTC, datetime

from mooring.control.context import Actor, Context, require_administrator
from mooring.control.refusals import require_project
from mooring.core.errors import Conflict, Invalid, Unprocessable
from mooring.core.ids import key_digest, new_access_key, new_api_key, new_id
from mooring.core.keys import ApiKey, expiry
from mooring.core.pages import Query
from mooring.store import changes
from mooring.store import keys as store
from mooring.store.database import Transaction
from mooring.store.endpoints import endpoint_ids


async def prepare(key: ApiKey, context: Context, actor: Actor) -> None:
    """Judge what needs no database.

    Raises:
        Forbidden: a member asks for a full-access key.
        Invalid: a full-access key is to be confined, which could not hold: it may change its own scope.
    """
    if key.spec.access == "full":
        require_administrator(actor, "create keys with full access")
        if key.spec.endpoints is not None:
            raise Invalid(
                "A key with full access can't be confined to endpoints: it may manage everything.",
                next_step="Leave out 'endpoints', or use access 'inference'.",
                param="spec.endpoints",
            )


async def find(tx: Transaction, ref: str, project: str, actor: Actor) -> ApiKey | None:
    """Return the key with this id, or the caller's of this label, or the only one of this label.

    Members see only their own.
    """
    key = await store.find_key(tx, ref, project, actor.user_id)
    if key is None and actor.administrator:
        return await store.find_key(tx, ref, project)
    return key if key is not None and _sees(actor, key) else None


async def listing(tx: Transaction, query: Query, actor: Actor) -> list[ApiKey]:
    """Return one page of keys; members see only their own."""
    return [key for key in await store.list_keys(tx, query) if _sees(actor, key)]


async def find_own(tx: Transaction, ref: str, project: str, actor: Actor) -> ApiKey | None:
    """Return the caller's own key of this label in the project, or None."""
    return await store.find_key(tx, ref, project, actor.user_id)


async def create(tx: Transaction, key: ApiKey, context: Context, actor: Actor) -> ApiKey:
    """Make a key for the caller. The answer's status holds its two forms, this once.

    Raises:
        Unprocessable: project or endpoint unknown, or already expired.
        Conflict: the account holds as many keys as it may.
    """
    await require_project(tx, key.metadata.project)
    now = datetime.now(UTC)
    ends = expiry(key.spec, now)
    if ends is not None and ends <= now:
        raise Unprocessable("The key would already be expired.", param="spec.expiresAt")
    most = context.settings.keys_per_account
    if await store.count_keys(tx, actor.user_id) >= most:
        raise Conflict(
            f"The account '{actor.name}' holds {most} API keys, as many as it may.",
            next_step="Delete a key that is not used any more.",
            code="key_limit_reached",
        )
    scope = await _scope(tx, key, held=[])
    plain, access_plain = new_api_key(), new_access_key()
    draft = key.model_copy(
        update={
            "id": new_id("key"),
            "spec": key.spec.model_copy(update={"endpoints": scope, "expires_at": ends, "ttl_days": None}),
            "status": key.status.model_copy(update={"owner": actor.user_id}),
        }
    )
    pepper = context.sealer.pepper
    digests = store.Digests(key_digest(plain, pepper), key_digest(access_plain, pepper))
    made = await store.insert_key(tx, draft, digests)
    await changes.record(tx, "key", [made.id])
    status = made.status.model_copy(update={"key": plain, "access_key": access_plain})
    return made.model_copy(update={"status": status})


async def update(tx: Transaction, before: ApiKey, wanted: ApiKey, context: Context, actor: Actor) -> ApiKey | None:
    """Change scope, limits, expiry, enabled or tags; None when nothing differs.

    Raises:
        Conflict: the description or the access would change.
    """
    for field in ("description", "access"):
        if getattr(before.spec, field) != getattr(wanted.spec, field):
            raise Conflict(
                f"The {field} of an API key can't be changed.",
                next_step="Delete the key and create it anew, or leave the field as it is.",
                param=f"spec.{field}",
                code="immutable_field",
            )
    scope = await _scope(tx, wanted, held=before.spec.endpoints or [])
    made_at = before.metadata.created_at or datetime.now(UTC)
    ends = expiry(wanted.spec, made_at)
    spec = wanted.spec.model_copy(update={"endpoints": scope, "expires_at": ends, "ttl_days": None})
    if (before.spec, before.metadata.tags) == (spec, wanted.metadata.tags):
        return None
    changed = await store.update_key(tx, wanted.model_copy(update={"id": before.id, "spec": spec}))
    await changes.record(tx, "key", [before.id])
    return changed


async def delete(tx: Transaction, key: ApiKey, context: Context, actor: Actor) -> None:
    """Delete a key; new requests with it are then refused."""
    await store.delete_key(tx, key.id)
    await changes.record(tx, "key", [key.id])


def _sees(actor: Actor, key: ApiKey) -> bool:
    return actor.administrator or key.status.owner == actor.user_id


async def _scope(tx: Transaction, key: ApiKey, held: list[str]) -> list[str] | None:
    """Return endpoint ids for the names or ids given; ids already `held` stay even when their endpoint is gone."""
    if key.spec.endpoints is None:
        return None
    ids = await endpoint_ids(tx, key.metadata.project)
    known = set(ids.values()) | set(held)
    scope: list[str] = []
    for index, given in enumerate(key.spec.endpoints):
        endpoint_id = given if given in known else ids.get(given)
        if endpoint_id is None:
            raise Unprocessable(
                f"There is no endpoint '{given}' in the project '{key.metadata.project}'.",
                next_step="Name endpoints of the key's own project, by name or id.",
                param=f"spec.endpoints.{index}",
            )
        scope.append(endpoint_id)
    return sorted(set(scope))
