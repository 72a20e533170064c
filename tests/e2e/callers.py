"""Callers that write down what they received, so that it can be compared with what the platform counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.e2e.running import Platform, until

VISIBLE_S = 5.0  # a usage record shows at most so long after its request ended, a recovered one a little later
HANGS_S = 45.0
CHAT = "/v1/chat/completions"


@dataclass
class Heard:
    """What one caller received of one answer. `request_id` is "" when not even a head came."""

    request_id: str = ""
    status: int = 0
    complete: bool = False
    usage: tuple[int, int] | None = None  # prompt and completion tokens, as the answer told
    pieces: int = 0  # events of a stream that carried text
    error: str = ""


@dataclass
class Ledger:
    """Everything that callers of one platform received."""

    heard: list[Heard] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return sum(heard.complete for heard in self.heard)

    @property
    def broken(self) -> list[Heard]:
        return [heard for heard in self.heard if not heard.complete]


def long_chat(platform: Platform, model: str = "", tokens: int = 1900) -> dict[str, Any]:
    """Return the body of a stream that goes on until `tokens` were written."""
    return {
        "model": model or platform.endpoint,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def short_chat(platform: Platform, number: int, model: str = "") -> dict[str, Any]:
    """Return the body of a small call: every second one is a stream."""
    body: dict[str, Any] = {
        "model": model or platform.endpoint,
        "messages": [{"role": "user", "content": f"Say number {number % 7}"}],
        "max_tokens": 24,
        "temperature": 0,
    }
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if number % 2 else body


async def ask(client: httpx.AsyncClient, ledger: Ledger, body: dict[str, Any]) -> Heard:
    """Make one call to its end, however it ends. Fails if it neither ends nor breaks."""
    heard = Heard()
    ledger.heard.append(heard)
    try:
        async with asyncio.timeout(HANGS_S):
            await _ask(client, heard, body)
    except httpx.TransportError as error:
        heard.error = f"{type(error).__name__}: {error}"
    return heard


async def _ask(client: httpx.AsyncClient, heard: Heard, body: dict[str, Any]) -> None:
    async with client.stream("POST", CHAT, json=body) as answer:
        heard.request_id, heard.status = answer.headers.get("x-request-id", ""), answer.status_code
        if "event-stream" in answer.headers.get("content-type", ""):
            async for event in events_of(answer):
                _take(heard, event)
            return
        told = json.loads(await answer.aread())
        if answer.status_code == 200:
            heard.usage = (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"])
            heard.complete = True
        else:
            heard.error = told["error"]["code"]


async def events_of(answer: httpx.Response) -> AsyncIterator[str]:
    """Yield the data of each event of a stream."""
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def _take(heard: Heard, event: str) -> None:
    if event == "[DONE]":
        heard.complete = not heard.error
        return
    told = json.loads(event)
    if told.get("error"):
        heard.error = told["error"]["code"]
    if told.get("usage"):
        heard.usage = (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"])
    delta = told["choices"][0].get("delta", {}) if told.get("choices") else {}
    heard.pieces += bool(delta.get("content") or delta.get("reasoning_content"))


@contextlib.asynccontextmanager
async def busy(platform: Platform, ledger: Ledger, callers: int = 8, model: str = "") -> AsyncIterator[None]:
    """Keep `callers` calling while the block runs; leave when each has the end of its last call."""
    over = asyncio.Event()

    async def call_on(number: int) -> None:
        while not over.is_set():
            heard = await ask(client, ledger, short_chat(platform, number, model))
            number += 1
            if not heard.complete:
                await asyncio.sleep(0.05)  # as a client's back-off would

    async with platform.client() as client:
        tasks = [asyncio.create_task(call_on(number)) for number in range(callers)]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*tasks)


async def until_async(condition: Any, what: str, timeout_s: float = 20.0) -> Any:
    """Poll as `until` does, and let callers go on meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for: {what}"
        await asyncio.sleep(0.02)
    return found


def check_usage(platform: Platform, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Compare the platform's records with what callers received; return the records by request id."""
    seen = [heard for heard in ledger.heard if heard.request_id]
    wanted = {heard.request_id for heard in seen}
    assert len(wanted) == len(seen), "a request id was given twice"
    records: list[dict[str, Any]] = []

    def all_there() -> bool:
        records[:] = platform.usage()
        return wanted <= {record["requestId"] for record in records}

    try:
        until(all_there, "all usage records", VISIBLE_S)
    except AssertionError:
        lost = wanted - {record["requestId"] for record in records}
        raise AssertionError(
            f"{len(lost)} of {len(wanted)} records are lost: {[h for h in seen if h.request_id in lost][:5]}"
        ) from None
    doubled = [name for name, times in Counter(record["requestId"] for record in records).items() if times > 1]
    assert not doubled, doubled
    by_id = {record["requestId"]: record for record in records}
    wrong = [(heard, by_id[heard.request_id]) for heard in seen if not _agree(heard, by_id[heard.request_id])]
    assert not wrong, wrong[:3]
    return by_id


def _agree(heard: Heard, record: dict[str, Any]) -> bool:
    if record["status"] != heard.status:
        return False
    if heard.complete:
        counted = (record["promptTokens"], record["completionTokens"])
        return record["ended"] == "complete" and not record["estimated"] and counted == heard.usage
    if heard.status != 200:
        return record["ended"] == "error"
    return True  # broken off on its way to the caller: what was counted depends on where
