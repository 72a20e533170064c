"""The ModelArts dialect: one service by its id in the path.

    /v1/infers/{service id}/v1/chat/completions

The body's `model` is not asked for more than an adapter's name. Refusals of the gateway have a body of their own,
`{"error_code", "error_msg"}`; what an engine refuses keeps OpenAI's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mooring.core.errors import (
    EndpointStopped,
    Forbidden,
    InputFiltered,
    LimitExceeded,
    MalformedAuthorization,
    MethodNotAllowed,
    MooringError,
    NotFound,
    OutputFiltered,
    PathNotFound,
    RateLimited,
    Unauthenticated,
)
from mooring.core.snapshot import KeyEntry
from mooring.gateway.dialects import openai
from mooring.gateway.dialects.route import Address, adapter_text, path_text

if TYPE_CHECKING:
    from mooring.gateway.routing import Target
    from mooring.gateway.snapshot import Table

NAME: str = "modelarts"

_PATHS: dict[bytes, str] = {
    b"v1/chat/completions": "chat",
    b"v1/completions": "completion",
    b"v1/models": "service_models",
}
_SENSITIVE = "May contain sensitive information, please try again."
_FILTERED = (InputFiltered, OutputFiltered)
_LIMITS = {"tpm": "ModelArts.81103", "quota": "ModelArts.81005"}
# class → code; the first that fits counts
_CODES: tuple[tuple[type[MooringError], str], ...] = (
    (InputFiltered, "ModelArts.4910"),
    (OutputFiltered, "ModelArts.4910"),
    (MalformedAuthorization, "ModelArts.81002"),
    (Unauthenticated, "ModelArts.81003"),
    (EndpointStopped, "ModelArts.81004"),
    (Forbidden, "ModelArts.81004"),
    (PathNotFound, "APIG.0101"),
    (MethodNotAllowed, "APIG.0101"),
    (NotFound, "ModelArts.81009"),
    (RateLimited, "ModelArts.81101"),
)
_BAD_BODY, _BACKEND = "ModelArts.81001", "APIG.0203"
_encode = msgspec.json.Encoder().encode


def parse(path: bytes) -> tuple[str, Address | None] | None:
    """Return the operation at a path and the service it names; None where there is nothing."""
    parts = path.split(b"/", 4)  # "", v1, infers, service id, path
    if len(parts) < 5 or not parts[3]:
        return None
    operation = _PATHS.get(parts[4])
    return (operation, Address(service=path_text(parts[3]))) if operation is not None else None


def find_target(table: Table, key: KeyEntry, address: Address | None, model: bytes) -> Target:
    """Return the service that the path names; see Table.resolve_address."""
    assert address is not None
    return table.resolve_address(key, address, adapter_text(model))


def status(error: MooringError) -> int:
    """Return the HTTP status: 403 for what is not let through, 400 for a header without a bearer key."""
    if isinstance(error, _FILTERED):
        return 403
    return 400 if isinstance(error, MalformedAuthorization) else error.status


def error_body(error: MooringError, request_id: str) -> bytes:
    """Return the JSON body of a refusal."""
    return openai.error_body(error, request_id) if error.from_engine else _encode(_refused(error))


def error_event(error: MooringError, request_id: str) -> bytes:
    """Return the event that ends a stream. It has OpenAI's `error` as well: their SDKs notice no other."""
    told = openai.error_object(error)
    return b"data: %b\n\n" % _encode(told if error.from_engine else {**_refused(error), **told})


def _refused(error: MooringError) -> dict[str, Any]:
    message = _SENSITIVE if isinstance(error, _FILTERED) else f"{error.message} {error.next_step}".strip()
    return {"error_code": _code(error), "error_msg": message}


def _code(error: MooringError) -> str:
    if isinstance(error, LimitExceeded) and error.limit in _LIMITS:
        return _LIMITS[error.limit]
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return _BAD_BODY if error.status < 500 else _BACKEND
