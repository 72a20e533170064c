"""Deleting a service with what was made around it."""

from typing import Any

import pytest
from tests.unit.cli.scripted import Answer, Script, run

MADE = "made by mooring deploy for demo"


def thing(kind: str, ref: str, name: str, **spec: Any) -> dict:
    return {"kind": kind, "id": ref, "metadata": {"name": name, "project": "default"}, "spec": spec, "status": {}}


def endpoint(ref: str, name: str, *services: str) -> dict:
    return thing("Endpoint", ref, name, services=[{"name": service} for service in services])


@pytest.fixture
def deployed(script: Script) -> Script:
    """A service with an endpoint, keys and a secret, and others that have nothing to do with it."""
    keys = [
        thing("ApiKey", "key-1", "demo-key", endpoints=["ep-1"], description=MADE),
        thing("ApiKey", "key-2", "demo-key-2", endpoints=["ep-1", "ep-9"], description=MADE),
        thing("ApiKey", "key-3", "mine", endpoints=["ep-1"], description="mine"),
        thing("ApiKey", "key-4", "demo-key-3", description=MADE),
    ]
    script.on("GET", "/manage/v1/services/demo", thing("ModelService", "svc-1", "demo"))
    script.on("GET", "/manage/v1/endpoints", {"items": [endpoint("ep-1", "demo", "demo"), endpoint("ep-9", "o", "x")]})
    script.on("GET", "/manage/v1/keys", {"items": keys})
    script.on("GET", "/manage/v1/secrets/demo-hub-token", thing("Secret", "sec-1", "demo-hub-token"))
    for path in ("endpoints/ep-1", "services/svc-1", "keys/key-1", "secrets/sec-1"):
        script.on("DELETE", f"/manage/v1/{path}", {})
    return script


def deleted(script: Script) -> list[str]:
    return [asked.path.removeprefix("/manage/v1/") for asked in script.asked if asked.method == "DELETE"]


def test_endpoints_keys_and_the_token_go_with_the_service_and_nothing_else(
    deployed: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("services", "delete", "demo", "--with-endpoints", "--dry-run") == 0
    assert capsys.readouterr().err.splitlines()[0] == "Would delete the endpoint demo (ep-1)."
    assert deleted(deployed) == []
    assert run("services", "delete", "demo", "--with-endpoints") == 0
    assert deleted(deployed) == ["endpoints/ep-1", "services/svc-1", "keys/key-1", "secrets/sec-1"]
    assert capsys.readouterr().err.splitlines() == [
        "Deleted the endpoint demo (ep-1).",
        "Deleted the model service demo (svc-1).",
        "Deleted the API key demo-key (key-1).",
        "Deleted the secret demo-hub-token (sec-1).",
    ]


def test_a_token_that_another_service_uses_stays(deployed: Script, capsys: pytest.CaptureFixture[str]) -> None:
    deployed.on("DELETE", "/manage/v1/secrets/sec-1", Answer(409, {"detail": "The secret is used by: other."}))
    assert run("services", "delete", "demo", "--with-endpoints") == 0
    assert "Kept the secret demo-hub-token: The secret is used by: other." in capsys.readouterr().err


def test_an_endpoint_that_leads_elsewhere_too_keeps_everything(
    deployed: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [endpoint("ep-1", "demo", "demo"), endpoint("ep-2", "both", "demo", "other")]
    deployed.on("GET", "/manage/v1/endpoints", {"items": shared})
    assert run("services", "delete", "demo", "--with-endpoints") == 1
    assert "mooring endpoints point both" in capsys.readouterr().err
    assert deleted(deployed) == []


def test_a_plain_delete_of_a_service_in_use_names_the_option(
    deployed: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = {"detail": "The service 'demo' is used by the endpoint(s): demo.", "nextStep": "Re-point them first."}
    deployed.on("DELETE", "/manage/v1/services/svc-1", Answer(409, refusal))
    assert run("services", "delete", "demo") == 1
    assert "mooring services delete demo --with-endpoints" in capsys.readouterr().err
