"""Apply: documents of any kind, all or none."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from mooring.admin.bodies import read_json
from mooring.admin.collections import DryRun, problem_responses, unacknowledged
from mooring.admin.parts import Caller, Parts
from mooring.control.apply import apply
from mooring.core.errors import InvalidDocument

router = APIRouter(prefix="/manage/v1/apply", tags=["Apply"], responses=problem_responses())

_ITEMS = {"type": "array", "items": {"type": "object"}}
_SCHEMA = {"oneOf": [{"type": "object", "properties": {"items": _ITEMS}, "required": ["items"]}, _ITEMS]}
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}


@router.post("", summary="Create or update all documents, or none", operation_id="apply", openapi_extra=_BODY)
async def apply_documents(
    request: Request,
    caller: Caller,
    parts: Parts,
    dry_run: DryRun = False,
) -> JSONResponse:
    """Return the objects in the order of the documents, each with what was done."""
    documents = read_documents(await read_json(request))
    applied = await apply(parts.orders, documents, actor=caller, dry_run=dry_run)
    return JSONResponse({"items": applied.items}, headers=unacknowledged(applied.unacknowledged))


def read_documents(body: Any) -> list[object]:
    """Return the documents in `{"items": […]}`, in a list, or the one that was sent alone.

    Raises:
        InvalidDocument: it is none of these.
    """
    if isinstance(body, dict) and "kind" in body:
        return [body]
    documents = body.get("items") if isinstance(body, dict) else body
    if isinstance(documents, list):
        return documents
    raise InvalidDocument([{"field": "items", "message": 'send {"items": [document, …]}'}])
