"""What the handlers are built with, and how they get at it: `Caller` and `Parts` are FastAPI dependencies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from mooring.control.authentication import Authenticator
from mooring.control.context import Actor
from mooring.control.orders import Orders

ReadLogs = Callable[[str, int], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class AdminParts:
    """The parts of one application. `read_logs(service id, lines)` gives what the engines wrote last."""

    orders: Orders
    authenticator: Authenticator
    read_logs: ReadLogs


def parts_of(request: Request) -> AdminParts:
    """Return the parts that this application was built with."""
    return request.app.state.parts


async def caller_of(request: Request) -> Actor:
    """Return who calls.

    Raises:
        Unauthenticated: nobody we know.
        Forbidden: a key that is for inference only.
        RateLimited: too many wrong passwords.
    """
    return await parts_of(request).authenticator.authenticate(request.headers.get("authorization"))


Caller = Annotated[Actor, Depends(caller_of)]
Parts = Annotated[AdminParts, Depends(parts_of)]
