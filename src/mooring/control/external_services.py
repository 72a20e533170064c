"""Rules of external services: where they may be, and the key they want."""

from __future__ import annotations

from mooring.control import services
from mooring.control.context import Actor, Context, require_administrator
from mooring.control.refusals import in_spec, refuse_moderation
from mooring.core.errors import NotFound, Unprocessable
from mooring.core.external_services import ExternalService
from mooring.core.pages import Query
from mooring.core.secrets import token_key
from mooring.engines import load_engine
from mooring.store import services as store
from mooring.store.database import Transaction
from mooring.store.secrets import find_secret
from mooring.store.services import AnyService

KIND = "ExternalService"


async def prepare(service: ExternalService, context: Context, actor: Actor) -> None:
    """Judge what needs no database: the URLs, with the addresses their names lead to.

    Raises:
        Forbidden: the caller may not register it, or nobody may.
        Invalid: a URL has the wrong form.
        Unprocessable: this version can't do it, or a URL is given twice.
    """
    require_administrator(actor, "register external services")
    refuse_moderation(service.spec.moderation)
    urls = service.spec.urls
    if len(set(urls)) < len(urls):
        raise Unprocessable("A URL is given twice.", param="spec.urls")
    check_url = load_engine("external").check_url
    with in_spec():
        for url in urls:
            await check_url(url, administrator=actor.administrator)


async def find(tx: Transaction, ref: str, project: str, actor: Actor) -> AnyService | None:
    """Return the external service with this id, or of this name in the project, or None."""
    return await store.find_service(tx, ref, project, KIND)


async def listing(tx: Transaction, query: Query, actor: Actor) -> list[AnyService]:
    """Return one page of external services."""
    return await store.list_services(tx, query, KIND)


async def create(tx: Transaction, service: ExternalService, context: Context, actor: Actor) -> AnyService:
    """Register a service; the loop then probes it."""
    await _require_secret(tx, service)
    return await services.insert(tx, service, "pending")


async def update(
    tx: Transaction, before: ExternalService, wanted: ExternalService, context: Context, actor: Actor
) -> AnyService | None:
    """Replace spec and tags; None when nothing differs. Another place or key is probed anew."""
    if (before.spec, before.metadata.tags) == (wanted.spec, wanted.metadata.tags):
        return None
    await _require_secret(tx, wanted)
    moved = before.spec.urls != wanted.spec.urls or before.spec.api_key_secret != wanted.spec.api_key_secret
    return await services.replace(tx, before, wanted, "pending" if moved else before.status.state)


delete = services.delete


def runs_elsewhere(service: AnyService, next_step: str) -> NotFound:
    """Return the refusal of what only works on deployed services."""
    return NotFound(f"'{service.metadata.name}' is an external service: it runs elsewhere.", next_step=next_step)


async def _require_secret(tx: Transaction, service: ExternalService) -> None:
    name, project = service.spec.api_key_secret, service.metadata.project
    if name is None:
        return
    secret = await find_secret(tx, name, project)
    if secret is None or (secret.metadata.name, secret.metadata.project) != (name, project):
        raise Unprocessable(
            f"There is no secret '{name}' in the project '{project}'.",
            next_step="Create the secret first, in the same project.",
            param="spec.apiKeySecret",
        )
    if token_key(secret.status.keys) is None:
        raise Unprocessable(
            f"The secret '{name}' must hold a value named 'token' or only one value.", param="spec.apiKeySecret"
        )
