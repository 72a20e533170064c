"""One order = one transaction. What is the same for every noun: find, judge, write, note who did it, tell the gateways.

`RULES` is the registry of nouns. `Orders` is what the management API calls.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from mooring.control import endpoints, external_services, keys, projects, secrets, services, users
from mooring.control.context import Actor, Context, require_administrator
from mooring.core import endpoints as endpoint_nouns
from mooring.core import external_services as external_nouns
from mooring.core import keys as key_nouns
from mooring.core import objects
from mooring.core import projects as project_nouns
from mooring.core import secrets as secret_nouns
from mooring.core import services as service_nouns
from mooring.core import users as user_nouns
from mooring.core.errors import Conflict, NotFound, PreconditionFailed, Unprocessable
from mooring.core.objects import AnyResource, to_wire
from mooring.core.pages import Page, Query, encode_cursor
from mooring.store import audit, changes
from mooring.store.database import Database, Transaction

ACKNOWLEDGE_S = 1.0  # how long an order waits for the gateways to know it
PATCH_ATTEMPTS = 5

Mode = Literal["create", "replace", "apply"]
Action = Literal["created", "updated", "unchanged", "deleted"]
AwaitAcknowledged = Callable[[int, float], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Rules:
    """The functions of one noun; see control/projects.py for what each does."""

    model: type[Any]
    prepare: Callable[[Any, Context, Actor], Awaitable[None]]
    find: Callable[[Transaction, str, str, Actor], Awaitable[Any]]
    listing: Callable[[Transaction, Query, Actor], Awaitable[list[Any]]]
    create: Callable[[Transaction, Any, Context, Actor], Awaitable[Any]]
    update: Callable[[Transaction, Any, Any, Context, Actor], Awaitable[Any]]
    delete: Callable[[Transaction, Any, Context, Actor], Awaitable[None]]


def _rules(model: type[Any], module: Any) -> Rules:
    parts = (getattr(module, name) for name in ("prepare", "find", "listing", "create", "update", "delete"))
    return Rules(model, *parts)


RULES: dict[str, Rules] = {
    "Project": _rules(project_nouns.Project, projects),
    "User": _rules(user_nouns.User, users),
    "Secret": _rules(secret_nouns.Secret, secrets),
    "ModelService": _rules(service_nouns.ModelService, services),
    "ExternalService": _rules(external_nouns.ExternalService, external_services),
    "Endpoint": _rules(endpoint_nouns.Endpoint, endpoints),
    "ApiKey": _rules(key_nouns.ApiKey, keys),
}
"""In the order in which `apply` writes them: what is referred to comes first."""


TOLD = {
    "Project": "a project",
    "User": "a user",
    "Secret": "a secret",
    "ModelService": "a model service",
    "ExternalService": "an external service",
    "Endpoint": "an endpoint",
    "ApiKey": "an API key",
}
"""The nouns in a sentence, with their article."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an order did. `unacknowledged` names the gateway workers that had not heard of it in time."""

    noun: AnyResource
    action: Action
    unacknowledged: tuple[str, ...] = ()


