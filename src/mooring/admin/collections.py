"""The routes that every noun has: list, create, get, replace, patch, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse

from mooring.admin.bodies import read_json
from mooring.admin.parts import Caller, Parts
from mooring.control.orders import RULES, Outcome, etag_of, told_deed
from mooring.core import objects
from mooring.core.errors import Invalid, InvalidDocument
from mooring.core.objects import DEFAULT_PROJECT, AnyResource, to_wire
from mooring.core.pages import DEFAULT_LIMIT, MAX_LIMIT, decode_cursor
from mooring.core.pages import Query as ListQuery

Answer = Callable[[AnyResource], dict[str, Any]]

Ref = Annotated[
    str, Path(alias="id", description="The object's id, or its name together with ?project=", max_length=200)
]
ProjectOfName = Annotated[str, Query(description="The project, when a name is given instead of an id", alias="project")]
IfMatch = Annotated[str, Header(alias="If-Match", description="The ETag last seen: refused with 412 if it changed")]
DryRun = Annotated[bool, Query(alias="dryRun", description="Judge everything and keep nothing")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]


def collection(kind: str, path: str, *, created: Answer = to_wire) -> APIRouter:
    """Return the routes of one noun below /manage/v1/`path`. `created` makes the body of the answer to a creation."""
    router = APIRouter(prefix=f"/manage/v1/{path}", tags=[kind], responses=problem_responses())
    _add_reading(router, kind)
    _add_writing(router, kind, created)
    _add_changing(router, kind)
    return router


def _add_reading(router: APIRouter, kind: str) -> None:
    model = RULES[kind].model

    @router.get("", summary=f"List: {kind}", operation_id=f"list{kind}", responses=_list_response(kind))
    async def list_objects(
        caller: Caller,
        parts: Parts,
        project: Annotated[str, Query(description="Only those in this project")] = "",
        tag: Annotated[str, Query(description="Only those with this tag, as key:value")] = "",
        state: Annotated[str, Query(description="Only those in this state")] = "",
        q: Annotated[str, Query(description="Only those with this text in their name")] = "",
        cursor: Annotated[str, Query(description="`nextCursor` of the page before")] = "",
        limit: Limit = DEFAULT_LIMIT,
    ) -> JSONResponse:
        after = decode_cursor(cursor, str, str) if cursor else None
        query = ListQuery(project, read_tag(tag), state, q, "", (after[0], after[1]) if after else None, limit)
        page = await parts.orders.page(kind, query, caller)
        return JSONResponse({"items": [to_wire(item) for item in page.items], "nextCursor": page.cursor})

    @router.get("/{id}", summary=f"Get: {kind}", operation_id=f"get{kind}", responses={200: {"model": model}})
    async def get_object(
        caller: Caller, parts: Parts, ref: Ref, project: ProjectOfName = DEFAULT_PROJECT
    ) -> JSONResponse:
        noun = await parts.orders.get(kind, ref, project, caller)
        return JSONResponse(to_wire(noun), headers={"ETag": etag_of(noun)})


def _add_writing(router: APIRouter, kind: str, created: Answer) -> None:
    model = RULES[kind].model

    @router.post(
        "",
        status_code=201,
        summary=f"Create: {kind}",
        operation_id=f"create{kind}",
        responses={201: {"model": model}},
        openapi_extra=_body(kind),
    )
    async def create_object(request: Request, caller: Caller, parts: Parts, dry_run: DryRun = False) -> JSONResponse:
        noun = objects.read(model, await read_json(request))
        outcome = await parts.orders.save(kind, noun, "create", caller, dry_run=dry_run)
        return answer(outcome, 201, created)

    @router.put(
        "/{id}",
        summary=f"Replace: {kind}",
        operation_id=f"replace{kind}",
        responses={200: {"model": model}},
        openapi_extra=_body(kind),
    )
    async def replace_object(
        request: Request,
        caller: Caller,
        parts: Parts,
        ref: Ref,
        project: ProjectOfName = "",
        if_match: IfMatch = "",
        dry_run: DryRun = False,
    ) -> JSONResponse:
        noun = objects.read(model, await read_json(request))
        _same_project(noun, project)
        outcome = await parts.orders.save(kind, noun, "replace", caller, ref=ref, etag=if_match, dry_run=dry_run)
        return answer(outcome)


def _add_changing(router: APIRouter, kind: str) -> None:
    @router.patch(
        "/{id}",
        summary=f"Merge into: {kind}",
        operation_id=f"patch{kind}",
        responses={200: {"model": RULES[kind].model}},
        openapi_extra=_any_body(),
    )
    async def patch_object(
        request: Request,
        caller: Caller,
        parts: Parts,
        ref: Ref,
        project: ProjectOfName = DEFAULT_PROJECT,
        if_match: IfMatch = "",
        dry_run: DryRun = False,
    ) -> JSONResponse:
        patch = await read_json(request, "application/merge-patch+json")
        if not isinstance(patch, dict):
            raise InvalidDocument([{"field": "", "message": "a patch must be an object"}])
        outcome = await parts.orders.patch(kind, ref, project, patch, caller, etag=if_match, dry_run=dry_run)
        return answer(outcome)

    @router.delete("/{id}", summary=f"Delete: {kind}", operation_id=f"delete{kind}")
    async def delete_object(
        caller: Caller,
        parts: Parts,
        ref: Ref,
        project: ProjectOfName = DEFAULT_PROJECT,
        if_match: IfMatch = "",
        dry_run: DryRun = False,
    ) -> JSONResponse:
        outcome = await parts.orders.delete(kind, ref, project, caller, etag=if_match, dry_run=dry_run)
        return answer(outcome, content=lambda noun: to_wire(noun) | {"action": "deleted"}, tagged=False)


def answer(outcome: Outcome, status: int = 200, content: Answer = to_wire, *, tagged: bool = True) -> JSONResponse:
    """Return the answer to an order, with its ETag and the workers that don't know of it yet.

    A dry run is answered with what would have been done, by 200 and without a tag, for nothing was made.
    """
    if outcome.dry_run:
        return JSONResponse(told_deed(outcome.noun, outcome.action, dry_run=True))
    headers = {"ETag": etag_of(outcome.noun)} if tagged else {}
    return JSONResponse(content(outcome.noun), status, headers | unacknowledged(outcome.unacknowledged))


def unacknowledged(workers: tuple[str, ...]) -> dict[str, str]:
    """Return the header that names the gateway workers which had not heard of a change within a second."""
    return {"Mooring-Unacknowledged": ",".join(workers)} if workers else {}


def read_tag(text: str) -> tuple[str, str] | None:
    """Return (key, value) of `key:value`.

    Raises:
        Invalid: it has no colon.
    """
    if not text:
        return None
    key, colon, value = text.partition(":")
    if not colon or not key:
        raise Invalid("tag must be key:value.", param="tag")
    return key, value


def problem_responses() -> dict[int | str, dict[str, Any]]:
    """Return the part of the OpenAPI description that tells of refusals."""
    return {"default": {"description": "A refusal (RFC 9457)", "content": {"application/problem+json": {}}}}


def _same_project(noun: AnyResource, project: str) -> None:
    own = getattr(noun.metadata, "project", project)
    if project and project != own:
        raise Invalid(f"?project={project} differs from metadata.project '{own}'.", param="project")


def _list_response(kind: str) -> dict[int | str, dict[str, Any]]:
    items = {"type": "array", "items": {"$ref": f"#/components/schemas/{kind}"}}
    schema = {"type": "object", "properties": {"items": items, "nextCursor": {"type": ["string", "null"]}}}
    return {200: {"content": {"application/json": {"schema": schema}}}}


def _body(kind: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _any_body() -> dict[str, Any]:
    return {
        "requestBody": {"required": True, "content": {"application/merge-patch+json": {"schema": {"type": "object"}}}}
    }
