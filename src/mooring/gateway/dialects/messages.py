"""The paths of Anthropic's Messages API below /v1: their own error body, else OpenAI's dialect.

Shapes and kinds of errors: https://docs.anthropic.com/en/api/errors. A key may also come in the header `x-api-key`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.core.errors import MooringError
from mooring.gateway.dialects import openai
from mooring.gateway.dialects.route import Address

NAME: str = "openai"
find_target = openai.find_target
status = openai.status

POST_PATHS: dict[bytes, str] = {b"/v1/messages": "messages", b"/v1/messages/count_tokens": "count_tokens"}

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_encode = msgspec.json.Encoder().encode


def parse(path: bytes) -> tuple[str, Address | None] | None:
    """Return the operation at a path; None where there is nothing."""
    operation = POST_PATHS.get(path)
    return (operation, None) if operation is not None else None


def kind_of(error: MooringError) -> str:
    """Return the kind of error by which Anthropic's clients know a refusal."""
    return _TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")


def error_body(error: MooringError, request_id: str) -> bytes:
    """Return the JSON body of a refusal."""
    message = f"{error.message} {error.next_step}".strip()
    told: dict[str, Any] = {"type": "error", "error": {"type": kind_of(error), "message": message}}
    return _encode({**told, "request_id": request_id})


def error_event(error: MooringError, request_id: str) -> bytes:
    """Return the event that ends a stream which can't go on."""
    return b"event: error\ndata: %b\n\n" % error_body(error, request_id)