class Orders:
    """Carries out orders.

    Args:
        db: the store.
        context: settings and sealer.
        await_acknowledged: `(version, timeout_s)` → the workers that did not get that version in time.
    """

    def __init__(self, db: Database, context: Context, await_acknowledged: AwaitAcknowledged) -> None:
        self.db = db
        self.context = context
        self._await_acknowledged = await_acknowledged

    async def get(self, kind: str, ref: str, project: str, actor: Actor) -> AnyResource:
        """Return the object with this id, or of this name in the project.

        Raises:
            NotFound: there is none that the caller may see.
        """
        async with self.db.read() as tx:
            return await self._existing(tx, kind, ref, project, actor)

    async def page(self, kind: str, query: Query, actor: Actor) -> Page[AnyResource]:
        """Return one page. A state is derived, so it is filtered here, batch by batch."""
        items: list[AnyResource] = []
        after = query.after
        async with self.db.read() as tx:
            while True:
                batch = await self._batch(tx, kind, query, after, actor)
                items += [item for item in batch.seen if query.state in ("", item.status.state)]
                after = batch.last
                if batch.ended or len(items) > query.limit:
                    break
        if len(items) <= query.limit:
            return Page(items)
        items = items[: query.limit]
        return Page(items, encode_cursor(*_position(items[-1])))

    async def save(
        self, kind: str, noun: AnyResource, mode: Mode, actor: Actor, *, ref: str = "", etag: str = ""
    ) -> Outcome:
        """Create or replace one object. `ref` is its id or name (of a replacement), `etag` what the caller last saw.

        Raises:
            Conflict: it exists already, or is in use.
            NotFound: there is nothing to replace.
            PreconditionFailed: it changed since the caller read it.
            MooringError: the noun's own rules refuse.
        """
        await RULES[kind].prepare(noun, self.context, actor)
        async with self.db.transaction() as tx:
            before = await changes.version(tx)
            saved, action = await self.write(tx, kind, noun, mode, actor, ref=ref, etag=etag)
            version = await changes.version(tx)
        return Outcome(saved, action, await self.acknowledged(before, version))

    async def patch(
        self, kind: str, ref: str, project: str, patch: dict[str, Any], actor: Actor, *, etag: str = ""
    ) -> Outcome:
        """Merge `patch` (RFC 7396) into one object. A change that happens meanwhile is merged with, not lost.

        Raises:
            InvalidDocument: the result is not valid.
            MooringError: as `save`.
        """
        patch = {key: value for key, value in patch.items() if key != "status"}
        for _ in range(PATCH_ATTEMPTS):
            current = await self.get(kind, ref, project, actor)
            if etag and etag != etag_of(current):
                raise PreconditionFailed()
            wanted = objects.read(RULES[kind].model, merge(to_wire(current), patch))
            try:
                return await self.save(kind, wanted, "replace", actor, ref=current.id, etag=etag_of(current))
            except PreconditionFailed:
                continue
        raise Conflict("The object keeps changing while it is patched.")

    async def delete(self, kind: str, ref: str, project: str, actor: Actor, *, etag: str = "") -> Outcome:
        """Delete one object.

        Raises:
            NotFound: there is none.
            Conflict: something uses it.
            PreconditionFailed: it changed since the caller read it.
        """
        async with self.db.transaction() as tx:
            before = await changes.version(tx)
            noun = await self._existing(tx, kind, ref, project, actor)
            _check_etag(noun, etag)
            await RULES[kind].delete(tx, noun, self.context, actor)
            await note(tx, actor, "delete", noun)
            version = await changes.version(tx)
        return Outcome(noun, "deleted", await self.acknowledged(before, version))

    async def set_stopped(self, ref: str, project: str, actor: Actor, *, stopped: bool) -> Outcome:
        """Stop or start a model service.

        Raises:
            NotFound: there is none, or it runs elsewhere.
            Forbidden: the caller is no administrator.
        """
        require_administrator(actor, "stop or start services")
        async with self.db.transaction() as tx:
            before = await changes.version(tx)
            await external_services.refuse_stop(tx, ref, project)
            noun: Any = await self._existing(tx, "ModelService", ref, project, actor)
            changed = await services.set_stopped(tx, noun, stopped=stopped)
            await note(tx, actor, "stop" if stopped else "start", changed)
            version = await changes.version(tx)
        return Outcome(changed, "updated", await self.acknowledged(before, version))

    async def write(
        self,
        tx: Transaction,
        kind: str,
        noun: AnyResource,
        mode: Mode,
        actor: Actor,
        *,
        ref: str = "",
        etag: str = "",
    ) -> tuple[AnyResource, Action]:
        """Write one prepared object inside a transaction; return it and what was done."""
        rules = RULES[kind]
        if mode == "replace":
            before = await self._existing(tx, kind, ref, project_of(noun), actor)
            _check_etag(before, etag)
            _check_identity(before, noun)
        else:
            before = await _same_name(tx, kind, noun, actor)
        if before is None:
            made = await rules.create(tx, noun, self.context, actor)
            await note(tx, actor, "create", made)
            return made, "created"
        if mode == "create":
            raise _exists(kind, before)
        changed = await rules.update(tx, before, noun, self.context, actor)
        if changed is None:
            return before, "unchanged"
        await note(tx, actor, "update", changed)
        return changed, "updated"

    async def acknowledged(self, before: int, version: int) -> tuple[str, ...]:
        """Wait until the gateways know the committed `version`; return those that don't yet."""
        if version == before:
            return ()
        return tuple(await self._await_acknowledged(version, ACKNOWLEDGE_S))

    async def _existing(self, tx: Transaction, kind: str, ref: str, project: str, actor: Actor) -> Any:
        noun = await RULES[kind].find(tx, ref, project, actor)
        if noun is None:
            where = "" if kind in ("Project", "User") else f" in the project '{project}'"
            raise NotFound(f"There is no {TOLD[kind].partition(' ')[2]} '{ref}'{where}.")
        return noun

    async def _batch(
        self, tx: Transaction, kind: str, query: Query, after: tuple[str, str] | None, actor: Actor
    ) -> _Batch:
        size = query.limit + 1
        owner = actor.user_id if kind == "ApiKey" and not actor.administrator else ""
        part = Query(query.project, query.tag, "", query.text, owner, after, size)
        seen = await RULES[kind].listing(tx, part, actor)
        return _Batch(seen, len(seen) < size, _position(seen[-1]) if seen else None)


