"""What the handlers are built with, and how they get at it: `Caller` and `Parts` are FastAPI dependencies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request

from mooring.control import terms
from mooring.control.authentication import Authenticator
from mooring.control.context import Actor
from mooring.control.orders import Orders
from mooring.control.running import Running
from mooring.sources.cache import ModelCache


@dataclass(frozen=True, slots=True)
class AdminParts:
    """The parts of one application."""

    orders: Orders
    authenticator: Authenticator
    running: Running
    cache: ModelCache


def parts_of(request: Request) -> AdminParts:
    """Return the parts that this application was built with."""
    return request.app.state.parts


async def caller_of(request: Request) -> Actor:
    """Return who calls, and which terms of use they agree to.

    Raises:
        Unauthenticated: nobody we know.
        Forbidden: a key that is for inference only.
        RateLimited: too many wrong passwords.
    """
    actor = await parts_of(request).authenticator.authenticate(request.headers.get("authorization"))
    return replace(actor, agreed_terms=request.headers.get(terms.HEADER, ""))


Caller = Annotated[Actor, Depends(caller_of)]
Parts = Annotated[AdminParts, Depends(parts_of)]
