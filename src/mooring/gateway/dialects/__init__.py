"""Wire formats, one file each, and the table from path to dialect.

A dialect's module offers what `route.Dialect` says. `local` and `openapi` are what the gateway answers by itself.
"""

from __future__ import annotations

from mooring.core.errors import MethodNotAllowed, PathNotFound
from mooring.gateway.dialects import cluster, openai
from mooring.gateway.dialects.operations import OPEN, READ
from mooring.gateway.dialects.route import Dialect, Route

# Whatever stands at or below these is ours: an unknown path there is a 404 of the dialect, never relayed to control.
# The first that fits counts.
PREFIXES: tuple[tuple[bytes, Dialect], ...] = (
    (b"/v1", openai),
    (b"/api/v1/namespaces", cluster),
    (b"/api/v3", openai),
    (b"/maas", openai),
    (b"/health", openai),
    (b"/tokenize", openai),
    (b"/detokenize", openai),
    (b"/openapi.json", openai),
)
RELAYED = Route("relay", openai, keyed=False)  # everything that is control's

# The usual paths, found by one look; a route is never changed.
_POSTS = {path: Route(operation, openai) for path, operation in openai.POST_PATHS.items()}


def find_route(method: bytes, target: bytes) -> Route:
    """Return what a request line asks for, RELAYED for what belongs to control.

    A wrong path or method is a route with a `refusal`: its dialect says how the refusal reads.
    """
    if method == b"POST":
        route = _POSTS.get(target)
        if route is not None:
            return route
    path = target.partition(b"?")[0]
    for prefix, dialect in PREFIXES:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/"):
            return _owned_route(method, path, dialect)
    return RELAYED


def _owned_route(method: bytes, path: bytes, dialect: Dialect) -> Route:
    asked = dialect.parse(path)
    if asked is None:
        return Route("", dialect, keyed=False, refusal=PathNotFound(f"There is no path {_show(path)}."))
    operation, address = asked
    methods = ("GET", "HEAD") if operation in READ else ("POST",)
    if method.decode("latin-1") in methods:
        return Route(operation, dialect, address, operation not in OPEN)
    refusal = MethodNotAllowed(
        f"{_show(path)} takes {' and '.join(methods)}, not {_show(method)}.", param=", ".join(methods)
    )
    return Route(operation, dialect, keyed=False, refusal=refusal)


def _show(text: bytes) -> str:
    return text[:200].decode("latin-1")