@dataclass(frozen=True, slots=True)
class _Batch:
    seen: list[AnyResource]
    ended: bool
    last: tuple[str, str] | None


def project_of(noun: AnyResource) -> str:
    """Return the project's name, "" for a noun that stands in none."""
    return str(getattr(noun.metadata, "project", ""))


def name_of(noun: AnyResource) -> str:
    """Return the name (of an API key: the label)."""
    return str(getattr(noun.metadata, "name", ""))


def etag_of(noun: AnyResource) -> str:
    """Return the entity tag of metadata and spec; the state does not count."""
    wire = to_wire(noun)
    text = json.dumps([wire["id"], wire["metadata"], wire["spec"]], sort_keys=True)
    return f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'


def merge(target: Any, patch: Any) -> Any:
    """Return `target` with the JSON merge patch (RFC 7396) applied."""
    if not isinstance(patch, dict):
        return patch
    merged: dict[str, Any] = dict(target) if isinstance(target, dict) else {}  # pyright: ignore[reportUnknownArgumentType]
    changes_wanted: dict[str, Any] = patch  # pyright: ignore[reportUnknownVariableType]
    for key, value in changes_wanted.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


async def note(tx: Transaction, actor: Actor, action: str, noun: AnyResource) -> None:
    """Write who did it into the audit."""
    await audit.add_entry(
        tx,
        actor=actor.told,
        action=action,
        kind=noun.kind,
        object_id=noun.id,
        project=project_of(noun),
        detail={"name": name_of(noun)},
    )


def _position(noun: AnyResource) -> tuple[str, str]:
    return name_of(noun), noun.id


async def _same_name(tx: Transaction, kind: str, noun: AnyResource, actor: Actor) -> Any:
    find = keys.find_own if kind == "ApiKey" else RULES[kind].find
    found = await find(tx, name_of(noun), project_of(noun), actor)
    if found is None or (name_of(found), project_of(found)) != (name_of(noun), project_of(noun)):
        return None  # none, or one whose id happens to be this name
    return found


def _check_etag(noun: AnyResource, etag: str) -> None:
    if etag and etag != "*" and etag != etag_of(noun):
        raise PreconditionFailed(
            f"The {noun.kind} '{name_of(noun)}' changed since you read it.", next_step="Read it again and repeat."
        )


def _check_identity(before: AnyResource, wanted: AnyResource) -> None:
    for field, old, new in (
        ("metadata.name", name_of(before), name_of(wanted)),
        ("metadata.project", project_of(before), project_of(wanted)),
        ("id", before.id, wanted.id or before.id),
    ):
        if old != new:
            raise Unprocessable(
                f"{field} can't be changed from '{old}' to '{new}'.",
                next_step="Leave it as it is, or create a new object and delete this one.",
                param=field,
                code="immutable_field",
            )


def _exists(kind: str, before: AnyResource) -> Conflict:
    where = f" in the project '{project_of(before)}'" if project_of(before) else ""
    return Conflict(
        f"There is already {TOLD[kind]} '{name_of(before)}'{where}.",
        next_step="Choose another name, or change the existing one.",
        param="metadata.name",
        code="already_exists",
    )
