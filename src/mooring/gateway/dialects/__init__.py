"""Wire formats, one file each, and the table from path to dialect.

A dialect's module offers what `route.Dialect` says. `local` and `openapi` are what the gateway answers by itself.
"""

from __future__ import annotations

from mooring.core.errors import MethodNotAllowed, PathNotFound
from mooring.gateway.dialects import ark, cluster, genstudio, messages, modelarts, openai
from mooring.gateway.dialects.operations import OPEN, READ
from mooring.gateway.dialects.route import Dialect, Route

# Whatever stands at or below these is ours: an unknown path there is a 404 of the dialect, never relayed to control.
# The first that fits counts.
PREFIXES: tuple[tuple[bytes, Dialect], ...] = (
    (b"/v1/infers", modelarts),
    (b"/v1/messages", messages),
    (b"/v1", openai),
    (b"/api/v1/namespaces", cluster),
    (b"/api/v3", ark),
    (b"/maas", genstudio),
    (b"/health", openai),
    (b"/tokenize", openai),
    (b"/detokenize", openai),
    (b"/openapi.json", openai),
)
RELAYED = Route("relay", openai, keyed=False)  # everything that is control's

# The usual paths, found by one look; a route is never changed.
_USUAL = {
    **{path: Route(operation, openai) for path, operation in openai.POST_PATHS.items()},
    **{path: Route(operation, messages) for path, operation in messages.POST_PATHS.items()},
    **{path: Route(operation, ark) for path, operation in ark.POST_PATHS.items()},
}
_MAX_LEARNT, _LONGEST_LEARNT = 4096, 256  # paths, bytes of each
_posts = dict(_USUAL)  # and those paths that name a service, once they were asked for


def find_route(method: bytes, target: bytes) -> Route:
    """Return what a request line asks for, RELAYED for what belongs to control.

    Paths are compared as they are, byte by byte: only the parts that name something may be percent-encoded.
    A wrong path or method is a route with a `refusal`: its dialect says how the refusal reads.
    """
    if method == b"POST":
        route = _posts.get(target)
        if route is not None:
            return route
    path = target.partition(b"?")[0]
    for prefix, dialect in PREFIXES:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/"):
            route = _owned_route(method, path, dialect)
            if method == b"POST" and route.refusal is None and len(target) <= _LONGEST_LEARNT:
                _learn(target, route)
            return route
    return RELAYED


def _learn(target: bytes, route: Route) -> None:
    if len(_posts) >= _MAX_LEARNT:
        _posts.clear()
        _posts.update(_USUAL)
    _posts[target] = route


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
