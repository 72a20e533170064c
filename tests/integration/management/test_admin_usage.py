"""Usage of finished requests as the API shows it."""

from __future__ import annotations

import httpx
import msgspec

from mooring.core.usage import UsageRecord
from mooring.store.database import Database
from mooring.store.usage import _insert, _row

FIELDS = {
    "requestId", "endpointId", "serviceId", "keyId", "project", "dialect", "status", "promptTokens",
    "completionTokens", "cachedTokens", "reasoningTokens", "estimated", "ended", "ttftMs", "latencyMs", "startedAt",
}  # fmt: skip
RECORD = UsageRecord(
    request_id="r", endpoint_id="ep-1", service_id="svc-1", replica_id="x", key_id="key-1", project="default",
    dialect="openai", operation="chat", status=200, ended="complete", estimated=False, prompt_tokens=3,
    completion_tokens=5, cached_tokens=1, reasoning_tokens=2, started_at=1000.0, ttft_ms=10.5, latency_ms=20.25,
)  # fmt: skip


async def test_requests_are_listed_newest_first_page_by_page(client: httpx.AsyncClient, db: Database) -> None:
    records = [msgspec.structs.replace(RECORD, request_id=f"r{n}", started_at=1000.0 + n // 2) for n in range(7)]
    async with db.transaction(serial=False) as tx:
        await _insert(tx, [_row(record) for record in records])

    async def ids(**query: str) -> list[str]:
        found: list[str] = []
        cursor = ""
        while True:
            path, params = "/manage/v1/usage/requests", {**query, "limit": "2", "cursor": cursor}
            page = (await client.get(path, params=params)).json()
            assert all(set(item) == FIELDS for item in page["items"])
            found += [item["requestId"] for item in page["items"]]
            if page["nextCursor"] is None:
                return found
            cursor = page["nextCursor"]

    assert await ids() == ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
    assert await ids(requestId="r3") == ["r3"]
    (one,) = (await client.get("/manage/v1/usage/requests", params={"requestId": "r3"})).json()["items"]
    assert one["startedAt"] == "1970-01-01T00:16:41.000Z"
    assert await ids(since="1002") == ["r6", "r5", "r4"]
    assert await ids(since="1970-01-01T00:16:42Z") == ["r6", "r5", "r4"]
    assert await ids(since="1970-01-01T00:16:42+00:00", endpoint="ep-1", key="key-1", service="svc-1") != []
    assert await ids(endpoint="ep-2") == []
    sums = (await client.get("/manage/v1/usage?by=key")).json()["items"]
    assert sums == [
        {
            "name": "key-1", "requests": 7, "errors": 0, "promptTokens": 21, "completionTokens": 35,
            "cachedTokens": 7, "reasoningTokens": 14,
        }
    ]  # fmt: skip
