"""Following logs and events through cuts of the connection."""

import json
import os
import subprocess
import sys
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cli.scripted import Answer, Asked, Script, run

import mooring
from mooring.cli import following
from mooring.cli.following import known, unseen

SERVICE = {
    "kind": "ModelService",
    "id": "svc-1",
    "metadata": {"name": "demo", "project": "default"},
    "spec": {},
    "status": {"state": "healthy"},
}
PATH = "/manage/v1/services/svc-1"
GONE = Answer(404, {"detail": "There is no such service."})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(following, "LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr(following, "BURST_PAUSE_S", 0.05)


@pytest.fixture(autouse=True)
def running(script: Script) -> None:
    script.on("GET", f"{PATH}/replicas", {"items": [{"id": "rep-a"}]})


def event(number: int) -> bytes:
    told = {"id": number, "at": f"2026-01-31T08:00:0{number}Z", "level": "info", "message": f"event {number}"}
    return json.dumps({**told, "serviceId": "svc-1"}).encode() + b"\n"


def lines(*texts: str, replica: str = "rep-a") -> tuple[bytes, ...]:
    return tuple(f"[{replica}] {text}\n".encode() for text in texts)


@given(st.lists(st.integers(0, 3).map(str), max_size=12), st.lists(st.integers(0, 3).map(str), max_size=12))
def test_what_follows_what_was_seen_is_never_taken_for_known_when_all_lines_differ(
    seen: list[str], fresh: list[str]
) -> None:
    seen = [f"{number} {line}" for number, line in enumerate(seen)]
    fresh = [f"{number + len(seen)} {line}" for number, line in enumerate(fresh)]
    for kept in range(len(seen) + 1):  # the new connection brings some of the old lines, then the new ones
        again = seen[len(seen) - kept :] + fresh
        assert again[known(seen, again) :] == fresh


def test_each_replica_is_recognised_by_its_own_lines() -> None:
    seen = {"[rep-a] ": deque(["[rep-a] 1", "[rep-a] 2"]), "[rep-b] ": deque(["[rep-b] 1"])}
    fresh = ["[rep-b] 1", "[rep-a] 1", "[rep-b] 2", "[rep-a] 2", "[rep-a] 3", "[rep-c] 1"]
    for replica in ("[rep-c] ",):
        seen[replica] = deque()
    assert unseen(fresh, seen) == ["[rep-b] 2", "[rep-a] 3", "[rep-c] 1"]


def test_events_go_on_behind_the_last_one_after_a_cut(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.on("GET", "/manage/v1/services/demo", SERVICE)

    def rest(asked: Asked) -> Answer:
        return Answer(pieces=(b"\n", *(event(3) for _ in "3" if int(asked.query["after"]) < 3)))

    script.on("GET", PATH, Answer(502, {"detail": "Control broke off."}), SERVICE, SERVICE, GONE)
    script.on("GET", "/manage/v1/external-services/svc-1", GONE)
    script.on(
        "GET",
        f"{PATH}/events",
        Answer(pieces=(event(1), b"\n", event(2), event(3)[:20]), cut=True),
        Answer(503, {"detail": "Control restarts."}),
        rest,
    )
    assert run("events", "-f", "demo") == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.rpartition("  ")[2] for line in out] == ["event 1", "event 2", "event 3"]
    asked = script.sent("GET", f"{PATH}/events")
    assert [request.query.get("after") for request in asked] == [None, "2", "2", "3", "3"]
    assert asked[0].query["follow"] == "true"


def test_followed_logs_neither_lose_nor_double_a_line_after_a_cut(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script.on("GET", "/manage/v1/services/demo", SERVICE)
    script.on("GET", PATH, SERVICE, GONE)
    script.on("GET", "/manage/v1/external-services/svc-1", GONE)
    again = (*lines("1", "2", "2", "3"), *lines("x", replica="rep-b"), *lines("4"))
    script.on(
        "GET", f"{PATH}/logs", Answer(pieces=lines("2", "2", "3"), cut=True), Answer(502, {}), Answer(pieces=again)
    )  # fmt: skip
    assert run("logs", "-f", "demo", "-n", "3") == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == ["[rep-a] 2", "[rep-a] 2", "[rep-a] 3", "[rep-b] x", "[rep-a] 4"]
    assert "demo is deleted" in told.err
    assert [request.query["tail"] for request in script.sent("GET", f"{PATH}/logs")] == ["3", "1000", "1000"]


@pytest.mark.parametrize("command", ["logs", "events"])
def test_a_refusal_ends_the_following_with_its_reason(
    script: Script, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    script.on("GET", "/manage/v1/services/demo", SERVICE)
    script.on("GET", f"{PATH}/{command}", Answer(403, {"detail": "Only administrators.", "nextStep": "Ask one."}))
    assert run(command, "-f", "demo") == 1
    assert "Only administrators." in capsys.readouterr().err


def test_the_past_is_told_oldest_first_and_of_all_services_with_their_names(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script.on("GET", "/manage/v1/services", {"items": [SERVICE]})
    script.on("GET", "/manage/v1/external-services", {"items": []})
    script.on("GET", "/manage/v1/events", {"items": [json.loads(event(2)), json.loads(event(1))]})
    assert run("events") == 0
    assert capsys.readouterr().out.splitlines() == [
        "2026-01-31 08:00:01  demo: event 1",
        "2026-01-31 08:00:02  demo: event 2",
    ]


def test_a_reader_that_leaves_and_ctrl_c_both_end_a_following_quietly(script: Script) -> None:
    def endless(asked: Asked) -> Answer:
        return Answer(pieces=tuple(lines(str(number))[0] for number in range(5000)), cut=True)

    script.on("GET", "/manage/v1/services/demo", SERVICE)
    script.on("GET", PATH, SERVICE)
    script.on("GET", f"{PATH}/logs", endless)
    environ = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(mooring.__file__))}
    command = f"{sys.executable} -m mooring logs -f demo"
    piped = ["bash", "-c", f"{command} | head -n 2; echo ${{PIPESTATUS[0]}}"]
    done = subprocess.run(piped, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.stdout.splitlines(), done.stderr) == (["[rep-a] 0", "[rep-a] 1", "0"], "")
    with subprocess.Popen(command.split(), env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(2)
        process.stdout.close()
        assert process.wait(30) in (130, 0)  # 0: the closed pipe was noticed first
        assert process.stderr.read() == b""
