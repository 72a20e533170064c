"""Rules of model services: what may be deployed, from where, with which arguments."""

from __future__ import annotations

from mooring.control.context import Actor, Context, require_administrator
from mooring.control.refusals import in_spec, refuse_moderation, require_project
from mooring.core.errors import Conflict, Invalid, Unprocessable
from mooring.core.ids import new_id
from mooring.core.models import ModelFormat
from mooring.core.pages import Query
from mooring.core.secrets import token_key
from mooring.core.services import (
    BuiltinModel,
    HubModel,
    LocalModel,
    ModelService,
    ModelServiceSpec,
    engine_for,
    guessed_engine,
    hubs_of,
    next_state,
    recipe_part,
    wanted_replicas,
)
from mooring.engines import load_engine
from mooring.settings import Settings
from mooring.sources.builtin import find_builtin
from mooring.sources.local import find_local, find_local_adapter
from mooring.store import changes
from mooring.store import services as store
from mooring.store.database import Transaction
from mooring.store.endpoints import endpoints_using
from mooring.store.secrets import find_secret
from mooring.store.services import AnyService

KIND = "ModelService"


async def prepare(service: ModelService, context: Context, actor: Actor) -> None:
    """Judge what needs no database: source, engine, arguments.

    Raises:
        Forbidden: the caller may not deploy.
        Unprocessable: the model can't be found, or the program of its engine.
        Invalid: the engine does not take these arguments.
    """
    require_administrator(actor, "deploy model services")
    spec = service.spec
    refuse_moderation(spec.moderation)
    found = _local_format(spec, context.settings)
    for adapter in spec.adapters:
        if isinstance(adapter.model, LocalModel):
            find_local_adapter(adapter.model.path, context.settings.model_roots)
    await _check_mirrors(spec)
    engine = engine_for(spec, found) if found is not None else guessed_engine(spec)
    with in_spec():
        if engine:
            load_engine(engine).check_args(list(spec.args), dict(spec.env))
        else:
            _check_for_any(spec)
    if engine == "vllm":
        _require_program(context.settings)


def _local_format(spec: ModelServiceSpec, settings: Settings) -> ModelFormat | None:
    """Return the format of a model that must lie here; None for one that comes from a hub."""
    if isinstance(spec.model, BuiltinModel):
        return find_builtin(spec.model.name).format
    if isinstance(spec.model, LocalModel):
        return find_local(spec.model.path, settings.model_roots).format
    return None


def _check_for_any(spec: ModelServiceSpec) -> None:
    """Refuse what neither engine takes. Which one it will be, the model's files decide."""
    likely, other = ("llamacpp", "vllm") if _names_gguf(spec) else ("vllm", "llamacpp")
    try:
        load_engine(other).check_args(list(spec.args), dict(spec.env))
    except Invalid:
        load_engine(likely).check_args(list(spec.args), dict(spec.env))


def _names_gguf(spec: ModelServiceSpec) -> bool:
    model = spec.model
    return isinstance(model, HubModel) and "gguf" in f"{model.name} {model.file or ''}".lower()


async def _check_mirrors(spec: ModelServiceSpec) -> None:
    """Refuse a mirror that is no base URL, or leads to an address where no hub may be, as with external services."""
    for hub in hubs_of(spec):
        if not hub.mirror:
            continue
        try:
            await load_engine("external").check_url(hub.mirror, administrator=True)
        except Invalid as error:
            advice = "Write the mirror like https://hf-mirror.com."
            raise Unprocessable(error.message, next_step=advice, param="spec.model.mirror") from None


def _require_program(settings: Settings) -> None:
    missing = load_engine("vllm").missing_program(settings.vllm_program)
    if missing:
        raise Unprocessable(missing, next_step="", param="spec.engine")


async def _require_secrets(tx: Transaction, service: ModelService) -> None:
    """Refuse when a secret that the spec names does not exist or does not say which of its values is the token."""
    for hub in hubs_of(service.spec):
        if not hub.token_secret:
            continue
        secret = await find_secret(tx, hub.token_secret, service.metadata.project)
        if secret is None or token_key(secret.status.keys) is None:
            told = "holds no value named 'token'" if secret is not None else "does not exist"
            raise Unprocessable(
                f"The secret '{hub.token_secret}' {told} in the project '{service.metadata.project}'.",
                next_step="Create it first: mooring secrets create NAME --from-literal token=…",
                param="spec.model.tokenSecret",
            )


