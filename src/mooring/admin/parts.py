"""What the handlers are built with, and how they get at it: `Caller` and `Parts` are FastAPI dependencies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from mooring.control import terms
from mooring.control.authentication import Authenticator
from mooring.control.context import Actor
from mooring.control.orders import Orders
from mooring.control.running import Running
from mooring.core.errors import Invalid
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
        Invalid: a query parameter that this path does not have: `?dryrun=true` must not be a real order.
    """
    actor = await parts_of(request).authenticator.authenticate(request.headers.get("authorization"))
    _refuse_unknown(request)
    return replace(actor, agreed_terms=request.headers.get(terms.HEADER, ""))


def _refuse_unknown(request: Request) -> None:
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = _query_names(route.dependant)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        told = f"Those of this path: {', '.join(known)}." if known else "This path has none."
        raise Invalid(f"There is no query parameter '{unknown[0][:100]}'.", next_step=told, param=unknown[0][:100])


def _query_names(dependant: Dependant) -> list[str]:
    own = [field.alias for field in dependant.query_params]
    return own + [name for part in dependant.dependencies for name in _query_names(part)]


Caller = Annotated[Actor, Depends(caller_of)]
Parts = Annotated[AdminParts, Depends(parts_of)]
