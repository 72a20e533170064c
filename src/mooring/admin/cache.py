"""The models from hubs on this machine: what is there, and what may go."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from mooring.admin.bodies import read_json
from mooring.admin.collections import DryRun, problem_responses
from mooring.admin.parts import Caller, Parts
from mooring.control.cache import list_cache, prune_cache
from mooring.core import objects
from mooring.core.objects import Noun

router = APIRouter(prefix="/manage/v1/cache", tags=["Cache"], responses=problem_responses())


class Pruning(Noun, frozen=True):
    """Which of the models that no service uses go: those fetched at least so long ago."""

    older_than_days: Annotated[float, Field(ge=0, le=36_500)] = 0


_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": Pruning.model_json_schema()}}}}


@router.get("", summary="The models from hubs, and who uses them", operation_id="listCache")
async def list_models(caller: Caller, parts: Parts) -> dict[str, Any]:
    """Return all entries, newest first."""
    return await list_cache(parts.orders.db, parts.cache, caller)


@router.post("/prune", summary="Remove the models that no service uses", operation_id="pruneCache", openapi_extra=_BODY)
async def prune_models(request: Request, caller: Caller, parts: Parts, dry_run: DryRun = False) -> dict[str, Any]:
    """Return what was removed, or with a dry run what would be."""
    wanted = objects.validate(Pruning, await read_json(request))
    return await prune_cache(
        parts.orders.db, parts.cache, caller, older_than_s=wanted.older_than_days * 86_400, dry_run=dry_run
    )
