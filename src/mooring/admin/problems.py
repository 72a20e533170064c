"""Every refusal as RFC 9457 problem details. The one place where errors become answers of the management API."""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mooring.core.errors import (
    Invalid,
    InvalidDocument,
    MethodNotAllowed,
    MooringError,
    PathNotFound,
    Unauthenticated,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LIST = "GET /manage/v1/openapi.json lists the paths and methods offered here."


def install(app: FastAPI) -> None:
    """Map every error of the application."""
    app.add_exception_handler(MooringError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_bad_query)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_failure)
    app.add_middleware(RequestIds)


def problem(request: Request, error: MooringError) -> JSONResponse:
    """Return the answer that tells of `error`."""
    content: dict[str, Any] = {
        "type": f"urn:mooring:error:{error.code}",
        "title": error.default_message,
        "status": error.status,
        "detail": error.message,
        "code": error.code,
        "nextStep": error.next_step,
        "requestId": request.scope.get("mooring.request_id", ""),
    }
    if error.param:
        content["param"] = error.param
    if isinstance(error, InvalidDocument):
        content["errors"] = error.problems
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="mooring"'  # not Basic: a browser would keep the password
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return JSONResponse(content, error.status, headers, MEDIA_TYPE)


class RequestIds:
    """ASGI middleware: gives each request an id and each answer the headers that all of them have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope["headers"]) or f"req-{secrets.token_hex(12)}"
        scope["mooring.request_id"] = request_id
        fixed = [
            (b"x-request-id", request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),  # answers may hold a key
        ]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *fixed]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _given_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        text = value.decode("latin-1")
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(text):
            return text
    return ""


async def _on_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MooringError)
    if error.status >= 500:
        log.error("request %s: %s", request.scope.get("mooring.request_id"), error, exc_info=error)
    return problem(request, error)


async def _on_bad_query(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    name = str(fault["loc"][-1])
    return problem(request, Invalid(f"{name}: {fault['msg']}.", param=name))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return problem(request, PathNotFound(f"There is no path {path}.", next_step=_LIST))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        answer = problem(
            request,
            MethodNotAllowed(f"{path} does not take {request.method}.", next_step=f"Allowed here: {allowed}."),
        )
        answer.headers["Allow"] = allowed
        return answer
    refusal = MooringError(str(error.detail), code="http_error")
    refusal.status = error.status_code
    return problem(request, refusal)


async def _on_failure(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s failed", request.scope.get("mooring.request_id"), exc_info=error)
    answer = problem(request, MooringError())
    # this answer is made outside of RequestIds
    answer.headers["X-Request-Id"] = json.loads(bytes(answer.body))["requestId"]
    return answer
