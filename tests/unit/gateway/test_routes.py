"""From a request line to its operation and dialect: one table, nothing of ours reaches control."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.errors import MethodNotAllowed, PathNotFound
from mooring.gateway import dialects
from mooring.gateway.dialects import PREFIXES, RELAYED, ark, cluster, find_route, genstudio, modelarts, openai
from mooring.gateway.dialects.operations import OPEN, READ, TRANSLATED, UPSTREAM_PATHS
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
        (b"POST", b"/api/v3/chat/completions", "chat", ark, None),
        (b"POST", b"/api/v3/completions?x", "completion", ark, None),
        (b"POST", b"/api/v3/embeddings", "embedding", ark, None),
        (b"GET", b"/api/v3/models", "models", ark, None),
        (b"POST", b"/v1/infers/svc-1/v1/chat/completions", "chat", modelarts, Address(service="svc-1")),
        (b"POST", b"/v1/infers/svc%2D1/v1/completions", "completion", modelarts, Address(service="svc-1")),
        (b"GET", b"/v1/infers/svc-1/v1/models", "service_models", modelarts, Address(service="svc-1")),
        (b"POST", b"/maas/m/cpu/chat/completions", "chat", genstudio, Address(model="m", chip="cpu")),
        (b"POST", b"/maas/o%2Fm/cpu/chat/completions", "chat", genstudio, Address(model="o/m", chip="cpu")),
        (b"POST", b"/maas/o/m/a%20b/chat/completions?x=/", "chat", genstudio, Address(model="o/m", chip="a b")),
        (b"GET", b"/maas/models/cpu/models", "service_models", genstudio, Address(model="models", chip="cpu")),
        (b"POST", b"/maas/%FF/../chat/completions", "chat", genstudio, Address(model="\ufffd", chip="..")),
    ],
)  # fmt: skip
def test_a_path_is_an_operation_of_a_dialect(method, target, operation, dialect, address):
    route = find_route(method, target)
    assert (route.operation, route.dialect, route.address) == (operation, dialect, address)
    assert route.refusal is None
    assert route.keyed is (operation not in OPEN)


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/chat/completions",
        b"/api/v3/chat/completions",
        b"/v1/infers/svc-1/v1/chat/completions",
        b"/maas/o/m/cpu/chat/completions",
        SERVICE + b"v1/chat/completions",
    ],
)
def test_a_path_asked_for_before_is_found_without_a_new_object(target):
    assert find_route(b"POST", target) is find_route(b"POST", target)
    assert target in dialects._posts


def test_paths_are_remembered_within_a_bound(monkeypatch):
    monkeypatch.setattr(dialects, "_MAX_LEARNT", 50)
    for number in range(200):
        assert find_route(b"POST", b"/v1/infers/%d/v1/completions" % number).address == Address(service=str(number))
        assert len(dialects._posts) <= 50
    for forgotten in (
        b"/v1/infers/" + b"x" * 300 + b"/v1/completions",
        b"/v1/infers/a/v1/nothing",
        b"/v1/infers/a/v1/models",
    ):
        find_route(b"POST", forgotten)
        assert forgotten not in dialects._posts
    assert find_route(b"POST", b"/api/v3/embeddings").operation == "embedding"


@pytest.mark.parametrize(
    ("target", "dialect"),
    [
        (b"/v1/infers", modelarts),
        (b"/v1/infers/", modelarts),
        (b"/v1/infersx/a/v1/chat/completions", openai),
        (b"/v1/infers//v1/chat/completions", modelarts),
        (b"/v1/infers/svc-1/v1//chat/completions", modelarts),
        (b"/v1/infers/svc-1/v1/chat/completions/", modelarts),
        (b"/v1/infers/svc-1/v1/embeddings", modelarts),
        (b"/v1/infers/svc-1/v1%2Fchat%2Fcompletions", modelarts),
        (b"/v1/chat/completions/", openai),
        (b"/v1//chat/completions", openai),
        (b"/v1/../manage/v1/keys", openai),
        (b"/v1/chat%2Fcompletions", openai),
        (b"/api/v3", ark),
        (b"/api/v3/chat", ark),
        (b"/api/v3/models/ep-1", ark),
        (b"/maas/", genstudio),
        (b"/maas/cpu/chat/completions", genstudio),
        (b"/maas//cpu/chat/completions", genstudio),
        (b"/maas/m//chat/completions", genstudio),
        (b"/maas/m/cpu/completions", genstudio),
        (b"/maas/m/cpu/chat/completions/", genstudio),
        (b"/maas/m/cpu%2Fchat/completions", genstudio),
    ],
)
def test_what_is_no_path_of_a_dialect_is_refused_by_it_and_never_relayed(target, dialect):
    for method in (b"POST", b"GET", b"BREW"):
        route = find_route(method, target)
        assert (route.dialect, type(route.refusal)) == (dialect, PathNotFound)


@given(st.sampled_from([prefix for prefix, _ in PREFIXES]), st.binary(max_size=40), st.sampled_from([b"GET", b"POST"]))
def test_nothing_below_a_prefix_of_ours_crashes_or_is_relayed(prefix, rest, method):
    assert find_route(method, prefix + b"/" + rest) is not RELAYED


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/v1x",
        b"/manage/v1/keys",
        b"/api/v1",
        b"/api/v1/namespacesx",
        b"/healthz",
        b"/api/v33",
        b"//maas/m/cpu/models",
    ],
)
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
        (b"POST", b"/api/v3/models", "GET, HEAD"),
        (b"GET", b"/v1/infers/svc-1/v1/completions", "POST"),
        (b"PUT", b"/maas/m/cpu/chat/completions", "POST"),
    ],
)
def test_another_method_is_told_which_there_are(method, target, allowed):
    refusal = find_route(method, target).refusal
    assert isinstance(refusal, MethodNotAllowed)
    assert refusal.param == allowed


def test_every_operation_is_read_or_has_a_place_at_the_replica():
    operations = {one.parse(path) for one in (openai, ark) for path in one.POST_PATHS}
    assert {asked[0] for asked in operations if asked} <= set(UPSTREAM_PATHS) | TRANSLATED
    assert not READ & set(UPSTREAM_PATHS)
