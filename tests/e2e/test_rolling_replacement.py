"""SIGHUP replaces every gateway worker while callers are being served: none of them notices."""

from __future__ import annotations

import asyncio
import signal

from tests.e2e.callers import Ledger, ask, busy, check_usage, long_chat, until_async
from tests.e2e.conftest import MakePlatform, MakeUpstream

STREAMS = 50
WORKERS = 2
CHUNKS = 150  # one every 20 ms


async def test_replacing_all_workers_under_fifty_streams_breaks_none(
    make_platform: MakePlatform, make_upstream: MakeUpstream
) -> None:
    platform = make_platform("--gateway-workers", str(WORKERS)).start()
    upstream = make_upstream(chunks=CHUNKS)
    platform.create("external-services", "slow", {"urls": [upstream.url], "servedModel": upstream.name})
    await until_async(lambda: platform.chat(model="slow").status == 200, "the external service")
    before, ledger, streams = platform.pids("gateway"), Ledger(), Ledger()
    assert len(before) == WORKERS
    async with platform.client() as client, busy(platform, ledger, callers=16):
        calls = [asyncio.create_task(ask(client, streams, long_chat(platform, "slow"))) for _ in range(STREAMS)]
        await until_async(lambda: sum(one.pieces > 3 for one in streams.heard) == STREAMS, "running streams")
        assert platform.process
        platform.process.send_signal(signal.SIGHUP)
        await until_async(lambda: len(set(platform.pids("gateway")) - set(before)) == WORKERS, "the successors")
        answered = ledger.answered
        await asyncio.gather(*calls)
        await until_async(lambda: not set(platform.pids("gateway")) & set(before), "the end of the old workers")
        await until_async(lambda: ledger.answered > answered, "answers of the new workers")
    assert [one for one in streams.heard if (one.complete, one.pieces) != (True, CHUNKS)] == []
    assert ledger.broken == []
    check_usage(platform, ledger)
    check_usage(platform, streams)
    assert platform.stop() == 0
