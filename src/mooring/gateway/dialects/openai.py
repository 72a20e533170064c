"""The OpenAI dialect: paths, error bodies, the model list and the description of what is offered."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.core.errors import MooringError
from mooring.core.snapshot import EndpointEntry, ServiceEntry

NAME = "openai"

# path → operation; `chat`, `completion` and `embedding` are metered inference.
POST_PATHS: dict[bytes, str] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completion",
    b"/v1/embeddings": "embedding",
    b"/v1/tokenize": "tokenize",
    b"/v1/detokenize": "detokenize",
    b"/tokenize": "tokenize",
    b"/detokenize": "detokenize",
}
GET_PATHS: dict[bytes, str] = {
    b"/v1/models": "models",
    b"/health": "health",
    b"/openapi.json": "openapi",
}
MODEL_PREFIX = b"/v1/models/"
# Whatever stands below these is ours; an unknown sub-path is a 404 of this dialect, never relayed.
OWNED = (
    b"/v1",
    b"/api/v3",
    b"/maas",
    b"/api/v1/namespaces",
    b"/health",
    b"/tokenize",
    b"/detokenize",
    b"/openapi.json",
)
OPEN_OPERATIONS = frozenset({"health", "openapi"})

# operation → path below the upstream's base, whether it stands beside /v1 there
UPSTREAM_PATHS: dict[str, tuple[bytes, bool]] = {
    "chat": (b"/chat/completions", False),
    "completion": (b"/completions", False),
    "embedding": (b"/embeddings", False),
    "tokenize": (b"/tokenize", True),
    "detokenize": (b"/detokenize", True),
}

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_encode = msgspec.json.Encoder().encode


def error_object(error: MooringError) -> dict[str, Any]:
    """Return OpenAI's error body for a refusal; the message says what to do next."""
    message = f"{error.message} {error.next_step}".strip()
    kind = _TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": error.param, "code": error.code}}


def error_body(error: MooringError) -> bytes:
    """Return `error_object` as JSON bytes."""
    return _encode(error_object(error))


def error_event(error: MooringError) -> bytes:
    """Return the event that ends a stream which can't go on."""
    return b"data: %b\n\n" % error_body(error)


def models_body(
    endpoints: list[EndpointEntry], services: list[ServiceEntry], served: dict[str, ServiceEntry | None]
) -> bytes:
    """Return the list of `GET /v1/models`. `served` maps an endpoint id to one of its services."""
    data = [endpoint_model(endpoint, served.get(endpoint.id)) for endpoint in endpoints]
    data += [service_model(service) for service in services]
    return _encode({"object": "list", "data": data})


def endpoint_model(endpoint: EndpointEntry, service: ServiceEntry | None) -> dict[str, Any]:
    """Return the model object of an endpoint; `service` describes it."""
    return {
        "id": endpoint.id,
        "object": "model",
        "created": endpoint.created,
        "owned_by": endpoint.project,
        "name": endpoint.name,
        "description": endpoint.description or (service.description if service is not None else ""),
        **_card(service),
    }


def service_model(service: ServiceEntry) -> dict[str, Any]:
    """Return the model object of a service that may be addressed directly."""
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": service.project,
        "name": service.name,
        "description": service.description,
        **_card(service),
    }


def _card(service: ServiceEntry | None) -> dict[str, Any]:
    if service is None:
        return {"root": None, "max_model_len": None, "types": [], "chip": None, "state": "stopped"}
    return {
        "root": service.served_model,
        "max_model_len": service.context_length or None,
        "types": list(service.types),
        "chip": service.chip,
        "state": service.state,
    }


def model_body(model: dict[str, Any]) -> bytes:
    """Return the answer of `GET /v1/models/{id}`."""
    return _encode(model)
