"""LoRA adapters on the real engine: each caller gets the one it asked for, whoever calls beside, whatever changes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
from tests.e2e.callers import until_async
from tests.e2e.conftest import MakePlatform
from tests.e2e.running import Platform, until

import mooring
from mooring.testing.engines.files import write_demo_adapter
from mooring.testing.hub import FakeHub

MODEL = Path(mooring.__file__).parent / "assets" / "mooring-demo.gguf"
ASKED = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 16}


def service(platform: Platform) -> dict[str, Any]:
    return platform.manage("GET", "services/base")


async def answer(client: httpx.AsyncClient, model: str) -> str:
    told = (await client.post("/v1/chat/completions", json={**ASKED, "model": model})).json()
    return str(told["choices"][0]["message"]) if "choices" in told else f"refused: {told['error']['code']}"


async def test_adapters_of_a_service_are_called_by_name_and_survive_a_change_of_their_order(
    make_platform: MakePlatform, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(MODEL, models / "base.gguf")
    poet = {"name": "poet", "model": {"source": "local", "path": str(write_demo_adapter(models / "poet.gguf", 7))}}
    remote = write_demo_adapter(tmp_path / "lawyer.gguf", 8).read_bytes()
    platform = make_platform("--no-demo", "--model-roots", str(models)).start()
    with FakeHub() as hub:
        hub.add("org/lawyer", {"lawyer.gguf": remote})
        source = {"source": "huggingface", "name": "org/lawyer", "mirror": hub.url}
        lawyer = {"name": "lawyer", "model": source}
        model = {"source": "local", "path": str(models / "base.gguf")}
        platform.create("services", "base", {"model": model, "adapters": [poet, lawyer], "replicas": 2})
        until(lambda: service(platform)["status"]["readyReplicas"] == 2, "two replicas", 60)

    async with platform.client() as client:
        wanted = {name: await answer(client, name) for name in ("base", "base:poet", "base:lawyer")}
        assert len(set(wanted.values())) == 3, "each adapter answers in its own way"
        listed = [one["id"] for one in (await client.get("/v1/models")).json()["data"]]
        assert listed == ["base", "base:poet", "base:lawyer"]
        assert await answer(client, "base:priest") == "refused: model_not_found"

        wrong: list[tuple[str, str]] = []
        over = asyncio.Event()

        async def call_on(name: str) -> None:
            while not over.is_set():
                if (got := await answer(client, name)) != wanted[name]:
                    wrong.append((name, got))

        callers = [asyncio.create_task(call_on(name)) for name in wanted for _ in range(2)]
        platform.manage("PATCH", "services/base", {"spec": {"adapters": [lawyer, poet]}})
        await until_async(
            lambda: service(platform)["status"]["currentReplicas"] == 2 and len(_replicas(platform)) == 2,
            "the new order everywhere",
            90,
        )
        over.set()
        await asyncio.gather(*callers)
    assert wrong == [], "the number of an adapter is another one on the old replicas"


def _replicas(platform: Platform) -> list[Any]:
    return platform.manage("GET", "services/base/replicas")["items"]
