"""The Ark dialect: paths below /api/v3. `model` takes the id of an endpoint and nothing else."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.core.errors import (
    ContextTooLong,
    EndpointStopped,
    Forbidden,
    InputFiltered,
    Invalid,
    LimitExceeded,
    Missing,
    ModelNotFound,
    MooringError,
    NameNotAccepted,
    NotFound,
    OutputFiltered,
    PathNotFound,
    RateLimited,
    Unauthenticated,
)
from mooring.core.snapshot import KeyEntry
from mooring.gateway.dialects.route import Address, model_text

if TYPE_CHECKING:
    from mooring.gateway.routing import Target
    from mooring.gateway.snapshot import Table

NAME: str = "ark"

POST_PATHS: dict[bytes, str] = {
    b"/api/v3/chat/completions": "chat",
    b"/api/v3/completions": "completion",
    b"/api/v3/embeddings": "embedding",
    b"/api/v3/responses": "responses",
}
_GET_PATHS: dict[bytes, str] = {b"/api/v3/models": "models"}

_LIMITS = {
    "rpm": "RateLimitExceeded.EndpointRPMExceeded",
    "tpm": "RateLimitExceeded.EndpointTPMExceeded",
    "concurrency": "InflightBatchsizeExceeded",
    "quota": "QuotaExceeded",
}
_OVERLOADED = "service_overloaded"  # our code when too many wait for one service
# class → code; the first that fits counts
_CODES: tuple[tuple[type[MooringError], str], ...] = (
    (InputFiltered, "InputTextSensitiveContentDetected"),
    (OutputFiltered, "OutputTextSensitiveContentDetected"),
    (ContextTooLong, "OutofContextError"),
    (EndpointStopped, "InvalidEndpoint.ClosedEndpoint"),
    (Unauthenticated, "AuthenticationError"),
    (Forbidden, "AccessDenied"),
    (NameNotAccepted, "InvalidEndpointOrModel.ModelIDAccessDisabled"),
    (ModelNotFound, "InvalidEndpointOrModel.NotFound"),
    (PathNotFound, "NotFound"),
    (NotFound, "InvalidEndpointOrModel.NotFound"),
    (RateLimited, "ServerOverloaded"),  # none of our limits: the service itself is busy
)
_PHRASES = {413: "Request Entity Too Large", 422: "Unprocessable Entity"}  # newer Pythons know newer names
_encode = msgspec.json.Encoder().encode


def parse(path: bytes) -> tuple[str, Address | None] | None:
    """Return the operation at a path; None where there is nothing. No path names a service here: `model` does."""
    operation = POST_PATHS.get(path) or _GET_PATHS.get(path)
    return (operation, None) if operation is not None else None


def find_target(table: Table, key: KeyEntry, address: Address | None, model: bytes) -> Target:
    """Return the endpoint whose id is `model`; see Table.resolve_endpoint."""
    return table.resolve_endpoint(key, model_text(model))


def status(error: MooringError) -> int:
    """Return the HTTP status: 429 where too many wait for one service."""
    return 429 if error.code == _OVERLOADED else error.status


def error_body(error: MooringError, request_id: str) -> bytes:
    """Return the JSON body of a refusal; the message ends with the request id."""
    return _encode({"error": _error(error, request_id)})


def error_event(error: MooringError, request_id: str) -> bytes:
    """Return the event that ends a stream which can't go on."""
    return b"data: %b\n\n" % error_body(error, request_id)


def _error(error: MooringError, request_id: str) -> dict[str, Any]:
    return {
        "code": _code(error),
        "message": f"{error.message} {error.next_step}".strip() + f" Request id: {request_id}",
        "param": error.param or "",
        "type": _reason(status(error)),
    }


def _code(error: MooringError) -> str:
    if error.code == _OVERLOADED:
        return "ServerOverloaded"
    if isinstance(error, LimitExceeded):
        return _LIMITS[error.limit]
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    if isinstance(error, Invalid):
        code = "MissingParameter" if isinstance(error, Missing) else "InvalidParameter"
        return f"{code}.{error.param}" if error.param else code
    return _reason(error.status) if error.status < 500 else "InternalServiceError"


def _reason(number: int) -> str:
    """Return the reason phrase of a status as one word: NotFound."""
    try:
        phrase = _PHRASES.get(number) or HTTPStatus(number).phrase
    except ValueError:
        phrase = "Bad Request" if number < 500 else "Internal Server Error"
    return "".join(word for word in phrase.title() if word.isalnum())
