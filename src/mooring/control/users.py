"""Rules of users. The last enabled administrator can't be lost."""

from __future__ import annotations

from mooring.control import admin_file
from mooring.control.context import Actor, Context, require_administrator
from mooring.control.passwords import hash_password
from mooring.core.errors import Conflict, Forbidden
from mooring.core.ids import new_id
from mooring.core.pages import Query
from mooring.core.users import User
from mooring.store import changes
from mooring.store import keys as keys_store
from mooring.store import users as store
from mooring.store.database import Transaction


async def prepare(user: User, context: Context, actor: Actor) -> None:
    """Judge what needs no database."""
    if not actor.administrator and user.metadata.name != actor.name:
        raise Forbidden("Only an administrator may create or change other users.")


async def find(tx: Transaction, ref: str, project: str, actor: Actor) -> User | None:
    """Return the user with this id or name, or None; members see only themselves."""
    user = await store.find_user(tx, ref)
    return user if user is not None and (actor.administrator or user.id == actor.user_id) else None


async def listing(tx: Transaction, query: Query, actor: Actor) -> list[User]:
    """Return one page of users; members see only themselves."""
    if actor.administrator:
        return await store.list_users(tx, query)
    return [] if query.after else [await store.get_user(tx, actor.user_id)]


async def create(tx: Transaction, user: User, context: Context, actor: Actor) -> User:
    """Store a new user, without a password when none is given."""
    require_administrator(actor, "create users")
    password_hash = await hash_password(user.spec.password) if user.spec.password else ""
    return await store.insert_user(tx, user.model_copy(update={"id": new_id("usr")}), password_hash)


async def update(tx: Transaction, before: User, wanted: User, context: Context, actor: Actor) -> User | None:
    """Replace role and enabled, and the password when one is given; None when nothing differs.

    Raises:
        Forbidden: a member would change more than the own password.
        Conflict: no enabled administrator would be left.
    """
    rights_differ = (before.spec.role, before.spec.enabled) != (wanted.spec.role, wanted.spec.enabled)
    if not rights_differ and wanted.spec.password is None:
        return None
    if rights_differ:
        require_administrator(actor, "change the rights of users")
        await _keep_one_administrator(tx, before, wanted)
    password_hash = await hash_password(wanted.spec.password) if wanted.spec.password else None
    changed = await store.update_user(tx, wanted.model_copy(update={"id": before.id}), password_hash)
    if password_hash is not None:
        admin_file.forget_password(context.settings.data_dir, before.metadata.name)
    if rights_differ:
        await changes.record(tx, "key", await store.key_ids_of(tx, before.id))
    return changed


async def delete(tx: Transaction, user: User, context: Context, actor: Actor) -> None:
    """Delete a user with all its keys.

    Raises:
        Conflict: no enabled administrator would be left.
    """
    require_administrator(actor, "delete users")
    await _keep_one_administrator(tx, user, None)
    keys = await store.key_ids_of(tx, user.id)
    for key_id in keys:
        await keys_store.delete_key(tx, key_id)
    await store.delete_user(tx, user.id)
    await changes.record(tx, "key", keys)


async def _keep_one_administrator(tx: Transaction, before: User, wanted: User | None) -> None:
    def counts(user: User | None) -> bool:
        return user is not None and user.spec.enabled and user.spec.role == "administrator"

    if counts(before) and not counts(wanted) and await store.count_administrators(tx) == 1:
        raise Conflict(
            f"'{before.metadata.name}' is the last enabled administrator.",
            next_step="Make another user administrator first.",
        )
