"""What admission makes of a request to one deployed service, without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mooring.gateway.admission import Ticket, admit
from mooring.gateway.dialects import openai
from mooring.gateway.dialects.route import Route
from mooring.gateway.snapshot import Table
from mooring.testing.gateway import PEPPER, key_row, service_row

Admitted = Callable[..., tuple[Ticket, Any]]


@pytest.fixture
def admitted() -> Iterator[Admitted]:
    """Admit `body` (JSON or bytes) to the service `m` on `engine`; return the ticket and the body to send, read."""
    loop = asyncio.new_event_loop()

    def ask(engine: str, operation: str, body: Any, **service: Any) -> tuple[Ticket, Any]:
        table = Table(loop, "epoch", 1, PEPPER)
        table.apply([key_row(), service_row([], name="m", external=False, engine=engine, **service)])
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        ticket = admit(data, table.authenticate(b"mk-test"), Route(operation, openai), table)
        return ticket, json.loads(b"".join(ticket.body))

    yield ask
    loop.close()
