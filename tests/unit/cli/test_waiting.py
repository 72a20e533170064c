"""When the waiting for a service ends, and how."""

from typing import Any

import pytest

from mooring.cli import waiting
from mooring.cli.problems import CommandError
from mooring.cli.waiting import has_trouble, judge, wait_for_services


def service(state: str, reason: str = "", *, current: int = 1, kind: str = "ModelService", **spec: Any) -> dict:
    status = {"state": state, "reason": reason, "replicas": 1, "readyReplicas": 1, "currentReplicas": current}
    return {
        "kind": kind,
        "id": "svc-1",
        "metadata": {"name": "demo"},
        "spec": {"replicas": 1, **spec},
        "status": status,
    }


KEPT = "The old one keeps serving (1 of 1 ready)."
FAILED_UPDATE = f"The new version fails: Failed 3 times in a row. The engine exited with status 1: no such file. {KEPT}"
RETRIED = f"The new version fails: The engine exited with status 1. Starting again in 2 s. {KEPT}"


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (service("healthy"), "ready"),
        (service("healthy", replicas=2), "waiting"),
        (service("healthy", current=0), "waiting"),
        (service("updating", "0 of 1 replicas are ready.", current=0), "waiting"),
        (service("updating", RETRIED, current=0), "waiting"),
        (service("updating", FAILED_UPDATE, current=0), "failed"),
        (service("failed", "The engine ended."), "failed"),
        (service("pending", current=0), "waiting"),
        (service("stopped", stopped=True), "ready"),
        (service("stopped", current=0), "waiting"),
        (service("stopping", replicas=0), "waiting"),
        (service("sleeping", current=0), "ready"),
        (service("healthy", kind="ExternalService", current=0), "ready"),
        (service("unhealthy", "refused", kind="ExternalService"), "waiting"),
    ],
)
def test_a_service_is_ready_only_when_it_runs_what_its_spec_says(found: dict, verdict: str) -> None:
    assert judge(found) == verdict


@pytest.mark.parametrize(
    ("found", "trouble"),
    [
        (service("healthy"), False),
        (service("updating", "0 of 1 replicas are ready."), False),
        (service("updating", FAILED_UPDATE), True),
        (service("updating", RETRIED), True),
        (service("updating", "0 of 1 replicas are ready. The model file is gone."), True),
        (service("healthy", "1 of 2 replicas are ready. Failed after 3 starts."), True),
        (service("starting", "The engine ended. Starting again in 4 s."), True),
        (service("starting", "The engine loads the model."), False),
        (service("unhealthy"), True),
        (service("failed"), True),
    ],
)
def test_trouble_is_told_also_while_a_service_still_answers(found: dict, trouble: bool) -> None:
    assert has_trouble(found) is trouble


class Platform:
    """Tells one state after the other; the last one stays."""

    def __init__(self, *states: dict) -> None:
        self.states = list(states)

    def get(self, path: str, **query: Any) -> dict:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAUSE_S", 0.0)
    monkeypatch.setattr(waiting, "SETTLE_S", 0.0)


def wait(platform: Platform, timeout_s: float = 60.0) -> list[dict]:
    return wait_for_services(platform, [{**service("healthy"), "action": "updated"}], timeout_s)  # type: ignore[arg-type]


def test_a_failed_update_ends_the_waiting_at_once_with_its_reason() -> None:
    platform = Platform(service("updating", current=0), service("updating", FAILED_UPDATE, current=0))
    with pytest.raises(CommandError, match="no such file"):
        wait(platform)


def test_an_update_is_waited_for_although_the_old_replica_is_healthy() -> None:
    found = wait(Platform(service("healthy", current=0), service("updating", current=0), service("healthy")))
    assert found[0]["status"]["currentReplicas"] == 1


def test_what_comes_too_late_is_told_with_its_reason() -> None:
    with pytest.raises(CommandError, match=r"still updating after 0 s \(.*Starting again"):
        wait(Platform(service("updating", RETRIED, current=0)), 0.0)
