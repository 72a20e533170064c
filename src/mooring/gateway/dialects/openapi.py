"""The OpenAPI 3.1 document of the gateway's own paths."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from mooring import __version__

_BODIES: dict[str, dict[str, Any]] = {
    "chat": {
        "required": ["model", "messages"],
        "properties": {"messages": {"type": "array", "items": {"type": "object"}}},
    },
    "completion": {"required": ["model", "prompt"], "properties": {"prompt": {}}},
    "embedding": {"required": ["model", "input"], "properties": {"input": {}}},
    "tokenize": {
        "required": ["model"],
        "properties": {"prompt": {"type": "string"}, "messages": {"type": "array", "items": {"type": "object"}}},
    },
    "detokenize": {
        "required": ["model", "tokens"],
        "properties": {"tokens": {"type": "array", "items": {"type": "integer"}}},
    },
}
_SUMMARIES = {
    "chat": "Answer a conversation",
    "completion": "Continue a text",
    "embedding": "Embed texts",
    "tokenize": "Cut a text or a conversation into tokens",
    "detokenize": "Join tokens to a text",
}
_POSTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/v1/tokenize": "tokenize",
    "/v1/detokenize": "detokenize",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
_STREAMED = frozenset({"chat", "completion"})


@cache
def document() -> bytes:
    """Return the document as JSON bytes; the same for every caller."""
    paths: dict[str, Any] = {path: {"post": _post(path, operation)} for path, operation in _POSTS.items()}
    paths["/v1/models"] = {"get": _get("models", "List what this key may call")}
    paths["/v1/models/{id}"] = {
        "get": {
            **_get("model", "Describe one model or endpoint"),
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
        }
    }
    paths["/health"] = {"get": {**_get("health", "Tell whether this gateway has its table"), "security": []}}
    paths["/openapi.json"] = {"get": {**_get("openapi", "This document"), "security": []}}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Mooring gateway", "version": __version__},
            "paths": paths,
            "components": {
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
                "schemas": {"Error": _error_schema()},
            },
            "security": [{"key": []}],
        }
    )


def _error_schema() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    return {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type"],
                "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text},
            }
        },
    }


def _answers(streamed: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streamed:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    refused = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "The answer", "content": content},
        "default": {"description": "A refusal that says what to do next", "content": refused},
    }


def _get(name: str, summary: str) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": _answers(False)}


def _post(path: str, operation: str) -> dict[str, Any]:
    body = _BODIES[operation]
    schema: dict[str, Any] = {
        "type": "object",
        "required": body["required"],
        "properties": {
            "model": {"type": "string", "description": "Endpoint id, service name or model name"},
            **body["properties"],
        },
        "additionalProperties": True,
    }
    if operation in _STREAMED:
        schema["properties"]["stream"] = {"type": "boolean"}
    return {
        "operationId": operation if path.startswith("/v1") else f"{operation}_root",
        "summary": _SUMMARIES[operation],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _answers(operation in _STREAMED),
    }
