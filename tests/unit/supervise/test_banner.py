from __future__ import annotations

import json
import unicodedata
from dataclasses import replace

import pytest

from mooring.supervise.banner import Facts, _cut, judge_demo, render

FACTS = Facts(
    base_url="http://127.0.0.1:8080",
    admin_file=".mooring/admin.json",
    username="admin",
    has_password=True,
    has_key=True,
    endpoint_id="ep-20261121040000-abcde",
    answer="你好！很高兴见到您，有什么可以帮您？" * 5,
)


def _columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def test_the_last_line_is_the_one_that_scripts_wait_for() -> None:
    assert render(FACTS).splitlines()[-1] == "Mooring is ready: http://127.0.0.1:8080"


def test_no_line_is_wider_than_eighty_columns() -> None:
    assert max(_columns(line) for line in render(FACTS).splitlines()) <= 80


def test_the_body_that_is_shown_is_json() -> None:
    body = render(FACTS).partition(" -d '")[2].partition("'")[0]
    assert json.loads(body) == {
        "model": FACTS.endpoint_id,
        "messages": [{"role": "user", "content": "你好"}],
    }


def test_it_says_where_the_key_is_and_how_it_is_used() -> None:
    said = render(FACTS)
    assert "Sign in    as admin; password and API key: see .mooring/admin.json" in said
    assert "$KEY" in said and "sed -n" in said and "ep-20261121040000-abcde" in said


def test_a_sealed_installation_shows_a_placeholder() -> None:
    said = render(replace(FACTS, has_key=False, has_password=False))
    assert "KEY=<your API key>" in said
    assert "Sign in" not in said


def test_without_a_demo_there_is_no_call_to_show() -> None:
    said = render(replace(FACTS, endpoint_id="", answer=""))
    assert "curl" not in said and "answered" not in said


def test_a_demo_that_does_not_answer_is_told_with_the_reason() -> None:
    said = render(replace(FACTS, answer="", trouble="The demo model does not answer yet: HTTP 503"))
    assert "does not answer yet: HTTP 503" in said and "curl" in said


def test_a_dead_demo_is_one_line_without_a_call_to_show() -> None:
    said = render(replace(FACTS, answer="", trouble="The demo endpoint was deleted.", dead=True))
    assert "The demo endpoint was deleted." in said and "curl" not in said and FACTS.endpoint_id not in said


def _endpoint(state: str, reason: str = "") -> dict[str, object]:
    made = {"createdAt": "2026-01-01T00:00:00Z"}
    return {"metadata": made, "status": {"state": state, "reason": reason}}


MADE = 1767225600.0


@pytest.mark.parametrize(
    ("status", "body", "told", "dead"),
    [
        (404, {}, "The demo endpoint was deleted.", True),
        (401, {}, "The key in admin.json is not valid any more; see: mooring admin reset", True),
        (200, _endpoint("Stopped"), "The demo endpoint is stopped.", True),
        (200, _endpoint("Abnormal", "demo is failed"), "The demo endpoint can't answer: demo is failed", True),
        (200, _endpoint("Scheduling"), "The demo model is being started.", False),
        (200, _endpoint("Healthy"), "", False),
        (0, None, "The demo endpoint's state is unknown (HTTP 0).", False),
        (200, [], "The demo endpoint's state is unknown (HTTP 200).", False),
    ],
)
def test_the_state_of_the_demo_endpoint_decides_what_is_said(status: int, body: object, told: str, dead: bool) -> None:
    demo = judge_demo(status, body, MADE)
    assert (demo.trouble, demo.dead) == (told, dead)


def test_only_an_endpoint_made_by_this_start_is_waited_for() -> None:
    assert judge_demo(200, _endpoint("Scheduling"), MADE - 5).new
    assert not judge_demo(200, _endpoint("Scheduling"), MADE + 60).new


def test_curl_does_not_verify_our_own_certificate() -> None:
    assert "curl -k https://127.0.0.1" in render(replace(FACTS, base_url="https://127.0.0.1:8443", unverified_tls=True))


def test_chinese_characters_count_as_two_columns() -> None:
    assert _cut("你好你好", 5) == "你…"
    assert _cut("hello\nworld", 80) == "hello world"
