"""Callers that leave, and callers that never stop coming: nothing may stay behind."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator

import httpx
from tests.e2e.callers import CHAT, Ledger, ask, check_usage, events_of, long_chat, short_chat, until_async
from tests.e2e.running import Platform, descriptors, proportional_kib

STREAMS = 200
REQUESTS = 2000
AT_ONCE = 20


async def seconds_of_an_answer(client: httpx.AsyncClient, platform: Platform) -> float:
    """Return the median of five small answers, one after the other."""
    taken = []
    for _ in range(5):
        begun = time.monotonic()
        assert (await client.post(CHAT, json=short_chat(platform, 0))).status_code == 200
        taken.append(time.monotonic() - begun)
    return statistics.median(taken)


@contextlib.asynccontextmanager
async def many_streams(platform: Platform) -> AsyncIterator[None]:
    """Hold STREAMS endless streams open; at the end their clients leave, all at once."""
    worker = platform.pid("gateway")
    files = descriptors(worker)
    files, reading = descriptors(worker), asyncio.Event()

    async def listen(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", CHAT, json=long_chat(platform)) as answer:
            async for _ in events_of(answer):
                reading.set()

    async with platform.client() as client:
        tasks = [asyncio.create_task(listen(client)) for _ in range(STREAMS)]
        try:
            await asyncio.wait_for(reading.wait(), 20)
            # a connection from every caller; the engine gets a few at a time, the others wait in the gateway
            await until_async(lambda: descriptors(worker) >= files + STREAMS, "all callers connected")
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_two_hundred_streams_left_at_once_free_the_engine(shared: Platform) -> None:
    ledger = Ledger()
    async with shared.client() as client:
        before = await seconds_of_an_answer(client, shared)
        async with many_streams(shared):
            pass
        await until_async(lambda: shared.engine_load() == 0, "an idle engine", 2.0)
        assert await seconds_of_an_answer(client, shared) < 2 * before + 0.05
        assert (await ask(client, ledger, short_chat(shared, 1))).complete
    check_usage(shared, ledger)


async def test_an_engine_with_two_hundred_streams_still_answers_its_probe(shared: Platform) -> None:
    async with many_streams(shared):
        end = time.monotonic() + 3.0
        while time.monotonic() < end:  # each time on a new connection, as the platform's own probe does
            assert await asyncio.to_thread(shared.engine_load) > 0
    await until_async(lambda: shared.engine_load() == 0, "an idle engine", 2.0)


async def test_a_left_stream_is_recorded_with_what_was_delivered(shared: Platform) -> None:
    async with (
        shared.client() as client,
        client.stream("POST", CHAT, json=long_chat(shared)) as answer,
    ):
        read = 0
        async for _ in events_of(answer):
            read += 1
            if read == 40:
                break
    path = f"usage/requests?requestId={answer.headers['x-request-id']}"
    (record,) = await until_async(lambda: shared.manage("GET", path)["items"], "the record", 3.0)
    assert record["ended"] == "aborted" and record["estimated"]
    assert 30 <= record["completionTokens"] <= 1900
    assert record["promptTokens"] > 0


async def test_two_thousand_requests_leave_no_descriptor_and_no_memory(shared: Platform) -> None:
    worker = shared.pid("gateway")

    async def run(requests: int) -> None:
        """All kinds of endings: answers, streams, streams left in the middle, refusals."""
        numbers = iter(range(requests))

        async def call_on() -> None:
            for number in numbers:
                kind = number % 10
                if kind == 8:
                    async with client.stream("POST", CHAT, json=long_chat(shared, tokens=40)) as answer:
                        async for _ in events_of(answer):
                            break
                elif kind == 9:
                    refused = {**short_chat(shared, 0), "model": "nobody-serves-this"}
                    assert (await client.post(CHAT, json=refused)).status_code == 404
                else:
                    await ask(client, ledger, {**short_chat(shared, number), "max_tokens": 2})

        async with shared.client() as client:
            await asyncio.gather(*(call_on() for _ in range(AT_ONCE)))

    ledger = Ledger()
    await run(REQUESTS // 4)
    await until_async(lambda: shared.engine_load() == 0, "an idle engine")
    files, memory = descriptors(worker), proportional_kib(worker)
    await run(REQUESTS)
    await until_async(lambda: shared.engine_load() == 0, "an idle engine")
    await until_async(lambda: descriptors(worker) <= files + 2, "closed descriptors", 5.0)
    assert proportional_kib(worker) <= memory + (3 << 10)
    assert not ledger.broken
    check_usage(shared, ledger)
