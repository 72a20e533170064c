"""From a request line to its operation and dialect: one table, nothing of ours reaches control."""

from __future__ import annotations

import pytest

from mooring.core.errors import MethodNotAllowed, PathNotFound
from mooring.gateway.dialects import PREFIXES, RELAYED, cluster, find_route, openai
from mooring.gateway.dialects.operations import OPEN, READ, UPSTREAM_PATHS
from mooring.gateway.dialects.route import Address

SERVICE = b"/api/v1/namespaces/p/services/modelservice-a-b:http/proxy/"


@pytest.mark.parametrize(
    ("method", "target", "operation", "dialect", "address"),
    [
        (b"POST", b"/v1/chat/completions", "chat", openai, None),
        (b"POST", b"/v1/chat/completions?api-version=1", "chat", openai, None),
        (b"GET", b"/v1/models", "models", openai, None),
        (b"HEAD", b"/v1/models/a/b", "model", openai, None),
        (b"GET", b"/health", "health", openai, None),
        (b"POST", SERVICE + b"v1/completions", "completion", cluster, Address("p", "a-b")),
        (b"GET", SERVICE + b"health?x", "service_health", cluster, Address("p", "a-b")),
        (b"GET", b"/api/v1/namespaces/%C3%A9/services/modelservice-a%3Ahttp/proxy/health", "service_health", cluster,
         Address("é", "a")),
    ],
)  # fmt: skip
def test_a_path_is_an_operation_of_a_dialect(method, target, operation, dialect, address):
    route = find_route(method, target)
    assert (route.operation, route.dialect, route.address) == (operation, dialect, address)
    assert route.refusal is None
    assert route.keyed is (operation not in OPEN)


def test_the_usual_path_is_found_without_a_new_object():
    target = b"/v1/chat/completions"
    assert find_route(b"POST", target) is find_route(b"POST", target)


@pytest.mark.parametrize("target", [b"/", b"/v1x", b"/manage/v1/keys", b"/api/v1", b"/api/v1/namespacesx", b"/healthz"])
def test_everything_else_is_controls(target):
    assert find_route(b"GET", target) is RELAYED


@pytest.mark.parametrize("prefix", [prefix for prefix, _ in PREFIXES])
def test_an_unknown_path_below_ours_is_refused_in_its_dialect(prefix):
    route = find_route(b"GET", prefix + b"/nothing/at/all")
    assert isinstance(route.refusal, PathNotFound)
    assert route.dialect is dict(PREFIXES)[prefix]
    assert not route.keyed


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        (b"GET", b"/tokenize", "POST"),
        (b"POST", b"/v1/models", "GET, HEAD"),
        (b"DELETE", SERVICE + b"v1/models", "GET, HEAD"),
        (b"HEAD", SERVICE + b"v1/chat/completions", "POST"),
    ],
)
def test_another_method_is_told_which_there_are(method, target, allowed):
    refusal = find_route(method, target).refusal
    assert isinstance(refusal, MethodNotAllowed)
    assert refusal.param == allowed


def test_every_operation_is_read_or_has_a_place_at_the_replica():
    operations = {openai.parse(path) for path in openai.POST_PATHS}
    assert {asked[0] for asked in operations if asked} <= set(UPSTREAM_PATHS)
    assert not READ & set(UPSTREAM_PATHS)
