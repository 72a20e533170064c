"""Which version answers."""

from __future__ import annotations

from fastapi import APIRouter

import mooring
from mooring.admin.collections import problem_responses
from mooring.admin.parts import Caller

router = APIRouter(prefix="/manage/v1/version", tags=["Version"], responses=problem_responses())


@router.get("", summary="The version of this platform", operation_id="getVersion")
async def get_version(caller: Caller) -> dict[str, str]:
    """Return name and version."""
    return {"name": "mooring", "version": mooring.__version__}
