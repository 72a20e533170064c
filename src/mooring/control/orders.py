"""One order = one transaction. What is the same for every noun: find, judge, write, note who did it, tell the gateways.

`RULES` is the registry of nouns. `Orders` is what the management API calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakValueDictionary

from mooring.control import endpoints, external_services, keys, projects, secrets, services, terms, users
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
from mooring.store.services import find_service

ACKNOWLEDGE_S = 1.0  # how long an order waits for the gateways to know it
PATCH_ATTEMPTS = 50  # rivals are other processes and replacements: patches of one process wait for each other

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
    """What an order did; with `dry_run`, what it would have done.

    `unacknowledged` names the gateway workers that had not heard of it in time.
    """

    noun: AnyResource
    action: Action
    unacknowledged: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(slots=True)
class Writing:
    """A transaction that writes; `unacknowledged` is known when it is over."""

    tx: Transaction
    unacknowledged: tuple[str, ...] = ()


class _DryRun(Exception):
    """Not an error: the way to roll back."""


class Orders:
    """Carries out orders. With `dry_run` everything is judged and done, and nothing of it kept.

    Args:
        db: the store.
        context: settings and sealer.
        await_acknowledged: `(version, timeout_s)` → the workers that did not get that version in time.
    """

    def __init__(self, db: Database, context: Context, await_acknowledged: AwaitAcknowledged) -> None:
        self.db = db
        self.context = context
        self._await_acknowledged = await_acknowledged
        self._patching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

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
        self,
        kind: str,
        noun: AnyResource,
        mode: Mode,
        actor: Actor,
        *,
        ref: str = "",
        etag: str = "",
        dry_run: bool = False,
    ) -> Outcome:
        """Create or replace one object. `ref` is its id or name (of a replacement), `etag` what the caller last saw.

        Raises:
            Conflict: it exists already, or is in use.
            NotFound: there is nothing to replace.
            PreconditionFailed: it changed since the caller read it.
            TermsNotAccepted: it is new, and the caller does not agree to the terms of use.
            MooringError: the noun's own rules refuse.
        """
        await RULES[kind].prepare(noun, self.context, actor)
        async with self.writing(dry_run=dry_run) as writing:
            saved, action = await self.write(writing.tx, kind, noun, mode, actor, ref=ref, etag=etag)
        return Outcome(saved, action, writing.unacknowledged, dry_run)

    async def patch(
        self,
        kind: str,
        ref: str,
        project: str,
        patch: dict[str, Any],
        actor: Actor,
        *,
        etag: str = "",
        dry_run: bool = False,
    ) -> Outcome:
        """Merge `patch` (RFC 7396) into one object. A change that happens meanwhile is merged with, not lost.

        Raises:
            InvalidDocument: the result is not valid.
            MooringError: as `save`.
        """
        patch = {key: value for key, value in patch.items() if key != "status"}
        found = await self.get(kind, ref, project, actor)
        async with self._patching.setdefault(found.id, asyncio.Lock()):
            for _ in range(PATCH_ATTEMPTS):
                current = await self.get(kind, found.id, project, actor)
                _check_etag(current, etag)
                wanted = objects.read(RULES[kind].model, merge(to_wire(current), patch))
                seen = etag_of(current)
                try:
                    return await self.save(kind, wanted, "replace", actor, ref=found.id, etag=seen, dry_run=dry_run)
                except PreconditionFailed:
                    continue
        raise Conflict("The object keeps changing while it is patched.")

    async def delete(
        self, kind: str, ref: str, project: str, actor: Actor, *, etag: str = "", dry_run: bool = False
    ) -> Outcome:
        """Delete one object.

        Raises:
            NotFound: there is none.
            Conflict: something uses it.
            PreconditionFailed: it changed since the caller read it.
        """
        async with self.writing(dry_run=dry_run) as writing:
            noun = await self._existing(writing.tx, kind, ref, project, actor)
            _check_etag(noun, etag)
            await RULES[kind].delete(writing.tx, noun, self.context, actor)
            await note(writing.tx, actor, "delete", noun)
        return Outcome(noun, "deleted", writing.unacknowledged, dry_run)

    async def set_stopped(
        self, ref: str, project: str, actor: Actor, *, stopped: bool, etag: str = "", dry_run: bool = False
    ) -> Outcome:
        """Stop or start a model service.

        Raises:
            NotFound: there is none, or it runs elsewhere.
            Forbidden: the caller is no administrator.
            PreconditionFailed: it changed since the caller read it.
        """
        require_administrator(actor, "stop or start services")
        async with self.writing(dry_run=dry_run) as writing:
            advice = "Disable it instead: set its spec.enabled to false."
            service = await self._deployed(writing.tx, ref, project, actor, advice)
            _check_etag(service, etag)
            changed = await services.set_stopped(writing.tx, service, stopped=stopped)
            await note(writing.tx, actor, "stop" if stopped else "start", changed)
        return Outcome(changed, "updated", writing.unacknowledged, dry_run)

    async def scale(
        self, ref: str, project: str, actor: Actor, *, replicas: int, etag: str = "", dry_run: bool = False
    ) -> Outcome:
        """Set how many replicas a model service has when it runs: a stopped one stays stopped.

        Raises:
            NotFound: there is none, or it runs elsewhere.
            Forbidden: the caller is no administrator.
            PreconditionFailed: it changed since the caller read it.
        """
        require_administrator(actor, "scale services")
        async with self.writing(dry_run=dry_run) as writing:
            service = await self._deployed(writing.tx, ref, project, actor, "Scale it where it runs.")
            _check_etag(service, etag)
            spec = service.spec.model_copy(update={"replicas": replicas})
            wanted = service.model_copy(update={"spec": spec})
            changed = await services.update(writing.tx, service, wanted, self.context, actor)
            if changed is not None:
                await note(writing.tx, actor, "scale", changed, replicas=replicas)
        action: Action = "unchanged" if changed is None else "updated"
        return Outcome(changed or service, action, writing.unacknowledged, dry_run)

    @asynccontextmanager
    async def writing(self, *, dry_run: bool = False) -> AsyncGenerator[Writing]:
        """Commit what the block writes and wait until the gateways know it; with `dry_run`, undo all of it."""
        before = version = 0
        try:
            async with self.db.transaction() as tx:
                before = await changes.version(tx)
                writing = Writing(tx)
                yield writing
                version = await changes.version(tx)
                if dry_run:
                    raise _DryRun
        except _DryRun:
            return
        if version != before:
            writing.unacknowledged = tuple(await self._await_acknowledged(version, ACKNOWLEDGE_S))

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
            agreed = await terms.require_agreement(tx, kind, actor)
            made = await rules.create(tx, noun, self.context, actor)
            await note(tx, actor, "create", made, **agreed)
            return made, "created"
        if mode == "create":
            raise _exists(kind, before)
        changed = await rules.update(tx, before, noun, self.context, actor)
        if changed is None:
            return before, "unchanged"
        await note(tx, actor, "update", changed)
        return changed, "updated"

    async def _existing(self, tx: Transaction, kind: str, ref: str, project: str, actor: Actor) -> Any:
        noun = await RULES[kind].find(tx, ref, project, actor)
        if noun is None:
            where = "" if kind in ("Project", "User") else f" in the project '{project}'"
            raise NotFound(f"There is no {TOLD[kind].partition(' ')[2]} '{ref}'{where}.")
        return noun

    async def _deployed(self, tx: Transaction, ref: str, project: str, actor: Actor, advice: str) -> Any:
        """Return a model service. `advice` says what to do instead where the service runs elsewhere."""
        elsewhere = await find_service(tx, ref, project, external_services.KIND)
        if elsewhere is not None:
            raise external_services.runs_elsewhere(elsewhere, advice)
        return await self._existing(tx, services.KIND, ref, project, actor)

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


def told_deed(noun: AnyResource, action: Action, *, dry_run: bool) -> dict[str, Any]:
    """Return the object and what was done with it, JSON-ready; a dry run shows no key, for it has made none."""
    item: dict[str, Any] = {**to_wire(noun), "action": action}
    if dry_run:
        for secret in ("key", "accessKey"):
            item["status"].pop(secret, None)
    return item


async def note(tx: Transaction, actor: Actor, action: str, noun: AnyResource, **detail: Any) -> None:
    """Write who did it into the audit; `detail` must hold nothing secret."""
    await audit.add_entry(
        tx,
        actor=actor.told,
        action=action,
        kind=noun.kind,
        object_id=noun.id,
        project=project_of(noun),
        detail={"name": name_of(noun), **detail},
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
