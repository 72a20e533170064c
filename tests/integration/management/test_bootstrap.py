"""The first start, later starts, and the way back in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mooring.control import admin_file, bootstrap, sealing
from mooring.control.authentication import Authenticator
from mooring.control.sealing import Sealer, SecretKeyBroken
from mooring.core.errors import Unauthenticated
from mooring.core.pages import Query
from mooring.settings import Settings
from mooring.store.database import Database
from mooring.store.endpoints import get_endpoint
from mooring.store.services import delete_service, list_all_services


@pytest.fixture
def copies() -> bool:
    return False  # each first start here is a real one


async def test_the_first_start_makes_what_a_newcomer_needs(db: Database, sealer: Sealer, settings: Settings) -> None:
    path = settings.data_dir / "admin.json"
    content = json.loads(path.read_text())
    assert set(content) == {"base_url", "username", "password", "api_key", "endpoint_id"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert (settings.data_dir / "secret.key").stat().st_mode & 0o777 == 0o600
    async with db.read() as tx:
        endpoint = await get_endpoint(tx, content["endpoint_id"])
        assert [service.metadata.name for service in await list_all_services(tx)] == ["mooring-demo"]
    assert (endpoint.metadata.name, endpoint.status.state) == ("demo", "Scheduling")
    actor = await Authenticator(db, sealer).authenticate(f"bearer {content['api_key']}")
    assert actor.administrator


async def test_a_later_start_changes_only_the_address(db: Database, sealer: Sealer, settings: Settings) -> None:
    before = admin_file.read(settings.data_dir)
    await bootstrap.start(db, sealer, dataclasses.replace(settings, port=9999))
    assert before is not None
    assert admin_file.read(settings.data_dir) == before | {"base_url": "http://127.0.0.1:9999"}


async def test_without_the_demo_nothing_is_deployed(empty_db: Database, sealer: Sealer, settings: Settings) -> None:
    await bootstrap.start(empty_db, sealer, dataclasses.replace(settings, demo=False))
    content = admin_file.read(settings.data_dir)
    assert content is not None
    assert content["endpoint_id"] == ""
    async with empty_db.read() as tx:
        assert await list_all_services(tx) == []


async def test_a_strange_secret_key_is_one_clear_sentence(db: Database, settings: Settings, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SecretKeyBroken, match="not the one this database was made with"):
        await bootstrap.start(db, sealing.load(other), settings)


async def test_a_reset_gives_a_new_password_and_a_new_key_and_ends_the_old_ones(
    db: Database, sealer: Sealer, settings: Settings
) -> None:
    before = admin_file.read(settings.data_dir) or {}
    after = await bootstrap.reset(db, sealer, settings)
    assert after == admin_file.read(settings.data_dir)
    assert after["password"] != before["password"]
    assert after["endpoint_id"] == before["endpoint_id"]
    authenticator = Authenticator(db, sealer)
    assert (await authenticator.authenticate(f"Bearer {after['api_key']}")).administrator
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(f"Bearer {before['api_key']}")


async def test_a_reset_before_the_first_start_ends_in_a_platform_with_its_demo(
    empty_db: Database, sealer: Sealer, settings: Settings
) -> None:
    await bootstrap.reset(empty_db, sealer, settings)
    await bootstrap.start(empty_db, sealer, settings)
    content = admin_file.read(settings.data_dir) or {}
    async with empty_db.read() as tx:
        endpoint = await get_endpoint(tx, content["endpoint_id"])
    assert (endpoint.metadata.name, endpoint.metadata.project) == ("demo", "default")


async def test_a_demo_that_was_deleted_is_not_made_again(db: Database, sealer: Sealer, settings: Settings) -> None:
    async with db.transaction() as tx:
        for service in await list_all_services(tx):
            await delete_service(tx, service.id)
    await bootstrap.start(db, sealer, settings)
    async with db.read() as tx:
        assert await list_all_services(tx) == []


async def test_a_new_password_leaves_admin_json(client, settings: Settings) -> None:  # type: ignore[no-untyped-def]
    answer = await client.patch("/manage/v1/users/admin", json={"spec": {"password": "my own password"}})
    assert answer.status_code == 200, answer.text
    content = admin_file.read(settings.data_dir)
    assert content is not None
    assert "password" not in content
    assert content["api_key"]


def test_sealing_takes_the_password_out(tmp_path: Path) -> None:
    assert not admin_file.seal(tmp_path)
    admin_file.write(tmp_path, {"username": "admin", "password": "x", "api_key": "mk-1"})
    assert admin_file.seal(tmp_path)
    assert admin_file.read(tmp_path) == {"username": "admin", "api_key": "mk-1"}
    assert not admin_file.seal(tmp_path)


async def test_many_keys_come_in_chunks(db: Database, sealer: Sealer) -> None:
    from mooring.core.keys import ApiKey, ApiKeySpec, KeyMetadata, KeyStatus
    from mooring.core.snapshot import ROWS_PER_MESSAGE
    from mooring.store.keys import Digests, insert_key
    from mooring.store.snapshot_rows import load_rows
    from mooring.store.users import list_users

    async with db.transaction() as tx:
        owner = (await list_users(tx, Query()))[0].id
        for number in range(ROWS_PER_MESSAGE + 5):
            key = ApiKey(
                id=f"key-{number}",
                metadata=KeyMetadata(name=f"k{number}"),
                spec=ApiKeySpec(),
                status=KeyStatus(owner=owner),
            )
            await insert_key(tx, key, Digests(b"a%d" % number, b"b%d" % number))
    async with db.read() as tx:
        sizes = [len(rows) async for rows in load_rows(tx, "key", unseal=sealer.unseal)]
        gone = [rows async for rows in load_rows(tx, "key", ["key-none", "key-1"], unseal=sealer.unseal)]
    assert sizes == [ROWS_PER_MESSAGE, 6]
    assert {row.id: row.data is None for row in gone[0]} == {"key-1": False, "key-none": True}
