"""When the waiting for a service ends, and how."""

from typing import Any

import pytest

from mooring.cli import waiting
from mooring.cli.client import Client
from mooring.cli.problems import CommandError
from mooring.cli.waiting import NotReadyError, engine_started, failure, has_trouble, judge, wait_for_services


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


def rolled_back(version: int, *, reason: str = "") -> dict:
    found = service("healthy", reason)
    told = {"version": version, "reason": "The engine exited with status 1: bad flag.", "at": "2026-01-31T08:00:00Z"}
    found["status"] |= {"detail": {"rolledBack": told}, "specVersion": version + 1}
    return found


TOLD = "Version 2 did not come up and was rolled back: Failed 3 times in a row. No such file."


def test_a_version_that_was_rolled_back_has_failed_and_an_earlier_one_does_not_matter() -> None:
    assert judge(rolled_back(2), 2) == "failed"
    assert judge(rolled_back(2), 3) == "ready"
    assert judge(rolled_back(2, reason=TOLD), 3) == "ready"
    assert not has_trouble(rolled_back(2, reason=TOLD))
    said = failure(rolled_back(2), 2, started=True)
    assert said.message == (
        "demo failed: version 2 did not come up and was rolled back: The engine exited with status 1: bad flag."
    )
    assert "The version before runs again" in said.next_step and said.serving
    assert "mooring services events demo" in said.next_step and "mooring services logs demo" in said.next_step


def test_what_the_machine_can_never_hold_has_failed_with_that_reason() -> None:
    found = service("pending", "It waits.", current=0)
    found["status"] |= {"detail": {"unfit": "It needs 9 TiB of memory."}, "readyReplicas": 0}
    assert (judge(found), has_trouble(found)) == ("failed", True)
    said = failure(found, started=False)
    assert said.message == "demo failed: It needs 9 TiB of memory."
    assert not said.serving


class Platform(Client):
    """Tells one state after the other; the last one stays. An error is raised instead of told."""

    def __init__(self, *states: dict | Exception) -> None:
        super().__init__("http://127.0.0.1:1", "mk-x")
        self.states = list(states)

    def get(self, path: str, **query: Any) -> Any:
        if path.endswith("/replicas"):
            return {"items": []}
        found = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(found, BaseException):
            raise found
        return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAUSE_S", 0.0)
    monkeypatch.setattr(waiting, "SETTLE_S", 0.0)


def wait(platform: Platform, timeout_s: float = 60.0) -> list[dict]:
    return wait_for_services(platform, [{**service("healthy"), "action": "updated"}], timeout_s)


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


def away() -> CommandError:
    return CommandError("No platform answers.")


def refused() -> CommandError:
    error = CommandError("The key is not known.")
    error.answered = 401
    return error


def test_a_roll_back_of_what_was_applied_is_a_failure_with_its_reason() -> None:
    item = {**service("updating"), "action": "updated"}
    item["status"]["specVersion"] = 2
    with pytest.raises(CommandError, match="version 2 did not come up and was rolled back: The engine exited"):
        wait_for_services(Platform(service("updating", current=0), rolled_back(2)), [item], 60.0)


def test_a_platform_that_restarts_meanwhile_is_waited_for_and_a_refusal_is_not() -> None:
    assert wait(Platform(away(), away(), service("healthy")))[0]["status"]["state"] == "healthy"
    with pytest.raises(CommandError, match="not known"):
        wait(Platform(refused()))


def test_a_platform_that_stays_away_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AWAY_S", 0.0)
    with pytest.raises(CommandError, match="No platform answers"):
        wait(Platform(away()))


def test_a_download_that_moves_on_is_waited_for_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 6))  # every look at the clock is six seconds later
    monkeypatch.setattr(waiting.time, "monotonic", lambda: float(next(now)))

    def downloading(done: int) -> dict:
        found = service("downloading", "org/repo is being downloaded.", current=0)
        found["status"]["progress"] = {"phase": "downloading", "doneBytes": done, "totalBytes": 100}
        return found

    moving = [downloading(done) for done in range(0, 101, 10)]
    assert wait(Platform(*moving, service("healthy")), 13.0)[0]["status"]["state"] == "healthy"
    with pytest.raises(CommandError, match="still downloading after 13 s"):
        wait(Platform(*moving[:3]), 13.0)


def test_only_an_engine_that_has_started_has_a_log_to_look_at() -> None:
    gated = service("failed", "org/repo can't be fetched: the repository is gated. Accept its licence on the hub.")
    with pytest.raises(NotReadyError, match="Accept its licence") as refused:
        wait(Platform(gated))
    assert refused.value.next_step == "See: mooring services events demo"
    loading = service("failed", "The engine ended.")
    loading["status"]["progress"] = {"phase": "loading"}
    with pytest.raises(NotReadyError, match="The engine ended") as refused:
        wait(Platform(loading))
    assert refused.value.next_step == "See: mooring services logs demo"
    assert not engine_started(Platform(loading), {**loading, "kind": "ExternalService"})


def test_whoever_leaves_hears_that_it_goes_on_and_how_to_watch_or_remove_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyboardInterrupt):
        wait(Platform(service("starting", current=0), KeyboardInterrupt()))  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert "demo goes on" in said
    assert "mooring services events -f demo" in said
    assert "mooring services delete demo --with-endpoints" in said