async def find(tx: Transaction, ref: str, project: str, actor: Actor) -> AnyService | None:
    """Return the model service with this id, or of this name in the project, or None."""
    return await store.find_service(tx, ref, project, KIND)


async def listing(tx: Transaction, query: Query, actor: Actor) -> list[AnyService]:
    """Return one page of model services."""
    return await store.list_services(tx, query, KIND)


async def create(tx: Transaction, service: ModelService, context: Context, actor: Actor) -> AnyService:
    """Store a new model service; the loop then starts its replicas.

    Raises:
        Unprocessable: a secret that it names does not exist.
    """
    await _require_secrets(tx, service)
    state = "stopped" if wanted_replicas(service.spec) == 0 else "pending"
    return await insert(tx, service, state)


async def insert(tx: Transaction, service: AnyService, state: str) -> AnyService:
    """Store a new service of either kind in its first state.

    Raises:
        Unprocessable: its project does not exist.
        Conflict: its name is taken, over both kinds and after dots → dashes.
    """
    await require_project(tx, service.metadata.project)
    taken = await store.find_by_slug(tx, service.metadata.project, service.metadata.name)
    if taken is not None:
        raise Conflict(
            f"The name '{service.metadata.name}' is taken by the {taken.kind} '{taken.metadata.name}'"
            f" in the project '{taken.metadata.project}'.",
            next_step="Choose another name; dots and dashes count as the same.",
            param="metadata.name",
        )
    status = service.status.model_copy(update={"state": state, "reason": ""})
    made = await store.insert_service(tx, service.model_copy(update={"id": new_id("svc"), "status": status}))
    await changes.record(tx, "service", [made.id])
    return made


async def update(
    tx: Transaction, before: ModelService, wanted: ModelService, context: Context, actor: Actor
) -> AnyService | None:
    """Replace spec and tags; None when nothing differs."""
    if (before.spec, before.metadata.tags) == (wanted.spec, wanted.metadata.tags):
        return None
    await _require_secrets(tx, wanted)
    if recipe_part(before.spec) != recipe_part(wanted.spec) and _runs_well(before):
        await store.set_good(tx, before.id, before.status.spec_version, recipe_part(before.spec))
    state = before.status.state if before.spec == wanted.spec else next_state(wanted.spec, before.status.state)
    return await replace(tx, before, wanted, state)


def _runs_well(service: ModelService) -> bool:
    """Return whether this version is one to go back to."""
    status = service.status
    return status.state == "healthy" and status.current_replicas >= status.replicas > 0


async def replace(
    tx: Transaction, before: AnyService, wanted: AnyService, state: str, *, again: bool = False
) -> AnyService:
    """Write the new spec and state of a service of either kind."""
    reason = before.status.reason if state == before.status.state else ""
    status = before.status.model_copy(update={"state": state, "reason": reason})
    draft = wanted.model_copy(update={"id": before.id, "status": status})
    changed = await store.update_service(tx, draft, again=again)
    await changes.record(tx, "service", [before.id])
    return changed


async def set_stopped(tx: Transaction, service: ModelService, *, stopped: bool) -> AnyService:
    """Stop or start. A start also tries a failed service anew.

    Raises:
        Conflict: a start of a service with no replicas wanted.
    """
    if not stopped and service.spec.replicas == 0:
        raise Conflict(
            f"The service '{service.metadata.name}' is set to 0 replicas.", next_step="Set spec.replicas to 1 or more."
        )
    spec = service.spec.model_copy(update={"stopped": stopped})
    wanted = service.model_copy(update={"spec": spec})
    return await replace(tx, service, wanted, next_state(spec, service.status.state), again=not stopped)


async def delete(tx: Transaction, service: AnyService, context: Context, actor: Actor) -> None:
    """Delete a service of either kind; the loop ends its replicas.

    Raises:
        Conflict: endpoints use it; they are named.
    """
    require_administrator(actor, "delete services")
    name = service.metadata.name
    users = await endpoints_using(tx, service.metadata.project, name)
    if users:
        raise Conflict(
            f"The service '{name}' is used by the endpoint(s): {', '.join(users)}.",
            next_step="Re-point or delete these endpoints first.",
        )
    await store.delete_service(tx, service.id)
    await changes.record(tx, "service", [service.id])
