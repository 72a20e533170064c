"""How every engine that we start is asked, against a server that answers as the real one was recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mooring.testing.engines.recorded import RecordedEngine, answer_of, read_cases

RECORDED = Path(__file__).parent / "recorded"


async def test_an_engine_that_serves_is_ready_and_tells_its_context(subject: Any, tmp_path: Path) -> None:
    engine = subject.recorded()
    async with engine.listening(tmp_path / "e.sock") as address:
        probe = await subject.module.probe(address, engine.key)
    assert (probe.state, probe.context_length) == ("ready", subject.context_length)
    assert engine.seen[0] == "/health"


async def test_an_engine_that_does_not_know_the_key_is_a_stranger(subject: Any, tmp_path: Path) -> None:
    engine = subject.recorded()
    async with engine.listening(tmp_path / "e.sock") as address:
        probe = await subject.module.probe(address, "another key")
    assert probe.state == "stranger"
    assert probe.reason


async def test_it_tells_how_many_requests_it_works_on(subject: Any, tmp_path: Path) -> None:
    engine = subject.recorded()
    async with engine.listening(tmp_path / "e.sock") as address:
        assert await subject.module.in_flight(address, engine.key) == 0


async def test_nobody_on_the_socket_is_not_ready_and_counts_nothing(subject: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/absent.sock"
    assert (await subject.module.probe(address, "k")).state in ("starting", "unreachable")
    assert await subject.module.in_flight(address, "k") is None


async def test_one_who_accepts_and_says_nothing_is_unreachable_in_time(subject: Any, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    async with await asyncio.start_unix_server(silent, tmp_path / "e.sock"):
        address = f"unix:{tmp_path}/e.sock"
        assert (await subject.module.probe(address, "k", timeout_s=0.05)).state == "unreachable"
        assert await subject.module.in_flight(address, "k", timeout_s=0.05) is None
        release.set()


@pytest.mark.parametrize(
    "body", ["", "null", "[]", '{"data": 1}', '{"default_generation_settings": []}', "\x00", "<html>"]
)
@pytest.mark.parametrize("status", [200, 404, 500, 503])
async def test_no_strange_answer_breaks_the_asking(subject: Any, tmp_path: Path, status: int, body: str) -> None:
    strange = {"request": {"path": "/"}, "status": status, "headers": {"content-type": "text/plain"}, "body": body}
    engine = RecordedEngine({"unknown_path": strange}, "k")
    async with engine.listening(tmp_path / "e.sock") as address:
        probe = await subject.module.probe(address, "k")
        assert await subject.module.in_flight(address, "k") in (None, 0)
    assert probe.state in ("starting", "ready", "unreachable")
    assert (probe.context_length, probe.slots) == (0, 0)


# --- the recorded files themselves


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_every_recorded_case_is_whole(path: Path) -> None:
    cases = read_cases(path)
    assert len(cases) > 40
    for name, case in cases.items():
        assert {"method", "path", "body"} == set(case["request"]), name
        assert ("body" in case) != ("stream" in case), name
        assert answer_of(case).startswith(b"HTTP/1.1 "), name


def test_the_two_engines_were_asked_the_same() -> None:
    llamacpp, vllm = (read_cases(RECORDED / f"{name}.json") for name in ("llamacpp", "vllm"))
    both = set(llamacpp) & set(vllm) - {"tokenize", "detokenize"}
    assert len(both) > 35
    for name in sorted(both):
        asked = [json.dumps(cases[name]["request"]) for cases in (llamacpp, vllm)]
        assert asked[0].replace("mooring-demo", "tiny") == asked[1], name


def test_the_differences_the_gateway_makes_good_are_as_recorded() -> None:
    llamacpp, vllm = (read_cases(RECORDED / f"{name}.json") for name in ("llamacpp", "vllm"))

    def message(cases: dict[str, Any]) -> dict[str, Any]:
        return cases["chat"]["body"]["choices"][0]["message"]

    assert "reasoning_content" in message(llamacpp)
    assert "reasoning" in message(vllm)
    assert "reasoning_content" not in message(vllm)
    assert (llamacpp["unknown_model"]["status"], vllm["unknown_model"]["status"]) == (200, 404)
    assert (llamacpp["temperature_negative"]["status"], vllm["temperature_negative"]["status"]) == (200, 400)
    assert llamacpp["text"]["body"]["id"].startswith("chatcmpl-")
    assert vllm["text"]["body"]["id"].startswith("cmpl-")
