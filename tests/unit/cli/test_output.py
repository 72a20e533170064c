"""Tables: what is shown where there is little room."""

import io

import pytest

from mooring.cli import output
from mooring.cli.kinds import KINDS, SERVICES, find_kind
from mooring.cli.output import fitting, print_objects, print_table
from mooring.cli.session import Format
from mooring.cli.usage import REQUESTS, moment

SERVICE_ID = "svc-3k9x0a1b2c3d"


def service(**spec: object) -> dict:
    status = {"state": "healthy", "replicas": 2, "readyReplicas": 1, "servedModel": "m", "reason": "word " * 30}
    metadata = {"name": "a-service-with-a-rather-long-name"}
    return {"kind": "ModelService", "id": SERVICE_ID, "metadata": metadata, "spec": spec, "status": status}


def shown_at(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], item: dict) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_objects([item], SERVICES, Format.table)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_an_id_is_whole_or_left_out(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown_at(width, monkeypatch, capsys, service())
    assert (SERVICE_ID in out) is ("svc-" in out)
    assert "a-service-with-a-rather-long-name" in out
    assert "healthy" in out


def test_services_tell_kind_readiness_and_that_they_are_disabled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown_at(200, monkeypatch, capsys, service(enabled=False))
    assert all(part in out for part in ("KIND", "model", "1/2", "healthy, disabled"))


def test_columns_are_left_out_in_order_until_the_rest_fits() -> None:
    titles = [title for title, _ in REQUESTS]
    row = ["01-31 08:00:00", "mooring-demo", "mooring-demo", "my-key", "200", "complete", "12", "30", "180", "r" * 28]
    assert [titles[index] for index in fitting(titles, [row], 200)] == titles
    narrow = [titles[index] for index in fitting(titles, [row], 80)]
    assert "REQUEST" not in narrow
    assert {"STARTED (UTC)", "KEY", "ENDPOINT"} <= set(narrow)


def test_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(["NAME", "ID"], [["n" * 15, "i" * 15]])
    said = capsys.readouterr()
    assert "Left out for want of width: ID" in said.err
    assert "iii" not in said.out


def test_a_pipe_gets_every_column(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    output.print_objects([service()], SERVICES, Format.table)
    assert SERVICE_ID in capsys.readouterr().out


@pytest.mark.parametrize(
    ("started", "expected"),
    [("2026-01-31T08:00:00.5Z", "01-31 08:00:00"), (1769846400.5, "01-31 08:00:00"), (None, ""), ("", "")],
)
def test_a_start_is_told_in_utc(started: str | float | None, expected: str) -> None:
    assert moment(started) == expected


def test_a_kind_is_told_as_people_say_it() -> None:
    assert find_kind("key").told == "API key"
    assert [kind.told for kind in KINDS[3:6]] == ["model service", "external service", "endpoint"]


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    pipe, terminal = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    assert output.paint("red", "BAD", pipe) == "BAD"
    assert output.paint("red", "BAD", terminal) == "\x1b[31mBAD\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.paint("red", "BAD", terminal) == "BAD"


def test_a_terminal_gets_texts_broken_at_spaces_and_a_pipe_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    text = "Service demo: failed: the engine could not read the model\nSee: mooring services logs demo"
    lines = output.wrapped(text, terminal, 5).splitlines()
    assert all(len(line) <= 30 for line in lines)
    assert all(line.startswith("     ") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == text.replace("\n", " ")
    assert output.wrapped(text, io.StringIO(), 5) == text


def test_endpoints_keep_their_services_and_tell_the_first_sentence_of_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "qwen3 is failed: Failed 3 times in a row. The engine exited with status 1: bad flag."
    status = {"state": "Abnormal", "reason": reason}
    item = {
        "kind": "Endpoint", "id": "ep-20261125-abcde", "metadata": {"name": "qwen3"},
        "spec": {"services": [{"name": "qwen3-service"}]}, "status": status,
    }  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_objects([item], find_kind("endpoint").columns, Format.table)
    out = capsys.readouterr().out
    assert "qwen3-service" in out and "in a row." in out and "bad flag" not in out
    print_objects([item], find_kind("endpoint").columns, Format.json)
    assert "bad flag" in capsys.readouterr().out


def test_a_long_reason_gets_room_at_the_cost_of_columns_that_can_be_spared() -> None:
    titles = ["NAME", "ID", "KIND", "STATE", "READY", "MODEL", "REASON"]
    row = ["mooring-demo", SERVICE_ID, "model", "failed", "0/1", "mooring-demo", "word " * 30]
    assert [titles[index] for index in fitting(titles, [row], 80)] == ["NAME", "KIND", "STATE", "READY", "REASON"]
