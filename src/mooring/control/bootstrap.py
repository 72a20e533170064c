"""The first start: a project, an administrator, a key, and the demo. And the way back in when the password is lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from mooring.control import admin_file, endpoints, projects, sealing, services
from mooring.control.admin_file import AdminFile
from mooring.control.context import Actor, Context
from mooring.control.passwords import hash_password, new_password
from mooring.control.sealing import Sealer, SecretKeyBroken
from mooring.core.endpoints import Endpoint
from mooring.core.ids import key_digest, new_access_key, new_api_key, new_id
from mooring.core.keys import ApiKey, ApiKeySpec, KeyMetadata, KeyStatus
from mooring.core.objects import DEFAULT_PROJECT
from mooring.core.pages import Query
from mooring.core.projects import Project
from mooring.core.services import ModelService
from mooring.core.users import User, UserMetadata, UserSpec
from mooring.settings import Settings
from mooring.store import audit, changes, meta, users
from mooring.store import keys as keys_store
from mooring.store.database import Database, Transaction, database_url, migrate
from mooring.store.projects import find_project

ADMINISTRATOR = "admin"
KEY_LABEL = "admin"
DEMO_SERVICE = "mooring-demo"
DEMO_ENDPOINT = "demo"
KEY_CHECK = "secret_key_check"
FIRST_START = "first_start"  # the fact that project and demo were made; what is deleted later is not made again


async def start(db: Database, sealer: Sealer, settings: Settings) -> None:
    """Do what a first start needs; a later one only notes in admin.json where the platform answers now.

    Raises:
        SecretKeyBroken: `secret.key` is not the one this database was made with.
        OSError: admin.json can't be written.
    """
    password = new_password()
    password_hash = await hash_password(password)
    async with db.transaction() as tx:
        await _check_secret_key(tx, sealer)
        if await users.list_users(tx, Query(limit=1)):
            await _finish_first_start(tx, Context(settings, sealer))
            admin_file.update_base_url(settings.data_dir, settings.base_url)
            return
        actor, plain = await _create_administrator(tx, sealer, password_hash)
        context = Context(settings, sealer)
        await projects.create(tx, _project(), context, actor)
        endpoint_id = await _create_demo(tx, context, actor) if settings.demo else ""
        await meta.note_fact(tx, FIRST_START, "complete")
        content = {
            "base_url": settings.base_url,
            "username": ADMINISTRATOR,
            "password": password,
            "api_key": plain,
            "endpoint_id": endpoint_id,
        }
        admin_file.write(settings.data_dir, content)  # before the commit: a crash between must not lose the password


async def _finish_first_start(tx: Transaction, context: Context) -> None:
    """Make project and demo when `admin reset` made the administrator before the platform ever started.

    Raises:
        OSError: admin.json can't be written.
    """
    if await meta.find_fact(tx, FIRST_START) is not None:
        return
    await meta.note_fact(tx, FIRST_START, "complete")
    if await find_project(tx, DEFAULT_PROJECT) is not None:
        return  # made by a version that did not note it
    owner = (await users.list_users(tx, Query(limit=1)))[0]
    actor = Actor(owner.id, owner.metadata.name, administrator=True)
    await projects.create(tx, _project(), context, actor)
    content = admin_file.read(context.settings.data_dir)
    if context.settings.demo:
        endpoint_id = await _create_demo(tx, context, actor)
        if content is not None:
            admin_file.write(context.settings.data_dir, content | {"endpoint_id": endpoint_id})


def reset_administrator(settings: Settings) -> AdminFile:
    """Give the administrator a new password and a new full-access key and write them to admin.json. Blocking.

    Raises:
        DatabaseBroken: the database can't be opened.
        SecretKeyBroken: `secret.key` can't be used.
        OSError: admin.json can't be written.
    """
    url = database_url(settings.data_dir, settings.database_url)
    migrate(url)
    sealer = sealing.load(settings.data_dir)

    async def work() -> AdminFile:
        db = Database(url)
        try:
            return await reset(db, sealer, settings)
        finally:
            await db.close()

    return asyncio.run(work())


async def reset(db: Database, sealer: Sealer, settings: Settings) -> AdminFile:
    """Do the work of `reset_administrator` on an open database."""
    before = admin_file.read(settings.data_dir) or {}
    name = before.get("username", ADMINISTRATOR)
    password = new_password()
    password_hash = await hash_password(password)
    async with db.transaction() as tx:
        await _check_secret_key(tx, sealer)
        user = await users.find_user(tx, name)
        if user is None:
            user = await users.insert_user(tx, _administrator(name), password_hash)
        else:
            spec = UserSpec(role="administrator", enabled=True)
            user = await users.update_user(tx, user.model_copy(update={"spec": spec}), password_hash)
        old = await keys_store.find_key(tx, KEY_LABEL, DEFAULT_PROJECT, user.id)
        if old is not None:
            await keys_store.delete_key(tx, old.id)
        plain, made = await _create_key(tx, sealer, user.id)
        others = await users.key_ids_of(tx, user.id)
        await changes.record(tx, "key", [made, *others, *([old.id] if old else [])])
        await audit.add_entry(tx, actor="operator", action="reset", kind="User", object_id=user.id)
        content = {
            "base_url": before.get("base_url", settings.base_url),
            "username": name,
            "password": password,
            "api_key": plain,
            "endpoint_id": before.get("endpoint_id", ""),
        }
        admin_file.write(settings.data_dir, content)
    return content


async def _check_secret_key(tx: Transaction, sealer: Sealer) -> None:
    known = await meta.find_fact(tx, KEY_CHECK)
    if known is None:
        await meta.note_fact(tx, KEY_CHECK, sealer.check)
    elif known != sealer.check:
        raise SecretKeyBroken(
            f"{sealing.FILE} in the data directory is not the one this database was made with;"
            " put the right file back from a backup."
        )


async def _create_administrator(tx: Transaction, sealer: Sealer, password_hash: str) -> tuple[Actor, str]:
    user = await users.insert_user(tx, _administrator(ADMINISTRATOR), password_hash)
    plain, key_id = await _create_key(tx, sealer, user.id)
    await changes.record(tx, "key", [key_id])
    await audit.add_entry(tx, actor="platform", action="create", kind="User", object_id=user.id)
    return Actor(user.id, ADMINISTRATOR, administrator=True), plain


def _administrator(name: str) -> User:
    spec = UserSpec(role="administrator", enabled=True)
    return User(id=new_id("usr"), metadata=UserMetadata(name=name), spec=spec)


async def _create_key(tx: Transaction, sealer: Sealer, owner: str) -> tuple[str, str]:
    """Return (key, its id)."""
    plain = new_api_key()
    digests = keys_store.Digests(key_digest(plain, sealer.pepper), key_digest(new_access_key(), sealer.pepper))
    key = ApiKey(
        id=new_id("key"),
        metadata=KeyMetadata(name=KEY_LABEL, created_at=datetime.now(UTC)),
        spec=ApiKeySpec(description="made by the platform; see admin.json", access="full"),
        status=KeyStatus(owner=owner),
    )
    return plain, (await keys_store.insert_key(tx, key, digests)).id


def _project() -> Project:
    return Project.model_validate({"metadata": {"name": DEFAULT_PROJECT}, "spec": {"description": "The first project"}})


async def _create_demo(tx: Transaction, context: Context, actor: Actor) -> str:
    """Return the id of the demo endpoint."""
    model: dict[str, Any] = {"source": "builtin", "name": DEMO_SERVICE}
    service = ModelService.model_validate({"metadata": {"name": DEMO_SERVICE}, "spec": {"model": model}})
    await services.create(tx, service, context, actor)
    spec = {"services": [{"name": DEMO_SERVICE, "weight": 1}], "description": "The demo model"}
    endpoint = Endpoint.model_validate({"metadata": {"name": DEMO_ENDPOINT}, "spec": spec})
    return (await endpoints.create(tx, endpoint, context, actor)).id
