"""What single engines do differently on the wire, made good at the gateway. One module per engine, found by name.

`checks` and `reasoning` are common to the engines that we deploy. What runs elsewhere gets no quirks: its bytes pass.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from mooring.gateway.streams.usage import Usage

if TYPE_CHECKING:
    from mooring.core.errors import MooringError
    from mooring.core.snapshot import ServiceEntry
    from mooring.gateway.admission import Ticket
    from mooring.gateway.http1.body import Edit
    from mooring.gateway.parts import Parts
    from mooring.gateway.routing import Replica
    from mooring.gateway.streams.sse import EventRelay

REGISTRY: dict[str, str] = {
    "llamacpp": "mooring.gateway.quirks.llamacpp",
    "vllm": "mooring.gateway.quirks.vllm",
}


class Answer(NamedTuple):
    """A whole JSON answer and its usage, None where nothing is metered."""

    body: bytes
    usage: Usage | None


# How a request that takes several calls to one replica is carried out; `fit` puts it into the ticket.
Steps = Callable[["Parts", "Ticket", "Replica"], Coroutine[Any, Any, Answer]]


class Quirks(Protocol):
    """What an engine's module offers."""

    def fit(self, ticket: Ticket, body: bytes, edits: list[Edit]) -> bytes:
        """Check the request, add the edits that this engine needs, set what the answer's way back needs.

        Returns the JSON value of `model` to send. Raises Invalid and its kinds.
        """
        ...

    def event_relay(self, ticket: Ticket) -> EventRelay:
        """Return the relay for a streamed answer."""
        ...

    def whole_answer(self, ticket: Ticket, body: bytes) -> bytes:
        """Return a complete JSON answer as the caller shall see it."""
        ...

    def refusal(self, status: int, error: dict[str, Any], message: str, entry: ServiceEntry) -> MooringError | None:
        """Return what an error answer means, None where its status says enough. `error`: the body's error object."""
        ...


def quirks_of(engine: str) -> Quirks | None:
    """Return the module of an engine; imported when it is first needed."""
    path = REGISTRY.get(engine)
    return cast("Quirks", importlib.import_module(path)) if path is not None else None
