"""A model service is changed while it is used: nobody who calls it notices, and what does not come up goes back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.callers import Ledger, busy, check_usage, until_async
from tests.e2e.conftest import MakePlatform
from tests.e2e.running import Platform, until

import mooring

SERVICE = "services/mooring-demo"
CALLERS = 50
MODEL = Path(mooring.__file__).parent / "assets" / "mooring-demo.gguf"


@pytest.fixture(scope="module")
def shared_demo(make_module_platform: MakePlatform) -> Platform:
    """Return a platform whose demo service each test leaves with its first spec and one replica."""
    return make_module_platform().start()


def service(platform: Platform) -> dict[str, Any]:
    return platform.manage("GET", SERVICE)


def replicas(platform: Platform) -> list[dict[str, Any]]:
    return platform.manage("GET", f"{SERVICE}/replicas")["items"]


async def test_a_rolling_update_and_a_broken_one_fail_no_call_of_fifty_callers(make_platform: MakePlatform) -> None:
    platform = make_platform().start()
    until(lambda: service(platform)["status"]["state"] == "healthy", "the demo service")
    (before,) = replicas(platform)
    ledger = Ledger()
    async with busy(platform, ledger, callers=CALLERS):
        await until_async(lambda: ledger.answered > CALLERS, "answers of the old version")
        platform.manage("PATCH", SERVICE, {"spec": {"args": ["--ctx-size=4096", "--parallel=2"]}})
        await until_async(lambda: service(platform)["status"]["currentReplicas"] == 1, "the new version", 60)
        await until_async(lambda: [one["id"] for one in replicas(platform)] != [before["id"]], "another replica", 60)
        await until_async(lambda: len(replicas(platform)) == 1, "the end of the old replica", 60)
        updated = service(platform)["status"]
        assert (updated["state"], updated["specVersion"]) == ("healthy", 2)
        # A context that no machine has room for is refused before it starts; the version before keeps serving.
        platform.manage("PATCH", SERVICE, {"spec": {"args": ["--ctx-size=2000000000"]}})
        await until_async(lambda: "rolledBack" in service(platform)["status"].get("detail", {}), "the roll-back", 60)
        answered = ledger.answered
        await until_async(lambda: ledger.answered > answered + CALLERS, "answers after the roll-back")
    back = service(platform)
    assert back["spec"]["args"] == ["--ctx-size=4096", "--parallel=2"]
    assert back["status"]["detail"]["rolledBack"]["version"] == 3
    assert "KV cache" in back["status"]["detail"]["rolledBack"]["reason"], "the refusal shows the sum"
    assert ledger.broken == []
    assert {heard.status for heard in ledger.heard} == {200}
    check_usage(platform, ledger)


async def test_an_engine_that_refuses_its_new_arguments_goes_back_by_itself_and_says_why(
    shared_demo: Platform,
) -> None:
    platform = shared_demo
    until(lambda: service(platform)["status"]["state"] == "healthy", "the demo service")
    ledger = Ledger()
    async with busy(platform, ledger, callers=8):
        # Taken by the rules, refused by the engine: a quantised V cache needs flash attention.
        args = ["--cache-type-v=q4_0", "--flash-attn=off"]
        platform.manage("PATCH", SERVICE, {"spec": {"args": args}})
        await until_async(lambda: "rolledBack" in service(platform)["status"].get("detail", {}), "the roll-back", 60)
        answered = ledger.answered
        await until_async(lambda: ledger.answered > answered + 8, "answers after the roll-back")
    told = service(platform)
    assert told["spec"].get("args", []) == []
    assert told["status"]["state"] == "healthy"
    assert "Failed 3 times in a row" in told["status"]["reason"]
    reasons = [event["reason"] for event in platform.manage("GET", f"{SERVICE}/events")["items"]]
    assert "RolledBack" in reasons
    assert ledger.broken == []


def test_another_kind_of_call_starts_the_engine_anew_and_is_then_answered(
    make_platform: MakePlatform, tmp_path: Path
) -> None:
    shutil.copy(MODEL, tmp_path / "own.gguf")
    platform = make_platform("--no-demo", "--model-roots", str(tmp_path)).start()
    platform.create("services", "own", {"model": {"source": "local", "path": str(tmp_path / "own.gguf")}})
    asked = {"model": "own", "input": "Hello"}
    until(lambda: platform.chat(model="own").status == 200, "the model", 60)
    refused = platform.call("POST", "/v1/embeddings", asked)
    assert (refused.status, refused.json["error"]["code"]) == (400, "unsupported_type")
    platform.manage("PATCH", "services/own", {"spec": {"types": ["chat", "embedding"]}})
    until(lambda: platform.call("POST", "/v1/embeddings", asked).status == 200, "embeddings", 60)


@pytest.mark.slow
async def test_a_service_is_scaled_by_hand_stopped_and_started_and_shows_what_it_uses(
    shared_demo: Platform,
) -> None:
    platform = shared_demo
    until(lambda: service(platform)["status"]["state"] == "healthy", "the demo service")
    platform.manage("POST", f"{SERVICE}/scale", {"replicas": 3})
    until(lambda: service(platform)["status"]["readyReplicas"] == 3, "three replicas", 60)
    used = [one["usage"] for one in replicas(platform)]
    assert all(one["memoryBytes"] > 5 << 20 and one["cpuSeconds"] > 0 for one in used)
    machine = platform.manage("GET", "machine")
    assert machine["memoryBytes"]["total"] > machine["memoryBytes"]["reserved"] > 3 << 20
    platform.manage("POST", f"{SERVICE}/scale", {"replicas": 1})
    until(lambda: len(replicas(platform)) == 1, "one replica", 60)
    assert platform.chat().status == 200
    platform.manage("POST", f"{SERVICE}/stop")
    until(lambda: service(platform)["status"]["state"] == "stopped", "the stop", 60)
    assert replicas(platform) == []
    platform.manage("POST", f"{SERVICE}/start")
    until(lambda: service(platform)["status"]["state"] == "healthy", "the start", 60)
    assert platform.chat().status == 200
