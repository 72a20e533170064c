"""A gateway in front of an engine that says what was recorded of the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mooring.testing.gateway import RunningGateway, endpoint_row, key_row, service_row
from mooring.testing.raw_client import Answer, RawClient
from mooring.testing.upstream import STREAM_HEAD, Line, Received, ScriptedUpstream, chunk, json_response

RECORDED = Path(__file__).parent / "recorded"
STEPS = {"/tokenize": "tokenize", "/detokenize": "detokenize", "/apply-template": "apply_template"}


class Engine:
    """A service of one engine, its gateway and one caller. `says` names the recording that answers."""

    def __init__(self, name: str, upstream: ScriptedUpstream, gateway: RunningGateway, client: RawClient) -> None:
        self.name = name
        self.says = "chat"
        self._recorded = json.loads((RECORDED / f"{name}.json").read_text())
        self._upstream = upstream
        self._gateway = gateway
        self._client = client
        upstream.script = self._answer

    async def _answer(self, received: Received, line: Line) -> None:
        recorded = self.recorded(STEPS.get(received.path, self.says))
        if "stream" not in recorded:
            body = json.dumps(recorded["body"], ensure_ascii=False, separators=(",", ":")).encode()
            await line.send(json_response(body, recorded["status"]))
            return
        await line.send(STREAM_HEAD)
        for event in recorded["stream"]:
            await line.send(chunk(event.encode() + b"\n\n"))
        await line.send(chunk(b""))

    def recorded(self, case: str) -> Any:
        return self._recorded[case]

    async def ask(self, says: str, body: Any, path: str = "/v1/chat/completions", method: str = "POST") -> Answer:
        """Ask while the engine would say the recording `says`."""
        self.says = says
        return await self._client.ask(body, path, method=method)

    @property
    def received(self) -> list[Any]:
        """The bodies that the engine received."""
        return [received.json for received in self._upstream.received]

    def metered(self) -> tuple[int, int]:
        """The sums of prompt and completion tokens that were journalled since the last call."""
        records = self._gateway.records()
        return sum(one.prompt_tokens for one in records), sum(one.completion_tokens for one in records)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run on uvloop, the loop the gateway runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(params=["vllm", "llamacpp"])
async def engine(request, tmp_path):
    """The endpoint ep-1 on a service that serves the model `tiny`, with 1,024 tokens and the adapter `pirate`."""
    upstream = ScriptedUpstream()
    await upstream.start()
    gateway = RunningGateway(tmp_path)
    service = service_row(
        upstream.address,
        engine=request.param,
        external=False,
        served_model="tiny",
        context_length=1024,
        adapters=("other", "pirate"),
    )
    await gateway.start(key_row(), service, endpoint_row())
    client = await RawClient.open(gateway.port)
    yield Engine(request.param, upstream, gateway, client)
    client.close()
    await gateway.stop()
    await upstream.stop()
