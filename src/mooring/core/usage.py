"""What one finished request used: the record the gateway journals and control ingests."""

from __future__ import annotations

from typing import Literal

import msgspec

Ended = Literal["complete", "aborted", "error"]


class UsageRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One inference request, written once at its end. Fields are only ever appended (layout n and n-1 are read)."""

    request_id: str
    endpoint_id: str  # "" when a service was addressed directly
    service_id: str
    replica_id: str
    key_id: str
    project: str
    dialect: str
    operation: str  # chat | completion | embedding | …
    status: int  # HTTP status sent to the caller; 499 if it left before one was sent
    ended: Ended
    estimated: bool  # the counts are ours, not the engine's
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    started_at: float  # Unix seconds
    ttft_ms: float  # 0 when no body byte came
    latency_ms: float


encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(UsageRecord).decode
