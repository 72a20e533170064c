from datetime import UTC, datetime

import pytest

from mooring.core.replicas import Replica
from mooring.reconcile.history import adoption, replica_events, service_event

AT = datetime(2026, 1, 1, tzinfo=UTC)


def told(before, after, others=()):
    return [event.message for event in service_event("svc-1", AT, before, after, others)]


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (("failed", "Failed 3 times in a row. Bad magic."), "The service failed 3 times in a row. Bad magic."),
        (("failed", "Failed. No such flag."), "The service failed. No such flag."),
        (("failed", "No such model."), "The service failed: No such model."),
        (("failed", ""), "The service failed."),
        (("healthy", ""), "The service is healthy."),
        (("pending", "Waits."), "The service is pending: Waits."),
    ],
)
def test_the_event_of_a_service_is_a_sentence(after, message):
    assert told(("starting", ""), after) == [message]


def test_a_reason_that_the_replica_gave_is_not_given_again():
    before = Replica("r1", "svc-1", 1, state="ready")
    after = Replica("r1", "svc-1", 1, state="pending", reason="The engine ended.", restarts=1)
    events = replica_events("svc-1", AT, [before], [after])
    assert [event.message for event in events] == ["Replica r1: The engine ended."]
    assert told(("healthy", ""), ("unhealthy", "The engine ended."), events) == ["The service is unhealthy."]


@pytest.mark.parametrize(
    ("restarts", "again"), [(0, ""), (1, " again"), (2, " again for the 2nd time"), (4, " again for the 4th time")]
)
def test_a_start_tells_how_often_it_was_tried(restarts, again):
    (event,) = replica_events("svc-1", AT, [], [Replica("r1", "svc-1", 1, state="starting", restarts=restarts)])
    assert event.message == f"Replica r1: The engine starts{again}."


def test_an_engine_that_was_taken_over_leaves_an_event():
    assert adoption(Replica("r1", "svc-1", 1), AT, 42).message == (
        "Replica r1: its engine (process 42) kept running and was taken over."
    )
