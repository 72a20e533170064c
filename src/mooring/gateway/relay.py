"""Answers on their way back: which relay a stream gets, how an upstream's error reads outside."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from mooring.core.errors import (
    Invalid,
    MooringError,
    NotFound,
    RateLimited,
    Unavailable,
    UpstreamFailed,
)
from mooring.core.snapshot import ServiceEntry
from mooring.gateway.admission import Ticket
from mooring.gateway.quirks import quirks_of
from mooring.gateway.streams.sse import EventRelay


def event_relay(ticket: Ticket) -> EventRelay:
    """Return the relay for one streamed answer."""
    quirks = ticket.service.quirks
    return EventRelay(ticket.wants_usage) if quirks is None else quirks.event_relay(ticket)


def whole_answer(ticket: Ticket, body: bytes) -> bytes:
    """Return a complete JSON answer as the caller shall see it."""
    quirks = ticket.service.quirks
    return body if quirks is None else quirks.whole_answer(ticket, body)


def is_openai_error(body: bytes) -> bool:
    """True for `{"error": {"message": …, "type": …}}`."""
    error = _member(_read(body), "error")
    return isinstance(_member(error, "message"), str) and isinstance(_member(error, "type"), str)


def upstream_error(status: int, body: bytes, entry: ServiceEntry, retry_after: bytes) -> MooringError:
    """Return the refusal that stands for an upstream's error answer.

    A refused credential is ours to mend, not the caller's: it reads as 502. Everything else keeps its status and the
    engine's own message.
    """
    read = _read(body)
    message = _message(read) or f"The service {entry.name} answered {status} without a message."
    seconds = float(retry_after) if retry_after.isdigit() and len(retry_after) <= 6 else None
    if status in (401, 403):
        return UpstreamFailed(
            f"The service {entry.name} refused the platform's credential.",
            next_step="Ask the administrator to correct the service's secret.",
        )
    error: Any = _member(read, "error")
    quirks = quirks_of(entry.engine)
    if quirks is not None:
        members = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
        meant = quirks.refusal(status, members, message, entry)
        if meant is not None:
            return meant
    if status == 404:
        return NotFound(message, code="upstream_not_found", next_step="Check the service's URL and served model name.")
    if status == 429:
        return RateLimited(message, code="upstream_rate_limited", retry_after_s=seconds or 1.0)
    if status == 503:
        return Unavailable(message, retry_after_s=seconds or 1.0)
    if status >= 500 or status < 400 or status == 407:
        return UpstreamFailed(message, code="upstream_error")
    param = _member(error, "param")
    refusal = Invalid(message, next_step="", param=param if isinstance(param, str) else None)
    refusal.status = status
    return refusal


def _read(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _message(body: Any) -> str:
    """Find the sentence in the error shapes of the field: OpenAI, FastAPI, plain."""
    for candidate in (_member(_member(body, "error"), "message"), _member(body, "error"), _member(body, "message")):
        if isinstance(candidate, str) and candidate:
            return candidate[:2000]
    detail = _member(body, "detail")
    if isinstance(detail, str):
        return detail[:2000]
    return msgspec.json.encode(detail).decode()[:2000] if detail else ""
