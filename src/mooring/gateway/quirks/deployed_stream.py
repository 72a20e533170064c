"""What is common to the event streams of the engines we deploy: an error in the middle is the end."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.gateway.admission import Ticket
from mooring.gateway.streams.sse import DONE, EventRelay

ERROR = b'data: {"error"'
ERROR_LENGTH = len(ERROR)


class _ErrorEvent(msgspec.Struct):
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_ErrorEvent).decode


class DeployedRelay(EventRelay):
    """Relays one event stream of a deployed engine.

    Its heirs' `feed` calls `stop_at_error` when the data begins with ERROR or holds several events: that is cheaper
    to tell than whether ERROR is somewhere in it.
    """

    __slots__ = ()

    def __init__(self, ticket: Ticket) -> None:
        super().__init__(ticket.wants_usage)

    def stop_at_error(self, data: bytes) -> bytes:
        """Return the whole events before an error of the engine; it ends the stream."""
        at = data.find(ERROR)
        if at < 0:
            return data
        try:
            error = _decode(data[at:].partition(b"\n\n")[0].partition(b"data:")[2].strip()).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            error = {}
        self.failed = error if error else {"message": ""}
        return data[:at]

    def end(self, clean: bool) -> bytes:
        """Return what is left when the engine has ended. Without its own end, the stream is broken."""
        rest = super().end(clean)
        if DONE not in rest and not self.finished:
            self.broken = True
        return rest
