"""The OpenAPI 3.1 documents: of the gateway's own paths, and of one service's."""

from __future__ import annotations

import re
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
    "responses": {"required": ["model", "input"], "properties": {"input": {}}},
    "messages": {
        "required": ["model", "messages", "max_tokens"],
        "properties": {
            "messages": {"type": "array", "items": {"type": "object"}},
            "max_tokens": {"type": "integer"},
        },
    },
    "count_tokens": {
        "required": ["model", "messages"],
        "properties": {"messages": {"type": "array", "items": {"type": "object"}}},
    },
    "rerank": {
        "required": ["model", "query", "documents"],
        "properties": {"query": {"type": "string"}, "documents": {"type": "array", "items": {}}},
    },
    "score": {"required": ["model", "text_1", "text_2"], "properties": {"text_1": {}, "text_2": {}}},
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
    "responses": "Answer, in the shape of OpenAI's Responses",
    "messages": "Answer, in the shape of Anthropic's Messages",
    "count_tokens": "Count the tokens of a conversation",
    "rerank": "Order documents by how well they answer a query",
    "score": "Tell how alike texts are",
    "tokenize": "Cut a text or a conversation into tokens",
    "detokenize": "Join tokens to a text",
}
_POSTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
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
_STREAMED = STREAMED | {"responses", "messages"}
_ARK_POSTS = {
    "chat/completions": "chat",
    "completions": "completion",
    "embeddings": "embedding",
    "responses": "responses",
}
# dialect → where its paths stand, what is offered there
_OTHERS: dict[str, tuple[str, dict[str, str]]] = {
    "ark": ("/api/v3", _ARK_POSTS),
    "modelarts": ("/v1/infers/{service}/v1", {"chat/completions": "chat", "completions": "completion"}),
    "genstudio": ("/maas/{model}/{chip}", {"chat/completions": "chat"}),
}
_LISTS = {
    "ark": "List the endpoints that this key may call",
    "modelarts": "This model and its adapters",
    "genstudio": "This model and its adapters",
}


@cache
def document() -> bytes:
    """Return the document as JSON bytes; the same for every caller."""
    paths: dict[str, Any] = {path: {"post": _post(path, operation)} for path, operation in _POSTS.items()}
    paths["/v1/models"] = {"get": _get("models", "List what this key may call")}
    paths["/v1/models/{id}"] = {
        "get": {
            **_get("model", "Describe one model or endpoint"),
            "parameters": [_part("id")],
        }
    }
    for dialect in _OTHERS:
        paths |= _dialect_paths(dialect)
    paths["/health"] = {"get": {**_get("health", "Tell whether this gateway has its table"), "security": []}}
    paths["/openapi.json"] = {"get": {**_get("openapi", "This document"), "security": []}}
    return _document({"title": "Mooring gateway", "version": __version__}, paths)


def _dialect_paths(dialect: str) -> dict[str, Any]:
    """Return the paths of a dialect other than OpenAI's own; the names in braces are parts of the path."""
    root, posts = _OTHERS[dialect]
    names = re.findall(r"{(\w+)}", root)
    made: dict[str, dict[str, Any]] = {
        f"{root}/{end}": {"post": _post(f"/{end}", operation, addressed=bool(names))}
        for end, operation in posts.items()
    }
    made[f"{root}/models"] = {"get": _get("models", _LISTS[dialect])}
    for path in made.values():
        for told in path.values():
            told["operationId"] = f"{told['operationId'].removesuffix('_root')}_{dialect}"
        if names:
            path["parameters"] = [_part(name) for name in names]
    return made


def _part(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


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
    """Return the refusal of every dialect: `error`, but for ModelArts' own."""
    text = {"type": ["string", "null"]}
    return {
        "type": "object",
        "properties": {
            "error_code": {"type": "string"},
            "error_msg": {"type": "string"},
            "error": {
                "type": "object",
                "required": ["message", "type"],
                "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text},
            },
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
    if operation in _STREAMED:
        schema["properties"]["stream"] = {"type": "boolean"}
    return {
        "operationId": operation if addressed or path.startswith("/v1") else f"{operation}_root",
        "summary": _SUMMARIES[operation],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _answers(operation in _STREAMED),
    }
