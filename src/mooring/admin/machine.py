"""The machine: what it offers, and what is set aside for replicas."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mooring.admin.collections import problem_responses
from mooring.admin.parts import Caller, Parts

router = APIRouter(prefix="/manage/v1/machine", tags=["Machine"], responses=problem_responses())


@router.get("", summary="Cores, memory and GPUs: in all, and set aside for replicas", operation_id="getMachine")
async def get_machine(caller: Caller, parts: Parts) -> dict[str, Any]:
    """Return the sums of this moment."""
    return await parts.running.machine()
