"""Terms of use: read by all, set by administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import StringConstraints

from mooring.admin.bodies import read_json
from mooring.admin.collections import problem_responses
from mooring.admin.parts import Caller, Parts
from mooring.control.terms import get_terms, set_terms
from mooring.core import objects
from mooring.core.objects import Noun

router = APIRouter(prefix="/manage/v1/terms", tags=["Terms"], responses=problem_responses())


class TermsText(Noun, frozen=True):
    """What whoever makes a service or an endpoint must agree to; an empty text asks for nothing."""

    text: Annotated[str, StringConstraints(max_length=100_000)]


_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": TermsText.model_json_schema()}}}}


@router.get("", summary="The terms of use", operation_id="getTerms")
async def read_terms(caller: Caller, parts: Parts) -> dict[str, Any]:
    """Return the text and its version."""
    return (await get_terms(parts.orders.db)).wire()


@router.put("", summary="Set the terms of use", operation_id="setTerms", openapi_extra=_BODY)
async def replace_terms(request: Request, caller: Caller, parts: Parts) -> dict[str, Any]:
    """Set the text; an empty one takes the terms away."""
    wanted = objects.validate(TermsText, await read_json(request))
    return (await set_terms(parts.orders.db, wanted.text, caller)).wire()
