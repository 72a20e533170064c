"""What is common to the event streams of the engines we deploy: a failure in the middle reads as any other refusal."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.gateway.admission import Ticket
from mooring.gateway.relay import upstream_error
from mooring.gateway.streams.sse import EventRelay, map_events

ERROR = b'data: {"error"'
ERROR_LENGTH = len(ERROR)


class _ErrorEvent(msgspec.Struct):
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_ErrorEvent).decode


class DeployedRelay(EventRelay):
    """Relays one event stream of a deployed engine.

    Its heirs' `feed` calls `mend_errors` when the data begins with ERROR or holds several events: that is cheaper to
    tell than whether ERROR is somewhere in it.
    """

    __slots__ = ("_ticket",)

    def __init__(self, ticket: Ticket) -> None:
        super().__init__(ticket.wants_usage)
        self._ticket = ticket

    def mend_errors(self, data: bytes) -> bytes:
        """Return whole events in which errors have our shape and our codes."""
        return map_events(data, ERROR, self._error_event) if ERROR in data else data

    def _error_event(self, event: bytes) -> bytes:
        try:
            error = _decode(event.partition(b"data:")[2].strip()).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return event
        if error is None:
            return event
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        refusal = upstream_error(status, msgspec.json.encode({"error": error}), self._ticket.service.entry, b"")
        return self._ticket.route.dialect.error_event(refusal)
