"""The OpenAI dialect: paths, error bodies, the model list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mooring.core.errors import MooringError
from mooring.core.snapshot import EndpointEntry, KeyEntry, ServiceEntry
from mooring.gateway.dialects.route import Address, model_text

if TYPE_CHECKING:
    from mooring.gateway.routing import Target
    from mooring.gateway.snapshot import Table

NAME: str = "openai"

# path → operation; the table in this package's __init__ finds the POST paths by one look
POST_PATHS: dict[bytes, str] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completion",
    b"/v1/embeddings": "embedding",
    b"/v1/responses": "responses",
    b"/v1/rerank": "rerank",
    b"/v1/score": "score",
    b"/v1/tokenize": "tokenize",
    b"/v1/detokenize": "detokenize",
    b"/tokenize": "tokenize",
    b"/detokenize": "detokenize",
}
_GET_PATHS: dict[bytes, str] = {
    b"/v1/models": "models",
    b"/health": "health",
    b"/openapi.json": "openapi",
}
MODEL_PREFIX = b"/v1/models/"

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# What other dialects tell apart and OpenAI's clients know by one code.
_CODES = {
    "missing_parameter": "invalid_request",
    "malformed_authorization": "invalid_api_key",
    "output_content_filter": "content_filter",
}
_encode = msgspec.json.Encoder().encode


def parse(path: bytes) -> tuple[str, Address | None] | None:
    """Return the operation at a path; None where there is nothing. No path names a service here: `model` does."""
    operation = POST_PATHS.get(path) or _GET_PATHS.get(path)
    if operation is None and path.startswith(MODEL_PREFIX) and len(path) > len(MODEL_PREFIX):
        operation = "model"
    return (operation, None) if operation is not None else None


def find_target(table: Table, key: KeyEntry, address: Address | None, model: bytes) -> Target:
    """Return what `model` stands for; see Table.resolve."""
    return table.resolve(key, model_text(model))


def status(error: MooringError) -> int:
    """Return the HTTP status of a refusal."""
    return error.status


def error_object(error: MooringError) -> dict[str, Any]:
    """Return OpenAI's error body for a refusal; the message says what to do next."""
    message = f"{error.message} {error.next_step}".strip()
    kind = _TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "server_error")
    code = _CODES.get(error.code, error.code)
    return {"error": {"message": message, "type": kind, "param": error.param, "code": code}}


def error_body(error: MooringError, request_id: str) -> bytes:
    """Return `error_object` as JSON bytes. The request id stands in a header."""
    return _encode(error_object(error))


def error_event(error: MooringError, request_id: str) -> bytes:
    """Return the event that ends a stream which can't go on."""
    return b"data: %b\n\n" % error_body(error, request_id)


def models_body(models: list[dict[str, Any]]) -> bytes:
    """Return the list of `GET /v1/models`."""
    return _encode({"object": "list", "data": models})


def model_body(model: dict[str, Any]) -> bytes:
    """Return the answer of `GET /v1/models/{id}`."""
    return _encode(model)


def endpoint_models(endpoint: EndpointEntry, service: ServiceEntry | None) -> list[dict[str, Any]]:
    """Return the model object of an endpoint, then those of its adapters; `service` describes them."""
    base = {
        "id": endpoint.id,
        "object": "model",
        "created": endpoint.created,
        "owned_by": endpoint.project,
        "name": endpoint.name,
        "description": endpoint.description or (service.description if service is not None else ""),
        **_card(service),
    }
    return _with_adapters(base, service.adapters if service is not None else ())


def service_models(service: ServiceEntry, name: str, endpoints: list[str]) -> list[dict[str, Any]]:
    """Return the model object of a service under the id `name`, then those of its adapters.

    `endpoints`: ids of the caller's endpoints that lead to it.
    """
    base = {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": service.project,
        "name": service.name,
        "description": service.description,
        "endpoints": endpoints,
        **_card(service),
    }
    return _with_adapters(base, service.adapters)


def _with_adapters(base: dict[str, Any], adapters: tuple[str, ...]) -> list[dict[str, Any]]:
    name = base["id"]
    return [base, *({**base, "id": f"{name}:{adapter}", "parent": name} for adapter in adapters)]


def _card(service: ServiceEntry | None) -> dict[str, Any]:
    if service is None:
        return {"root": None, "parent": None, "max_model_len": None, "types": [], "chip": None, "state": "stopped"}
    return {
        "root": service.served_model,
        "parent": None,
        "max_model_len": service.context_length or None,
        "types": list(service.types),
        "chip": service.chip,
        "state": service.state,
    }
