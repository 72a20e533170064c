"""Finding the platform, and talking to it: over a real socket to a small stand-in for the gateway."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mooring.cli import main
from mooring.cli.client import Client, is_loopback
from mooring.cli.problems import CommandError
from mooring.cli.session import Format, connect

EVENTS = [
    {"choices": [{"delta": {"reasoning_content": "9.8 is 9.80."}}]},
    {"choices": [{"delta": {"content": "9.8"}}]},
    {"choices": [{"delta": {"content": " is greater."}}]},
    {"choices": []},
]


class Gateway(BaseHTTPRequestHandler):
    """Answers the model list and one stream; anything else is refused in OpenAI's shape."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.answer(200, {"data": [{"id": "ep-1"}, {"id": "mooring-demo"}]})
        else:
            self.answer(404, {"detail": "There is nothing here.", "nextStep": "Look elsewhere."})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        if body["model"] == "gone":
            self.answer(404, {"error": {"message": "There is no such model. Use another."}})
            return
        self.send_response(200)
        self.end_headers()
        for event in EVENTS:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def answer(self, status: int, body: dict) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server.bodies = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / ".mooring").mkdir()
    content = {"base_url": url, "api_key": "mk-test", "endpoint_id": "ep-1"}
    (tmp_path / ".mooring" / "admin.json").write_text(json.dumps(content))
    for name in ("MOORING_URL", "MOORING_API_KEY", "MOORING_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.run(list(arguments))
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (["Which is greater?"], "ep-1"),
        (["mooring-demo", "Which is greater?"], "mooring-demo"),
        (["ep-1", "Which is greater?"], "ep-1"),
        (["unknown", "Which is greater?"], "unknown"),
    ],
)
def test_chat_prints_the_answer_and_finds_the_endpoint(
    gateway: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str], arguments: list[str], model: str
) -> None:
    assert run("chat", *arguments) == 0
    assert capsys.readouterr().out == "9.8 is 9.80.\n\n9.8 is greater.\n"
    body = gateway.bodies[0]  # type: ignore[attr-defined]
    assert (body["model"], body["messages"][0]["content"]) == (model, "Which is greater?")


def test_chat_reads_the_message_from_a_pipe(
    gateway: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "question").write_text("Piped?\n")
    with (tmp_path / "question").open() as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert run("chat", "--system", "Be brief.") == 0
    messages = gateway.bodies[0]["messages"]  # type: ignore[attr-defined]
    assert [message["content"] for message in messages] == ["Be brief.", "Piped?"]


def test_a_refusal_is_told_without_a_traceback(
    gateway: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("chat", "gone", "Hello") == 1
    assert capsys.readouterr().err == "Error: There is no such model. Use another.\n"


def test_loopback_ignores_a_proxy(gateway: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert run("chat", "Hello") == 0


def test_a_platform_that_is_not_running_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("get", "keys", "--url", "http://127.0.0.1:1", "--key", "mk-x") == 1
    assert "Is it running? Start it with: mooring up" in capsys.readouterr().err


def test_the_key_of_admin_json_is_not_sent_to_another_platform(gateway: ThreadingHTTPServer) -> None:
    with pytest.raises(CommandError, match="no key"):
        connect("http://elsewhere.example", "", None, Format.table)
    assert connect("", "", None, Format.table).client.key == "mk-test"
    assert connect("", "mk-own", None, Format.table).client.key == "mk-own"


def test_without_a_platform_the_next_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError) as refused:
        connect("", "", None, Format.table)
    assert "mooring up" in refused.value.next_step


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", True),
        ("https://[::1]:8080", True),
        ("http://localhost", True),
        ("http://10.0.0.1", False),
        ("https://example.com", False),
    ],
)
def test_loopback_is_told_from_the_rest(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


@pytest.mark.parametrize(
    ("key", "scheme"), [("mk-a", "Bearer"), ("llmos-abcde:secret", "Bearer"), ("admin:word", "Basic"), ("", None)]
)
def test_a_key_is_a_bearer_and_user_and_password_are_basic(key: str, scheme: str | None) -> None:
    header = Client("http://127.0.0.1", key)._headers().get("Authorization")
    assert (header.split()[0] if header else None) == scheme
