"""LoRA adapters: `<model>:<adapter>` asks for one, only services that have it answer, the records stay the base's."""

from __future__ import annotations

import pytest

from mooring.core.snapshot import ReplicaEntry, TargetEntry
from mooring.testing.gateway import endpoint_row, key_row, service_row
from mooring.testing.raw_client import CHAT
from mooring.testing.upstream import ScriptedUpstream

DEPLOYED = {"external": False, "engine": "vllm", "adapters": ("sql", "pirate")}


@pytest.fixture(autouse=True)
def adapters(gateway, upstream):
    """The service has two adapters and a served name with a colon in it."""
    gateway.rows(service_row(upstream.address, served_model="tiny:7b", **DEPLOYED))


@pytest.mark.parametrize("model", ["ep-1", "elsewhere", "svc-1", "tiny:7b"])
async def test_whatever_names_the_model_names_its_adapter_too(client, upstream, gateway, model):
    for asked, sent in ((model, "tiny:7b"), (f"{model}:pirate", "tiny:7b:pirate")):
        assert (await client.ask({**CHAT, "model": asked})).status == 200
        assert upstream.received[-1].json["model"] == sent
    endpoint = "ep-1" if model == "ep-1" else ""
    assert [(record.endpoint_id, record.service_id) for record in gateway.records()] == [(endpoint, "svc-1")] * 2


@pytest.mark.parametrize("model", ["ep-1:nope", "elsewhere:", "tiny:7b:SQL"])
async def test_an_unknown_adapter_is_told_which_there_are(client, upstream, model):
    answer = await client.ask({**CHAT, "model": model})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "sql, pirate" in answer.error["message"]
    assert upstream.received == []


@pytest.mark.parametrize("model", ["nope:sql", ":sql", "ep-1:sql:sql", "tiny:sql"])
async def test_an_adapter_of_nothing_does_not_exist(client, model):
    assert (await client.ask({**CHAT, "model": model})).error["code"] == "model_not_found"


async def test_an_endpoints_name_is_told_its_id_with_the_adapter(client):
    assert "'ep-1:sql'" in (await client.ask({**CHAT, "model": "chat:sql"})).error["message"]


async def test_a_key_confined_to_an_endpoint_may_use_its_adapters(client, gateway):
    gateway.rows(key_row(endpoints=("ep-1",)))
    assert (await client.ask({**CHAT, "model": "ep-1:sql"})).status == 200
    assert (await client.ask({**CHAT, "model": "elsewhere:sql"})).error["code"] == "model_not_found"


async def test_of_several_services_only_those_with_the_adapter_answer(client, gateway, upstream):
    other = ScriptedUpstream()
    await other.start()
    targets = (TargetEntry("svc-1", 1), TargetEntry("svc-2", 99))
    gateway.rows(service_row(other.address, id="svc-2", name="plain"), endpoint_row(targets=targets))
    for _ in range(10):
        assert (await client.ask({**CHAT, "model": "ep-1:sql"})).status == 200
    assert (len(upstream.received), len(other.received)) == (10, 0)
    gateway.rows(service_row([], served_model="tiny", state="starting", **DEPLOYED))
    answer = await client.ask({**CHAT, "model": "ep-1:sql"})
    assert (answer.status, answer.error["code"]) == (503, "service_not_ready")
    assert (await client.ask({**CHAT, "model": "ep-1"})).status == 200
    await other.stop()


async def test_models_are_listed_with_their_adapters(client, gateway):
    answer = await client.ask(None, "/v1/models", method="GET")
    assert [(model["id"], model["parent"]) for model in answer.json["data"]] == [
        (f"{base}{adapter}", base if adapter else None)
        for base in ("ep-1", "elsewhere")
        for adapter in ("", ":sql", ":pirate")
    ]
    for name in ("ep-1:sql", "elsewhere:pirate", "tiny:7b", "tiny:7b:sql"):
        answer = await client.ask(None, f"/v1/models/{name}", method="GET")
        assert (answer.status, answer.json["id"]) == (200, name)
    for name in ("ep-1:nope", ":sql", "nope:sql"):
        assert (await client.ask(None, f"/v1/models/{name}", method="GET")).status == 404


async def test_replicas_of_another_version_never_get_a_call_for_an_adapter(client, gateway, upstream):
    """While a roll-out changes the adapters, the old replicas may know another one by the same number."""
    other = ScriptedUpstream()
    await other.start()
    old = ReplicaEntry("rep-old", other.address, None, True, 0, ("pirate", "sql"))
    new = ReplicaEntry("rep-new", upstream.address, None, True, 0, ("sql", "pirate"))
    gateway.rows(service_row([], served_model="tiny", replicas=(old, new), **DEPLOYED))
    for _ in range(10):
        assert (await client.ask({**CHAT, "model": "ep-1:sql"})).status == 200
    assert (len(upstream.received), len(other.received)) == (10, 0)
    for _ in range(20):
        assert (await client.ask({**CHAT, "model": "ep-1"})).status == 200
    assert other.received, "what asks for no adapter goes to all"
    await other.stop()
