"""How to call a service or an endpoint: as data, and as a notebook."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from mooring.admin.collections import ProjectOfName, Ref
from mooring.admin.parts import Caller, Parts
from mooring.control.instructions import Subject, get_endpoint_subject, get_service_subject, instructions, urls_of
from mooring.control.notebook import MEDIA_TYPE, notebook
from mooring.core.objects import DEFAULT_PROJECT
from mooring.store.database import Database

FindSubject = Callable[[Database, str, str], Awaitable[Subject]]


def add_instructions(router: APIRouter, kind: str) -> None:
    """Add the two routes to those of a noun. `kind` is Endpoint, Service or ExternalService."""
    find: FindSubject = get_endpoint_subject if kind == "Endpoint" else get_service_subject

    @router.get("/{id}/instructions", summary="How to call it", operation_id=f"get{kind}Instructions")
    async def get_instructions(
        caller: Caller, parts: Parts, ref: Ref, project: ProjectOfName = DEFAULT_PROJECT
    ) -> dict[str, Any]:
        subject = await find(parts.orders.db, ref, project)
        return instructions(subject, urls_of(parts.orders.context.settings))

    @router.get("/{id}/notebook", summary="A Jupyter notebook that calls it", operation_id=f"get{kind}Notebook")
    async def get_notebook(
        caller: Caller, parts: Parts, ref: Ref, project: ProjectOfName = DEFAULT_PROJECT
    ) -> JSONResponse:
        subject = await find(parts.orders.db, ref, project)
        content = notebook(subject, urls_of(parts.orders.context.settings))
        headers = {"Content-Disposition": f'attachment; filename="{subject.name}.ipynb"'}
        return JSONResponse(content, headers=headers, media_type=MEDIA_TYPE)
