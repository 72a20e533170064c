"""Rules of secrets: sealed at once, never shown again."""

from __future__ import annotations

from mooring.control.context import Actor, Context, require_administrator
from mooring.control.refusals import require_project
from mooring.core.errors import Conflict, Unprocessable
from mooring.core.ids import new_id
from mooring.core.pages import Query
from mooring.core.secrets import Secret, token_key
from mooring.store import changes
from mooring.store import secrets as store
from mooring.store import services as services_store
from mooring.store.database import Transaction


async def prepare(secret: Secret, context: Context, actor: Actor) -> None:
    """Judge what needs no database."""
    require_administrator(actor, "create or change secrets")


async def find(tx: Transaction, ref: str, project: str, actor: Actor) -> Secret | None:
    """Return the secret with this id, or of this name in the project, or None."""
    return await store.find_secret(tx, ref, project)


async def listing(tx: Transaction, query: Query, actor: Actor) -> list[Secret]:
    """Return one page of secrets, without their values."""
    return await store.list_secrets(tx, query)


async def create(tx: Transaction, secret: Secret, context: Context, actor: Actor) -> Secret:
    """Store a new secret.

    Raises:
        Unprocessable: it holds no value, or its project does not exist.
    """
    await require_project(tx, secret.metadata.project)
    if not secret.spec.string_data:
        raise Unprocessable(
            "A new secret needs at least one value.",
            next_step='Give spec.stringData, such as {"token": "…"}.',
            param="spec.stringData",
        )
    return await store.insert_secret(tx, secret.model_copy(update={"id": new_id("sec")}), _seal(secret, context))


async def update(tx: Transaction, before: Secret, wanted: Secret, context: Context, actor: Actor) -> Secret | None:
    """Replace the tags, and all values when some are given; None when nothing differs."""
    place = before.metadata.project, before.metadata.name
    given = wanted.spec.string_data
    values_differ = False
    if given is not None:
        sealed = (await store.sealed_values(tx, [place]))[place]
        held = {key: context.sealer.unseal(value).decode() for key, value in sealed.items()}
        values_differ = held != given
    if not values_differ and before.metadata.tags == wanted.metadata.tags:
        return None
    users = await store.services_using(tx, *place)
    if values_differ:
        _refuse_unusable(wanted, users)
        ids = [service_id for service_id, _ in users]
        await services_store.revive(tx, ids)  # one that was refused with the old value is not failed any more
        await changes.record(tx, "service", ids)
    sealed_now = _seal(wanted, context) if values_differ else None
    return await store.update_secret(tx, wanted.model_copy(update={"id": before.id}), sealed_now)


async def delete(tx: Transaction, secret: Secret, context: Context, actor: Actor) -> None:
    """Delete a secret that nothing uses.

    Raises:
        Conflict: services use it; they are named.
    """
    require_administrator(actor, "delete secrets")
    users = await store.services_using(tx, secret.metadata.project, secret.metadata.name)
    if users:
        names = ", ".join(name for _, name in users)
        raise Conflict(
            f"The secret '{secret.metadata.name}' is used by: {names}.",
            next_step="Name another secret in these services (apiKeySecret, tokenSecret), or delete them first.",
        )
    await store.delete_secret(tx, secret.id)


def _seal(secret: Secret, context: Context) -> dict[str, bytes]:
    values = secret.spec.string_data or {}
    return {key: context.sealer.seal(value.encode()) for key, value in values.items()}


def _refuse_unusable(wanted: Secret, users: list[tuple[str, str]]) -> None:
    if users and token_key(list(wanted.spec.string_data or {})) is None:
        raise Unprocessable(
            f"The service '{users[0][1]}' uses this secret, so it must hold a value named 'token' or only one value.",
            param="spec.stringData",
        )
