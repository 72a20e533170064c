"""Every refusal of the management API is a problem that says what to do next."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked

JSON = {"Content-Type": "application/json"}
CASES: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/manage/v1/nothing", {}, 404, "path_not_found"),
    ("GET", "/nothing", {}, 404, "path_not_found"),
    ("GET", "/", {}, 404, "path_not_found"),
    ("POST", "/manage/v1/endpoints/", {}, 404, "path_not_found"),
    ("DELETE", "/manage/v1/endpoints", {}, 405, "method_not_allowed"),
    ("GET", "/manage/v1/endpoints/none", {}, 404, "not_found"),
    ("POST", "/manage/v1/endpoints", {"content": b"{", "headers": JSON}, 400, "invalid_json"),
    ("POST", "/manage/v1/endpoints", {"content": b"", "headers": JSON}, 400, "invalid_json"),
    ("POST", "/manage/v1/endpoints", {"content": b"[" * 100_000, "headers": JSON}, 400, "invalid_json"),
    ("POST", "/manage/v1/endpoints", {"content": b'{"kind":"\\ud800"}', "headers": JSON}, 400, "invalid_json"),
    ("POST", "/manage/v1/endpoints", {"content": b"a=b"}, 415, "unsupported_media_type"),
    ("POST", "/manage/v1/endpoints", {"content": b" " * (9 << 20), "headers": JSON}, 413, "request_too_large"),
    ("POST", "/manage/v1/endpoints", {"json": []}, 422, "invalid_document"),
    ("POST", "/manage/v1/endpoints", {"json": {"kind": "Secret"}}, 422, "invalid_document"),
    ("PATCH", "/manage/v1/endpoints/demo", {"json": []}, 422, "invalid_document"),
    ("PATCH", "/manage/v1/endpoints/demo", {"json": {"spec": {"services": []}}}, 422, "invalid_document"),
    ("GET", "/manage/v1/usage/requests?since=yesterday", {}, 400, "invalid_request"),
    ("GET", "/manage/v1/usage?by=moon", {}, 400, "invalid_request"),
]


@pytest.mark.parametrize(("method", "path", "sent", "status", "code"), CASES)
async def test_a_refusal_is_a_problem_with_a_next_step(
    client: httpx.AsyncClient, method: str, path: str, sent: dict[str, Any], status: int, code: str
) -> None:
    answer = await client.request(method, path, **sent)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text[:500]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == f"urn:mooring:error:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["nextStep"]
    assert problem["requestId"] == answer.headers["X-Request-Id"]
    if status == 405:
        assert answer.headers["Allow"]


async def test_an_unknown_field_is_named_with_those_that_exist(client: httpx.AsyncClient) -> None:
    body = {"metadata": {"name": "x"}, "spec": {"services": [{"name": "mooring-demo", "wait": 1}], "limit": {}}}
    problem = (await client.post("/manage/v1/endpoints", json=body)).json()
    told = {fault["field"]: fault["message"] for fault in problem["errors"]}
    assert list(told) == ["spec.limit"], "the outer one first; what stands inside is read when the outside is right"
    assert "limits" in told["spec.limit"]
    del body["spec"]["limit"]
    problem = (await client.post("/manage/v1/endpoints", json=body)).json()
    assert problem["param"] == "spec.services.0.wait"
    assert "weight" in problem["detail"]


async def test_a_request_id_that_was_given_is_kept(client: httpx.AsyncClient) -> None:
    answer = await client.get("/manage/v1/nothing", headers={"X-Request-Id": "req-42"})
    assert answer.json()["requestId"] == "req-42"
    answer = await client.get("/manage/v1/nothing", headers={"X-Request-Id": 'x"<y>'})
    assert answer.json()["requestId"].startswith("req-")


@pytest.mark.parametrize("applications", [[]], ids=["own"])  # it adds a path to the application
async def test_a_failure_hides_its_cause_and_logs_it(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("the inner secret")

    app.add_api_route("/manage/v1/broken", fail)
    answer = await client.get("/manage/v1/broken", headers={"X-Request-Id": "req-43"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert answer.headers["X-Request-Id"] == "req-43"
    assert any("req-43" in record.getMessage() and record.exc_info for record in caplog.records)


async def test_the_description_lists_every_path_and_resolves(client: httpx.AsyncClient) -> None:
    description = (await client.get("/manage/v1/openapi.json", headers={"Authorization": ""})).json()
    nouns = ("projects", "services", "external-services", "endpoints", "keys", "secrets", "users")
    for noun in nouns:
        assert set(description["paths"][f"/manage/v1/{noun}"]) == {"get", "post"}
        assert set(description["paths"][f"/manage/v1/{noun}/{{id}}"]) == {"get", "put", "patch", "delete"}

    def references(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
            return own.union(*(references(value) for value in part.values()))
        return set().union(*(references(value) for value in part)) if isinstance(part, list) else set()

    schemas = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
    assert references(description) <= schemas
    assert set(description["components"]["securitySchemes"]) == {"key", "password"}
