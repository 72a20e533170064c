"""The OpenAPI 3.1 documents: of the gateway's own paths, and of one service's."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from mooring import __version__
from mooring.core.snapshot import ServiceEntry
from mooring.gateway.dialects.operations import METERED, STREAMED

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
_SERVICE_POSTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}


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
    return _document({"title": "Mooring gateway", "version": __version__}, paths)


def service_document(entry: ServiceEntry, root: str) -> bytes:
    """Return the document of one service whose paths stand below `root`: what its types offer, nothing else."""
    offered = METERED.intersection(entry.types)
    paths: dict[str, Any] = {
        path: {"post": _post(path, operation, addressed=True)}
        for path, operation in _SERVICE_POSTS.items()
        if operation in offered or (offered and operation not in METERED)
    }
    paths["/v1/models"] = {"get": _get("models", "This model and its adapters")}
    paths["/health"] = {"get": _get("health", "Tell whether this service can be called")}
    paths["/openapi.json"] = {"get": _get("openapi", "This document")}
    context = f"{entry.context_length} tokens" if entry.context_length else "unknown"
    facts = f"Model: {entry.served_model}. Context length: {context}."
    if entry.adapters:
        facts += f" Adapters, asked for as `model:adapter`: {', '.join(entry.adapters)}."
    about = {"title": entry.name, "version": __version__, "description": f"{entry.description}\n\n{facts}".strip()}
    return _document(about, paths, servers=[{"url": root}])


def _document(about: dict[str, Any], paths: dict[str, Any], **more: Any) -> bytes:
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": about,
            **more,
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


def _post(path: str, operation: str, *, addressed: bool = False) -> dict[str, Any]:
    """Describe a POST; `addressed`: the path names the service, so that `model` may be missing."""
    body = _BODIES[operation]
    model = "Ignored: the path names the service" if addressed else "Endpoint id, service name or model name"
    schema: dict[str, Any] = {
        "type": "object",
        "required": [name for name in body["required"] if not (addressed and name == "model")],
        "properties": {"model": {"type": "string", "description": model}, **body["properties"]},
        "additionalProperties": True,
    }
    if operation in STREAMED:
        schema["properties"]["stream"] = {"type": "boolean"}
    return {
        "operationId": operation if addressed or path.startswith("/v1") else f"{operation}_root",
        "summary": _SUMMARIES[operation],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _answers(operation in STREAMED),
    }
