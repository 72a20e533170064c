"""Which replica, which service: the idle before the busy, the healthy before the failing, and by weight."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.errors import EndpointStopped, NotReady, Unavailable
from mooring.core.snapshot import EndpointEntry, Limits, ReplicaEntry, ServiceEntry
from mooring.gateway import waiting
from mooring.gateway.routing import Replica, Service, Target, choose_replica
from mooring.gateway.upstream import Pool
from mooring.gateway.waiting import WaitingLines

NOW = 1000.0
LIMITS = Limits()


def service(*ready: bool, name: str = "svc", enabled: bool = True, slots: int = 0, **fields) -> Service:
    """Return a service with one replica per flag."""
    entries = [ReplicaEntry(f"{name}-{n}", f"http://h{n}/v1", None, one, slots) for n, one in enumerate(ready)]
    loop = asyncio.new_event_loop()
    loop.close()
    replicas = [Replica(entry, Pool(entry, loop)) for entry in entries]
    entry = ServiceEntry(
        **{
            "id": name,
            "name": name,
            "project": "default",
            "external": True,
            "engine": "external",
            "served_model": "up",
            "chip": "cpu",
            "types": ("chat",),
            "state": "starting",
            "reason": "loading",
            "enabled": enabled,
            "direct_access": True,
            "replicas": tuple(entries),
            "context_length": 0,
            "limits": LIMITS,
            **fields,
        }
    )
    return Service(entry, replicas)


def endpoint(enabled: bool = True) -> EndpointEntry:
    return EndpointEntry("ep-1", "chat", "default", enabled, (), LIMITS, 0)


def choose(one: Service, *excluded: str, now: float = NOW) -> int:
    return one.replicas.index(choose_replica(one, excluded, now))


# --- replicas


def test_the_replica_with_the_least_requests_in_flight_is_chosen():
    three = service(True, True, True)
    for replica, count in zip(three.replicas, (2, 1, 3), strict=True):
        replica.in_flight = count
    assert choose(three) == 1


def test_requests_spread_evenly():
    three = service(True, True, True)
    for _ in range(30):
        three.replicas[choose(three)].in_flight += 1
    assert [replica.in_flight for replica in three.replicas] == [10, 10, 10]


def test_a_replica_that_is_not_ready_or_was_tried_is_not_chosen():
    three = service(False, True, True)
    assert choose(three, "svc-1") == 2


@pytest.mark.parametrize("ready", [(), (False,), (False, False)])
def test_without_a_ready_replica_the_refusal_tells_the_services_state(ready):
    with pytest.raises(NotReady, match=r"svc has no ready replica; it is starting: loading\.") as refused:
        choose(service(*ready))
    assert refused.value.retry_after_s


@pytest.mark.parametrize("ready", [(True,), (True, True)])
def test_when_all_were_tried_there_is_none_left(ready):
    with pytest.raises(NotReady):
        choose(service(*ready), "svc-0", "svc-1")


def test_a_failing_replica_rests_while_others_can_take_the_request():
    two = service(True, True)
    two.replicas[0].failed(NOW)
    two.replicas[1].in_flight = 50
    assert choose(two) == 1
    assert choose(two, now=NOW + 0.3) == 0


def test_when_all_rest_the_one_that_is_ready_again_first_is_tried():
    two = service(True, True)
    two.replicas[0].failed(NOW + 0.1)
    two.replicas[1].failed(NOW)
    assert choose(two) == 1
    assert choose(service(True)) == 0


def test_each_failure_in_a_row_doubles_the_rest_up_to_a_bound_and_an_answer_ends_it():
    [replica] = service(True).replicas
    rests: list[float] = []
    for _ in range(30):
        replica.failed(NOW)
        rests.append(round(replica.blocked_until - NOW, 3))
    assert rests[:6] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert set(rests[6:]) == {5.0}
    replica.answered()
    assert replica.blocked_until == 0.0
    replica.failed(NOW)
    assert replica.blocked_until == NOW + 0.2


@given(
    replicas=st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.floats(0, 2)), min_size=1, max_size=8),
    excluded=st.sets(st.integers(0, 7)),
)
def test_the_choice_is_always_ready_untried_and_the_best_of_those(replicas, excluded):
    some = service(*(ready for ready, _, _ in replicas))
    for replica, (_, in_flight, rest) in zip(some.replicas, replicas, strict=True):
        replica.in_flight = in_flight
        replica.blocked_until = NOW + rest - 1
    names = {f"svc-{number}" for number in excluded}
    usable = [one for one in some.replicas if one.entry.ready and one.entry.id not in names]
    if not usable:
        with pytest.raises(NotReady):
            choose_replica(some, names, NOW)
        return
    chosen = choose_replica(some, names, NOW)
    assert chosen in usable
    awake = [one for one in usable if one.blocked_until <= NOW]
    if awake:
        assert chosen in awake
        assert chosen.in_flight == min(one.in_flight for one in awake)


def test_a_replica_is_full_when_more_would_only_wait_inside_it():
    [replica] = service(True, slots=2).replicas
    replica.in_flight = 2 * waiting.PLACES_PER_SLOT - 1
    assert not replica.full(1)
    assert replica.full(2)
    replica.in_flight += 1
    assert replica.full(1)


def test_a_replica_of_unknown_slots_is_never_full_and_every_worker_may_use_one_place():
    [unknown] = service(True).replicas
    unknown.in_flight = 10_000
    assert not unknown.full(1)
    [small] = service(True, slots=1).replicas
    assert not small.full(64)
    small.in_flight = 1
    assert small.full(64)


# --- services behind an endpoint


def test_a_stopped_endpoint_says_so_whatever_stands_behind_it():
    for services in ([], [(service(True), 1)], [(service(True), 1), (service(True, name="b"), 1)]):
        with pytest.raises(EndpointStopped, match="ep-1"):
            Target(endpoint(enabled=False), services).choose_service()


def test_a_stopped_service_says_so():
    for services in ([(service(True, enabled=False), 1)], [(service(True, enabled=False), 1)] * 2):
        with pytest.raises(EndpointStopped, match="svc is disabled"):
            Target(endpoint(), services).choose_service()
    with pytest.raises(EndpointStopped):
        Target(None, [(service(True, enabled=False), 1)]).choose_service()


def test_an_endpoint_without_a_service_is_not_ready():
    with pytest.raises(NotReady):
        Target(endpoint(), []).choose_service()


def test_weights_share_the_requests():
    heavy, light, never = service(True, name="a"), service(True, name="b"), service(True, name="c")
    target = Target(endpoint(), [(heavy, 3), (light, 1), (never, 0)])
    counts = Counter(target.choose_service().entry.name for _ in range(4000))
    assert counts["c"] == 0
    assert 0.70 < counts["a"] / 4000 < 0.80


def test_a_service_that_can_not_answer_leaves_its_share_to_the_others():
    up, down, off = service(True, name="a"), service(False, name="b"), service(True, name="c", enabled=False)
    target = Target(endpoint(), [(up, 1), (down, 50), (off, 50)])
    assert {target.choose_service().entry.name for _ in range(50)} == {"a"}


def test_when_none_can_answer_the_heaviest_is_named():
    target = Target(endpoint(), [(service(False, name="a"), 1), (service(False, name="b"), 5)])
    assert target.choose_service().entry.name == "b"


def test_a_service_that_starts_is_named_before_one_that_is_switched_off():
    starting, off = service(False, name="a"), service(True, name="b", enabled=False)
    assert Target(endpoint(), [(starting, 1), (off, 5)]).choose_service() is starting


# --- services that share a path


def test_the_alike_share_by_load_and_those_that_can_not_answer_take_no_part():
    idle, busy, down = service(True, True, slots=4), service(True), service(False)
    busy.replicas[0].in_flight = 1
    alike = Target(None, [(down, 1), (busy, 1), (idle, 1)])
    idle.replicas[0].in_flight = 7  # of 8 places
    assert {alike.choose_service() for _ in range(20)} == {idle}
    idle.replicas[1].in_flight = 2
    assert {alike.choose_service() for _ in range(20)} == {busy}
    busy.replicas[0].in_flight = idle.replicas[0].in_flight = idle.replicas[1].in_flight = 0
    assert {alike.choose_service() for _ in range(200)} == {idle, busy}  # the workers do not all take the first


# --- the line for a place


class Waiter:
    def __init__(self) -> None:
        self.calls = 0

    def released(self) -> None:
        self.calls += 1


def test_who_came_first_goes_first_and_who_was_let_go_in_vain_stands_first_again():
    lines = WaitingLines()
    first, second = Waiter(), Waiter()
    lines.enter("svc", first)
    lines.enter("svc", second)
    lines.release_next("svc")
    assert (first.calls, second.calls) == (1, 0)
    lines.enter("svc", first, first=True)
    lines.release_next("svc")
    assert (first.calls, second.calls) == (2, 0)
    lines.release_next("svc")
    assert second.calls == 1
    assert not lines.occupied("svc")
    lines.release_next("svc")


def test_who_left_the_line_is_not_let_go_and_lines_do_not_mix():
    lines = WaitingLines()
    gone, stays, other = Waiter(), Waiter(), Waiter()
    lines.enter("svc", gone)
    lines.enter("svc", stays)
    lines.enter("other", other)
    lines.leave("svc", gone)
    lines.leave("svc", gone)
    lines.leave("nothing", gone)
    lines.release_next("svc")
    assert (gone.calls, stays.calls, other.calls) == (0, 1, 0)
    lines.release_all()
    assert other.calls == 1
    assert not lines.occupied("other")


def test_a_line_has_an_end():
    lines = WaitingLines()
    with pytest.raises(Unavailable) as refused:
        for _ in range(10_000):
            lines.enter("svc", Waiter())
    assert refused.value.code == "service_overloaded"
    lines.enter("other", Waiter())
