"""Rules of model services: what may be deployed, from where, with which arguments."""

from __future__ import annotations

from pathlib import Path

import mooring
from mooring.control.context import Actor, Context, require_administrator
from mooring.control.refusals import in_spec, refuse_moderation, require_project
from mooring.core.errors import Conflict, Unprocessable
from mooring.core.ids import new_id
from mooring.core.pages import Query
from mooring.core.services import (
    BuiltinModel,
    LocalModel,
    ModelService,
    ModelServiceSpec,
    engine_of,
    next_state,
    wanted_replicas,
)
from mooring.engines import load_engine
from mooring.settings import Settings
from mooring.store import changes
from mooring.store import services as store
from mooring.store.database import Transaction
from mooring.store.endpoints import endpoints_using
from mooring.store.services import AnyService

KIND = "ModelService"
BUILTIN_MODELS = ("mooring-demo",)


async def prepare(service: ModelService, context: Context, actor: Actor) -> None:
    """Judge what needs no database: source, engine, arguments.

    Raises:
        Forbidden: the caller may not deploy.
        Unprocessable: this version can't do it, or the model can't be found.
        Invalid: the engine does not take these arguments.
    """
    require_administrator(actor, "deploy model services")
    spec = service.spec
    refuse_moderation(spec.moderation)
    if spec.engine == "vllm":
        raise _not_yet("This version can't run the engine 'vllm' yet.", "Use engine 'auto'.", "spec.engine")
    model_path(spec, context.settings)
    with in_spec():
        load_engine(engine_of(spec)).check_args(list(spec.args), dict(spec.env))


def model_path(spec: ModelServiceSpec, settings: Settings) -> Path:
    """Return the GGUF file that the service runs.

    Raises:
        Unprocessable: there is none, it lies outside of the model roots, or the source is not supported yet.
    """
    if isinstance(spec.model, BuiltinModel):
        if spec.model.name not in BUILTIN_MODELS:
            raise Unprocessable(
                f"There is no built-in model '{spec.model.name}'.",
                next_step=f"Built in: {', '.join(BUILTIN_MODELS)}.",
                param="spec.model.name",
            )
        return Path(mooring.__file__).parent / "assets" / f"{spec.model.name}.gguf"
    if isinstance(spec.model, LocalModel):
        return _local_file(spec.model.path, settings.model_roots)
    raise _not_yet(
        f"This version can't download from '{spec.model.source}' yet.",
        "Download the GGUF file yourself and use source 'local'.",
        "spec.model.source",
    )


def _local_file(path: str, model_roots: tuple[str, ...]) -> Path:
    roots = [Path(root).resolve() for root in model_roots]
    told = ", ".join(str(root) for root in roots)
    try:
        real = Path(path).resolve()
        if not roots:
            raise Unprocessable(
                "This platform reads no model files: no model roots are set.",
                next_step="Restart it with --model-roots DIR (MOORING_MODEL_ROOTS): the folder of your models.",
                param="spec.model.path",
            )
        if not Path(path).is_absolute():
            raise _bad_path(f"'{path}' is not an absolute path.")
        if not any(real.is_relative_to(root) for root in roots):
            raise _bad_path(f"'{path}' lies outside of the model roots ({told}).")
        if not real.exists():
            raise _bad_path(f"'{path}' does not exist on the machine where the platform runs.")
        files = [real] if real.is_file() else sorted(real.glob("*.gguf")) if real.is_dir() else []
    except (OSError, ValueError, RuntimeError):  # a NUL in it, a loop of links, no permission
        raise _bad_path(f"'{path}' can't be read.") from None
    files = [file for file in files if file.suffix == ".gguf"]
    if len(files) != 1:
        raise _bad_path(f"'{path}' must be a .gguf file or a folder with exactly one; it holds {len(files)}.")
    target = files[0].resolve()
    if not target.is_file() or not any(target.is_relative_to(root) for root in roots):
        raise _bad_path(f"'{path}' leads out of the model roots ({told}).")
    return target


def _bad_path(message: str) -> Unprocessable:
    return Unprocessable(
        message,
        next_step="Name a file under a model root, or restart with its folder in --model-roots (MOORING_MODEL_ROOTS).",
        param="spec.model.path",
    )


def _not_yet(message: str, next_step: str, param: str) -> Unprocessable:
    return Unprocessable(message, next_step=next_step, param=param, code="not_supported_yet")


async def find(tx: Transaction, ref: str, project: str, actor: Actor) -> AnyService | None:
    """Return the model service with this id, or of this name in the project, or None."""
    return await store.find_service(tx, ref, project, KIND)


async def listing(tx: Transaction, query: Query, actor: Actor) -> list[AnyService]:
    """Return one page of model services."""
    return await store.list_services(tx, query, KIND)


async def create(tx: Transaction, service: ModelService, context: Context, actor: Actor) -> AnyService:
    """Store a new model service; the loop then starts its replicas."""
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
    state = before.status.state if before.spec == wanted.spec else next_state(wanted.spec, before.status.state)
    return await replace(tx, before, wanted, state)


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
