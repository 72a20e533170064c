"""Joins the handlers of all nouns into one application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

import mooring
from mooring.admin import (
    apply,
    cache,
    endpoints,
    events,
    external_services,
    keys,
    machine,
    problems,
    projects,
    secrets,
    services,
    terms,
    usage,
    users,
    version,
)
from mooring.admin.parts import AdminParts
from mooring.control.authentication import Authenticator
from mooring.control.context import Context
from mooring.control.orders import AwaitAcknowledged, Orders
from mooring.control.running import Running
from mooring.control.sealing import Sealer
from mooring.settings import Settings
from mooring.sources.cache import ModelCache
from mooring.store.database import Database

OPENAPI_PATH = "/manage/v1/openapi.json"
NOUNS = (
    projects, services, external_services, endpoints, keys, secrets, users, usage, events, cache, machine, terms,
    apply, version,
)  # fmt: skip


def build_admin(
    *,
    db: Database,
    sealer: Sealer,
    settings: Settings,
    await_acknowledged: AwaitAcknowledged,
    running: Running,
    cache: ModelCache,
) -> FastAPI:
    """Return the management API as an ASGI application.

    Args:
        db: used from the event loop that runs the application.
        sealer: of this installation.
        settings: of this installation.
        await_acknowledged: `(version, timeout_s)` → the gateway workers that did not get that version in time.
        running: what runs here for the services.
        cache: the models from hubs on this machine.
    """
    app = FastAPI(
        title="Mooring management API",
        version=mooring.__version__,
        openapi_url=OPENAPI_PATH,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    orders = Orders(db, Context(settings, sealer), await_acknowledged)
    app.state.parts = AdminParts(orders, Authenticator(db, sealer), running, cache)
    for noun in NOUNS:
        app.include_router(noun.router)
    problems.install(app)
    app.openapi = lambda: _describe(app)  # the seam that FastAPI offers
    return app


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description, with the two ways to authenticate."""
    description = FastAPI.openapi(app)
    description.setdefault("components", {})["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key with full access"},
        "password": {"type": "http", "scheme": "basic", "description": "A user's name and password"},
    }
    description["security"] = [{"key": []}, {"password": []}]
    return description
