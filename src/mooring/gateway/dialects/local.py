"""What the gateway answers by itself: health, lists of models, descriptions; of all, or of one service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mooring.core.errors import ModelNotFound, NotReady, Unavailable
from mooring.core.snapshot import EndpointEntry, KeyEntry, ServiceEntry
from mooring.gateway.dialects import ark, openai, openapi
from mooring.gateway.dialects.cluster import service_root
from mooring.gateway.dialects.route import Route, path_text
from mooring.gateway.routing import Target, not_ready

if TYPE_CHECKING:
    from mooring.gateway.parts import Parts
    from mooring.gateway.snapshot import Table

_HEALTHY = b'{"status":"ok"}'


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


def answer(route: Route, target: bytes, key: KeyEntry | None, parts: Parts) -> bytes:
    """Return the JSON body of a GET.

    Raises:
        Unavailable: no snapshot yet (/health says so with 503).
        ModelNotFound: a model or service that this key may not call.
        NotReady: the health of a service that can't be called; says why.
    """
    table = parts.table
    if route.operation == "openapi":
        return openapi.document()
    if not table.loaded:
        raise no_snapshot()
    if route.operation == "health":
        return _HEALTHY
    assert key is not None
    endpoints, services = table.callable_by(key)
    if route.address is not None:
        return _service_page(route.operation, route.dialect.find_target(table, key, route.address, b""), endpoints)
    served = {endpoint.id: _served_by(endpoint, table) for endpoint in endpoints}
    if route.dialect is ark:  # takes endpoint ids only
        services = []
    if route.operation == "model":
        name = path_text(target.partition(b"?")[0][len(openai.MODEL_PREFIX) :])
        return openai.model_body(_one_model(name, endpoints, services, served))
    listed = [openai.endpoint_models(endpoint, served[endpoint.id]) for endpoint in endpoints]
    listed += [openai.service_models(one, one.name, _leading_to([one], endpoints)) for one in services]
    return openai.models_body([model for models in listed for model in models])


def _service_page(operation: str, target: Target, endpoints: list[EndpointEntry]) -> bytes:
    entries = [service.entry for service in target.services]
    entry = entries[0]
    if operation == "service_models":
        merged = _merged([(1, one) for one in entries])
        return openai.models_body(openai.service_models(merged, entry.served_model, _leading_to(entries, endpoints)))
    if operation == "service_openapi":
        return openapi.service_document(entry, service_root(entry))
    if not entry.enabled:
        raise NotReady(f"The service {entry.name} is disabled.", next_step="Enable the service or use another one.")
    if not target.services[0].available:
        raise not_ready(entry)
    return _HEALTHY


def _leading_to(services: list[ServiceEntry], endpoints: list[EndpointEntry]) -> list[str]:
    """Return the ids of those endpoints that have one of these services behind them."""
    ids = {service.id for service in services}
    return [one.id for one in endpoints if any(target.service in ids for target in one.targets)]


def _served_by(endpoint: EndpointEntry, table: Table) -> ServiceEntry | None:
    """Return what describes an endpoint; None when no service stands behind it."""
    found = [
        (target.weight, table.services[target.service].entry)
        for target in endpoint.targets
        if target.service in table.services
    ]
    return _merged(found) if found else None


def _merged(found: list[tuple[int, ServiceEntry]]) -> ServiceEntry:
    """Return the heaviest of several services (weight, entry), which describes them all.

    The context is the smallest of all, the adapters are those of any.
    """
    lengths = [entry.context_length for weight, entry in found if weight > 0 and entry.context_length]
    heaviest = max(found, key=lambda pair: pair[0])[1]
    adapters = tuple(dict.fromkeys(adapter for _, entry in found for adapter in entry.adapters))
    return msgspec.structs.replace(heaviest, context_length=min(lengths, default=0), adapters=adapters)


def _one_model(
    name: str,
    endpoints: list[EndpointEntry],
    services: list[ServiceEntry],
    served: dict[str, ServiceEntry | None],
) -> dict[str, Any]:
    models = _models_of(name, endpoints, services, served)
    if models:
        return models[0]
    base, _, adapter = name.rpartition(":")
    for model in _models_of(base, endpoints, services, served)[1:]:
        if model["id"].endswith(f":{adapter}"):
            return model
    raise ModelNotFound(f"The model '{name[:100]}' does not exist, or this key may not use it.", param="model")


def _models_of(
    name: str,
    endpoints: list[EndpointEntry],
    services: list[ServiceEntry],
    served: dict[str, ServiceEntry | None],
) -> list[dict[str, Any]]:
    """Return the model object of what `name` stands for and those of its adapters; nothing when it is unknown."""
    for endpoint in endpoints:
        if endpoint.id == name:
            return openai.endpoint_models(endpoint, served[endpoint.id])
    for service in services:
        if name in (service.name, service.id):
            return openai.service_models(service, service.name, _leading_to([service], endpoints))
    for service in services:
        if service.served_model == name:
            return openai.service_models(service, name, _leading_to([service], endpoints))
    return []
