"""What the gateway answers by itself: /health, /v1/models, /openapi.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from mooring.core.errors import ModelNotFound, Unavailable
from mooring.core.snapshot import EndpointEntry, KeyEntry, ServiceEntry
from mooring.gateway.dialects import openai, openapi

if TYPE_CHECKING:
    from mooring.gateway.parts import Parts
    from mooring.gateway.snapshot import Table


def no_snapshot() -> Unavailable:
    """The refusal of a worker that does not know yet who may call what."""
    return Unavailable("This gateway has not yet received its table from the control process.", retry_after_s=1.0)


def check_table(parts: Parts) -> None:
    """Refuse calls while the worker does not know who may call what, or, if so set, no longer knows it for sure.

    Raises:
        Unavailable: no table yet, or control has been silent for longer than `max_stale_s`.
    """
    table = parts.table
    if not table.loaded:
        raise no_snapshot()
    limit = parts.settings.max_stale_s
    if limit and parts.timers.now - table.updated_at > limit:
        raise Unavailable(
            f"This gateway has heard nothing from the control process for {limit:g} s.", retry_after_s=1.0
        )


def answer(operation: str, target: bytes, key: KeyEntry | None, parts: Parts) -> bytes:
    """Return the JSON body of a GET.

    Raises:
        Unavailable: no snapshot yet (/health says so with 503).
        ModelNotFound: /v1/models/{id} of something this key may not call.
    """
    table = parts.table
    if operation == "openapi":
        return openapi.document()
    if not table.loaded:
        raise no_snapshot()
    if operation == "health":
        return b'{"status":"ok"}'
    assert key is not None
    endpoints, services = table.callable_by(key)
    served = {endpoint.id: _served_by(endpoint, table) for endpoint in endpoints}
    if operation == "model":
        return openai.model_body(
            _one_model(
                unquote(target.partition(b"?")[0][len(openai.MODEL_PREFIX) :].decode("latin-1")),
                endpoints,
                services,
                served,
            )
        )
    return openai.models_body(endpoints, services, served)


def _served_by(endpoint: EndpointEntry, table: Table) -> ServiceEntry | None:
    """Return the heaviest service behind an endpoint: its card describes the endpoint, with the smallest context."""
    found = [
        (target.weight, table.services[target.service].entry)
        for target in endpoint.targets
        if target.service in table.services
    ]
    if not found:
        return None
    lengths = [entry.context_length for weight, entry in found if weight > 0 and entry.context_length]
    heaviest = max(found, key=lambda pair: pair[0])[1]
    return msgspec.structs.replace(heaviest, context_length=min(lengths, default=0))


def _one_model(
    name: str,
    endpoints: list[EndpointEntry],
    services: list[ServiceEntry],
    served: dict[str, ServiceEntry | None],
) -> dict[str, Any]:
    for endpoint in endpoints:
        if endpoint.id == name:
            return openai.endpoint_model(endpoint, served[endpoint.id])
    for service in services:
        if service.name == name or service.id == name:
            return openai.service_model(service)
    for service in services:
        if service.served_model == name:
            return {**openai.service_model(service), "id": name}
    raise ModelNotFound(f"The model '{name[:100]}' does not exist, or this key may not use it.", param="model")
