"""Answers on their way back: which relay a stream gets, what a whole answer becomes, how an upstream's error reads."""

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
from mooring.gateway.answers.moderation import Checker, ModeratedRelay
from mooring.gateway.dialects.messages import kind_of
from mooring.gateway.dialects.operations import STREAMED, TRANSLATED
from mooring.gateway.quirks import quirks_of
from mooring.gateway.streams.normalise import NormalisingRelay
from mooring.gateway.streams.repairs import Shape
from mooring.gateway.streams.sse import EventRelay
from mooring.gateway.streams.usage import Usage, usage_of
from mooring.gateway.streams.whole import Joiner, Whole, begins_stream, read_answer
from mooring.gateway.translate import Translation, messages
from mooring.gateway.translate.native import NativeRelay, usage_in

_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def event_relay(ticket: Ticket, request_id: str, started_at: float, checker: Checker | None) -> Relay:
    """Return the relay for one streamed answer."""
    if ticket.operation in TRANSLATED:
        return NativeRelay()
    quirks = ticket.service.quirks
    relay = NormalisingRelay(shape_of(ticket, request_id, started_at)) if quirks is None else quirks.event_relay(ticket)
    if ticket.checked and checker is not None:
        relay = ModeratedRelay(relay, ticket, checker)
    return relay if ticket.translation is None else TranslatedRelay(relay, ticket, ticket.translation, request_id)


class TranslatedRelay:
    """Says the stream that another relay lets out in the caller's API."""

    def __init__(
        self, inner: EventRelay | ModeratedRelay, ticket: Ticket, translation: Translation, request_id: str
    ) -> None:
        self._inner = inner
        self._translator = translation.Translator(ticket.original, request_id)

    def __getattr__(self, name: str) -> Any:
        """Return what the inner relay knows of the stream."""
        return getattr(self._inner, name)

    @property
    def failed(self) -> dict[str, Any] | None:
        """What has ended the stream: what its service said, or that it can't be read."""
        if self._inner.failed is not None or not self._translator.failed:
            return self._inner.failed
        return {"message": self._translator.failed}

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came, return the events that may leave."""
        return self._translator.feed(self._inner.feed(data))

    def end(self, clean: bool) -> bytes:
        """Return what is left when the upstream has ended."""
        return self._translator.feed(self._inner.end(clean))

    def tail(self, usage: Usage | None, *, estimated: bool) -> bytes:
        """Return the very last events."""
        return self._translator.feed(self._inner.tail(usage, estimated=estimated)) + self._translator.end()

    def error_event(self, error: MooringError) -> bytes:
        """Return the events that end a stream which can't go on."""
        return self._translator.error_event(kind_of(error), f"{error.message} {error.next_step}".strip(), error.code)


def error_event(relay: Relay, ticket: Ticket, error: MooringError, request_id: str) -> bytes:
    """Return what ends a stream that can't go on, in the caller's format."""
    if isinstance(relay, TranslatedRelay):
        return relay.error_event(error)
    return ticket.route.dialect.error_event(error, request_id)


def said_in_its_api(ticket: Ticket, body: bytes, request_id: str) -> bytes:
    """Return a whole answer in the caller's format.

    Raises:
        UpstreamFailed: it can't be read.
    """
    if ticket.route.operation == "count_tokens" and ticket.operation == "tokenize":
        return messages.count_answer(body)
    return body if ticket.translation is None else ticket.translation.from_chat(body, ticket.original, request_id)


def shape_of(ticket: Ticket, request_id: str, started_at: float) -> Shape:
    """Return what the answer of a service that runs elsewhere must look like."""
    return Shape(
        ticket.operation,
        ticket.wants_usage,
        ticket.service.entry.served_model,
        request_id,
        int(started_at),
        ticket.prompt_estimate,
        ticket.known,
    )


def whole_answer(ticket: Ticket, body: bytes) -> bytes:
    """Return a complete JSON answer of an engine that we know as the caller shall see it."""
    quirks = ticket.service.quirks
    return body if quirks is None else quirks.whole_answer(ticket, body)


def read_whole(ticket: Ticket, body: bytes, content_type: bytes, shape: Shape) -> Whole | None:
    """Return a complete answer as the caller shall see it, None when it can't be read.

    For a caller who asked for a stream the body holds its events; else it is JSON.
    """
    if ticket.operation in TRANSLATED:
        return Whole(body, usage_in(body)) if _is_json(body) else None
    if ticket.service.quirks is not None or ticket.operation not in STREAMED:
        return Whole(whole_answer(ticket, body), usage_of(body)) if _is_json(body) else None
    whole = read_answer(body, shape)
    if whole is not None or ticket.stream:
        return whole
    if is_event_stream(content_type) or begins_stream(body + b"\n"):
        joined = Joiner(shape).join(body)
        if joined is not None:
            return joined
    return Whole(body, usage_of(body)) if body.lstrip()[:1] == b"{" and _is_json(body) else None


def _is_json(body: bytes) -> bool:
    if body[:1] != b"{" and body.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        _check_json(body)
    except RecursionError:
        return True  # deeper than we look
    except msgspec.DecodeError:
        return False
    return True


def is_event_stream(content_type: bytes) -> bool:
    """True for `text/event-stream`, whatever its parameters."""
    return content_type[:17].lower() == b"text/event-stream"


def ended_by(failed: dict[str, Any], entry: ServiceEntry) -> MooringError:
    """Return the refusal that stands for the error object with which a service ended its answer."""
    code = failed.get("code", failed.get("status"))
    status = int(code) if isinstance(code, int | float) and 400 <= code < 600 else 502
    return upstream_error(status, msgspec.json.encode({"error": failed}), entry, b"")


Relay = EventRelay | ModeratedRelay | TranslatedRelay


def is_openai_error(body: bytes) -> bool:
    """True for `{"error": {"message": …, "type": …}}`."""
    error = _member(_read(body), "error")
    return isinstance(_member(error, "message"), str) and isinstance(_member(error, "type"), str)


def names_stream_options(body: bytes) -> bool:
    """Return whether a refusal is about what we add to a stream's request."""
    return b"stream_options" in body or b"include_usage" in body


def upstream_error(status: int, body: bytes, entry: ServiceEntry, retry_after: bytes) -> MooringError:
    """Return the refusal that stands for an upstream's error answer.

    A refused credential is ours to mend, not the caller's: it reads as 502. Everything else keeps its status and the
    engine's own message.
    """
    if status in (401, 403):
        return UpstreamFailed(
            f"The service {entry.name} refused the platform's credential.",
            next_step="Ask the administrator to correct the service's secret.",
        )
    error = _meaning(status, body, entry, retry_after)
    error.from_engine = True
    return error


def _meaning(status: int, body: bytes, entry: ServiceEntry, retry_after: bytes) -> MooringError:
    read = _read(body)
    message = _message(read) or f"The service {entry.name} answered {status} without a message."
    seconds = float(retry_after) if retry_after.isdigit() and len(retry_after) <= 6 else None
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
