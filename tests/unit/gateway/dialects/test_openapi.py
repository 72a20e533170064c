"""The gateway's own description of its paths is what it serves."""

from __future__ import annotations

import json

from mooring.gateway.dialects import find_route, openapi


def test_every_path_described_is_served_under_a_name_of_its_own() -> None:
    paths = json.loads(openapi.document())["paths"]
    names = []
    for path, methods in paths.items():
        parts = [part["name"] for part in methods.get("parameters", []) + methods.get("get", {}).get("parameters", [])]
        assert all(f"{{{name}}}" in path for name in parts) and path.count("{") == len(parts)
        for method, told in methods.items():
            if method == "parameters":
                continue
            names.append(told["operationId"])
            route = find_route(method.upper().encode(), path.replace("{", "").replace("}", "").encode())
            assert (route.refusal, route.operation == "relay") == (None, False), path
    assert len(names) == len(set(names))
    for path in ("/api/v3/chat/completions", "/v1/infers/{service}/v1/models", "/maas/{model}/{chip}/chat/completions"):
        assert path in paths


def test_a_path_that_names_its_service_needs_no_model() -> None:
    paths = json.loads(openapi.document())["paths"]
    needed = {
        path: told["post"]["requestBody"]["content"]["application/json"]["schema"]["required"]
        for path, told in paths.items()
        if path.endswith("/chat/completions")
    }
    assert {path for path, names in needed.items() if "model" in names} == {
        "/v1/chat/completions",
        "/api/v3/chat/completions",
    }
