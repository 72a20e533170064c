"""What may be asked for: the operations that the dialects' paths stand for, and where a replica takes them."""

from __future__ import annotations

METERED = frozenset({"chat", "completion", "embedding"})
STREAMED = frozenset({"chat", "completion"})
OPEN = frozenset({"health", "openapi"})  # need no key
READ = OPEN | {"models", "model", "service_health", "service_models", "service_openapi"}  # by GET and HEAD

# operation → path below the replica's base, whether it stands beside /v1 there
UPSTREAM_PATHS: dict[str, tuple[bytes, bool]] = {
    "chat": (b"/chat/completions", False),
    "completion": (b"/completions", False),
    "embedding": (b"/embeddings", False),
    "tokenize": (b"/tokenize", True),
    "detokenize": (b"/detokenize", True),
}
