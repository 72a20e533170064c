"""What may be asked for: the operations that the dialects' paths stand for, and where a replica takes them."""

from __future__ import annotations

METERED = frozenset({"chat", "completion", "embedding", "rerank", "score", "responses", "messages"})
STREAMED = frozenset({"chat", "completion"})
TRANSLATED = frozenset({"responses", "messages", "count_tokens"})  # other ways to say a chat
OPEN = frozenset({"health", "openapi"})  # need no key
READ = OPEN | {"models", "model", "service_health", "service_models", "service_openapi"}  # by GET and HEAD

# Which kind of call a service must take for an operation. What is not here any service takes.
NEEDS: dict[str, str] = {
    "chat": "chat",
    "completion": "completion",
    "embedding": "embedding",
    "rerank": "rerank",
    "score": "rerank",
    "responses": "chat",
    "messages": "chat",
    "count_tokens": "chat",
}

# operation → path below the replica's base, whether it stands beside /v1 there
UPSTREAM_PATHS: dict[str, tuple[bytes, bool]] = {
    "chat": (b"/chat/completions", False),
    "completion": (b"/completions", False),
    "embedding": (b"/embeddings", False),
    "rerank": (b"/rerank", False),
    "score": (b"/score", False),
    "responses": (b"/responses", False),
    "messages": (b"/messages", False),
    "count_tokens": (b"/messages/count_tokens", False),
    "tokenize": (b"/tokenize", True),
    "detokenize": (b"/detokenize", True),
}
