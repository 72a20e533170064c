"""API keys and users: shown once, bounded, confined, never stronger than their owner is now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mooring.control.sealing import Sealer
from mooring.core.ids import key_digest
from mooring.core.snapshot import KeyEntry, decode_key
from mooring.store.database import Database
from mooring.store.snapshot_rows import load_rows

Connect = Callable[..., httpx.AsyncClient]
KEYS = "/manage/v1/keys"


async def entries(db: Database, sealer: Sealer) -> dict[str, tuple[KeyEntry, tuple[bytes, ...]]]:
    """Return label-independent key entries as the gateways would get them, by id."""
    found: dict[str, tuple[KeyEntry, tuple[bytes, ...]]] = {}
    async with db.read() as tx:
        async for rows in load_rows(tx, "key", unseal=sealer.unseal):
            found |= {row.id: (decode_key(row.data or b""), row.digests) for row in rows}
    return found


async def test_a_key_is_shown_once_in_two_forms_and_the_gateways_know_both(
    client: httpx.AsyncClient, db: Database, sealer: Sealer
) -> None:
    made = (await client.post(KEYS, json={"metadata": {"name": "App_1"}, "spec": {"description": "für 应用"}})).json()
    assert made["label"] == "App_1"
    assert made["key"].startswith("mk-")
    assert made["accessKey"].startswith("llmos-")
    assert (made["status"]["key"], made["status"]["accessKey"]) == (made["key"], made["accessKey"])
    for answer in (await client.get(f"{KEYS}/App_1"), await client.get(KEYS)):
        assert made["key"] not in answer.text
        assert made["accessKey"] not in answer.text
    entry, digests = (await entries(db, sealer))[made["id"]]
    assert digests == (key_digest(made["key"], sealer.pepper), key_digest(made["accessKey"], sealer.pepper))
    assert (entry.enabled, entry.admin, entry.endpoints, entry.project) == (True, False, None, "default")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
@pytest.mark.parametrize(
    ("spec", "status", "param"),
    [
        ({"description": ""}, 422, "spec.description"),
        ({"description": "x" * 101}, 422, "spec.description"),
        ({"endpoints": ["nowhere"]}, 422, "spec.endpoints.0"),
        ({"endpoints": []}, 422, "spec.endpoints"),
        ({"expiresAt": "2020-01-01T00:00:00Z"}, 422, "spec.expiresAt"),
        ({"expiresAt": "2020-01-01T00:00:00"}, 422, "spec.expiresAt"),
        ({"expiresAt": "2999-01-01T00:00:00Z", "ttlDays": 3}, 422, "spec"),
        ({"access": "full", "endpoints": ["demo"]}, 400, "spec.endpoints"),
        ({"ttlDays": 0}, 422, "spec.ttlDays"),
        ({"limits": {"rpm": -1}}, 422, "spec.limits.rpm"),
        ({"limits": {"rpm": True}}, 422, "spec.limits.rpm"),
    ],
)
async def test_a_bad_key_is_refused_with_its_field(
    client: httpx.AsyncClient, spec: dict[str, Any], status: int, param: str
) -> None:
    answer = await client.post(KEYS, json={"metadata": {"name": "k"}, "spec": spec})
    assert (answer.status_code, answer.json()["param"]) == (status, param), answer.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
@pytest.mark.parametrize("label", ["", "a b", "a.b", "é", "x" * 101, "a\n"])
async def test_a_label_has_only_letters_digits_dash_and_underscore(client: httpx.AsyncClient, label: str) -> None:
    assert (await client.post(KEYS, json={"metadata": {"name": label}})).status_code == 422


async def test_label_description_and_access_never_change(client: httpx.AsyncClient) -> None:
    await client.post(KEYS, json={"metadata": {"name": "k"}, "spec": {"description": "one"}})
    for change in ({"description": "two"}, {"access": "full"}, {"description": None}):
        answer = await client.patch(f"{KEYS}/k", json={"spec": change})
        assert (answer.status_code, answer.json()["code"]) == (409, "immutable_field"), answer.text
    answer = await client.patch(f"{KEYS}/k", json={"metadata": {"name": "other"}})
    assert (answer.status_code, answer.json()["code"]) == (422, "immutable_field"), answer.text


async def test_scope_takes_names_and_ids_and_survives_the_endpoint(
    client: httpx.AsyncClient, admin_file: dict[str, str]
) -> None:
    demo = admin_file["endpoint_id"]
    made = (await client.post(KEYS, json={"metadata": {"name": "k"}, "spec": {"endpoints": ["demo", demo]}})).json()
    assert made["spec"]["endpoints"] == [demo]
    assert (await client.delete("/manage/v1/endpoints/demo")).status_code == 200
    patched = await client.patch(f"{KEYS}/k", json={"spec": {"limits": {"rpm": 3}}})
    assert patched.json()["spec"]["endpoints"] == [demo], patched.text


async def test_an_account_holds_at_most_thirty_keys_even_when_many_are_made_at_once(
    client: httpx.AsyncClient,
) -> None:
    async def make(number: int) -> int:
        return (await client.post(KEYS, json={"metadata": {"name": f"k{number}"}})).status_code

    statuses = await asyncio.gather(*[make(number) for number in range(35)])
    assert statuses.count(201) == 29, "the first start made one"
    assert statuses.count(409) == 6
    assert len((await client.get(KEYS)).json()["items"]) == 30
    await client.delete(f"{KEYS}/{(await client.get(KEYS)).json()['items'][-1]['id']}")
    assert await make(99) == 201


async def test_a_disabled_owner_disables_its_keys_and_a_demoted_one_loses_its_rights(
    client: httpx.AsyncClient, connect: Connect, db: Database, sealer: Sealer
) -> None:
    ann = {"metadata": {"name": "ann"}, "spec": {"role": "administrator", "password": "correct horse"}}
    assert (await client.post("/manage/v1/users", json=ann)).status_code == 201
    as_ann = connect(basic=("ann", "correct horse"))
    made = (await as_ann.post(KEYS, json={"metadata": {"name": "k"}, "spec": {"access": "full"}})).json()
    with_key = connect(made["key"])
    assert (await with_key.get("/manage/v1/projects")).status_code == 200

    await client.patch("/manage/v1/users/ann", json={"spec": {"role": "member"}})
    assert (await with_key.post("/manage/v1/projects", json={"metadata": {"name": "p"}})).status_code == 403
    assert not (await entries(db, sealer))[made["id"]][0].admin

    await client.patch("/manage/v1/users/ann", json={"spec": {"enabled": False}})
    for denied in (with_key, as_ann):
        answer = await denied.get("/manage/v1/projects")
        assert answer.status_code == 401, answer.text
    assert not (await entries(db, sealer))[made["id"]][0].enabled
    assert (await client.get(f"{KEYS}/{made['id']}")).json()["status"]["state"] == "Disabled"

    assert (await client.delete("/manage/v1/users/ann")).status_code == 200
    assert made["id"] not in await entries(db, sealer)


async def test_a_member_reads_makes_own_keys_and_changes_nothing_else(
    client: httpx.AsyncClient, connect: Connect
) -> None:
    ben = {"metadata": {"name": "ben"}, "spec": {"password": "correct horse"}}
    await client.post("/manage/v1/users", json=ben)
    member = connect(basic=("ben", "correct horse"))
    assert (await member.get("/manage/v1/endpoints")).status_code == 200
    assert (await member.get(KEYS)).json()["items"] == []
    assert [user["metadata"]["name"] for user in (await member.get("/manage/v1/users")).json()["items"]] == ["ben"]
    assert (await member.get("/manage/v1/users/admin")).status_code == 404
    assert (await member.get(f"{KEYS}/admin")).status_code == 404
    assert (await member.post(KEYS, json={"metadata": {"name": "mine"}})).status_code == 201
    assert (await member.post(KEYS, json={"metadata": {"name": "big"}, "spec": {"access": "full"}})).status_code == 403
    refused = [
        await member.patch("/manage/v1/endpoints/demo", json={"spec": {"enabled": False}}),
        await member.delete("/manage/v1/endpoints/demo"),
        await member.delete("/manage/v1/services/mooring-demo"),
        await member.post("/manage/v1/services/mooring-demo/stop"),
        await member.get("/manage/v1/services/mooring-demo/logs"),
        await member.get("/manage/v1/usage/requests"),
        await member.patch("/manage/v1/users/ben", json={"spec": {"role": "administrator"}}),
        await member.post("/manage/v1/secrets", json={"metadata": {"name": "s"}, "spec": {"stringData": {"a": "b"}}}),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    own = await member.patch("/manage/v1/users/ben", json={"spec": {"password": "battery staple"}})
    assert own.status_code == 200, own.text
    assert (await member.get("/manage/v1/endpoints")).status_code == 401, "the old password is remembered for nobody"


async def test_the_last_administrator_stays(client: httpx.AsyncClient) -> None:
    for answer in (
        await client.patch("/manage/v1/users/admin", json={"spec": {"enabled": False}}),
        await client.patch("/manage/v1/users/admin", json={"spec": {"role": "member"}}),
        await client.delete("/manage/v1/users/admin"),
    ):
        assert answer.status_code == 409, answer.text


async def test_an_inference_key_does_not_manage_and_nobody_is_refused_politely(
    client: httpx.AsyncClient, connect: Connect, admin_file: dict[str, str]
) -> None:
    made = (await client.post(KEYS, json={"metadata": {"name": "k"}})).json()
    assert (await connect(made["key"]).get(KEYS)).status_code == 403
    for nobody in (connect(), connect("mk-wrong"), connect(basic=("admin", "wrong")), connect(basic=("", "x"))):
        answer = await nobody.get(KEYS)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await connect(basic=("admin", admin_file["password"])).get(KEYS)).status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
async def test_wrong_passwords_are_slowed_down_and_the_right_one_is_remembered(
    connect: Connect, admin_file: dict[str, str]
) -> None:
    known = connect(basic=("admin", admin_file["password"]))
    assert (await known.get(KEYS)).status_code == 200
    guesses = [(await connect(basic=("admin", f"guess {n}")).get(KEYS)).status_code for n in range(12)]
    assert guesses == [401] * 10 + [429] * 2
    assert (await known.get(KEYS)).status_code == 200, "who is logged in stays so"
