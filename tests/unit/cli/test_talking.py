"""Finding the platform, and talking to it: over a real socket to a small stand-in for the gateway."""

import json
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import mooring
from mooring.cli import certificate, main
from mooring.cli.client import Client, is_loopback
from mooring.cli.problems import CommandError
from mooring.cli.session import Format, connect, with_scheme

MODELS = [
    {"id": "ep-1", "name": "chat", "owned_by": "default"},
    {"id": "ep-2", "name": "shared", "owned_by": "other"},
    {"id": "ep-3", "name": "shared", "owned_by": "default"},
    {"id": "mooring-demo", "name": "mooring-demo", "owned_by": "default"},
    {"id": "chat", "name": "chat", "owned_by": "default"},
]
USED = {
    "requestId": "req-1", "startedAt": "2026-01-31T08:00:00Z", "endpointId": "", "serviceId": "svc-gone",
    "keyId": "key-1", "status": 200, "ended": "complete", "promptTokens": 12, "completionTokens": 30,
    "latencyMs": 180.2, "name": "key-1", "requests": 7, "errors": 0,
}  # fmt: skip
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
            self.answer(200, {"data": MODELS})
        elif self.path == "/health":
            self.answer(200, {"status": "ok"})
        elif self.path.startswith("/manage/v1/") and self.headers["Authorization"] != "Bearer mk-test":
            self.answer(401, {"detail": "The key is not known.", "nextStep": "Use another key."})
        elif self.path.startswith("/manage/v1/services?"):
            self.answer(200, {"items": self.server.services})  # type: ignore[attr-defined]
        elif self.path == "/manage/v1/version":
            self.answer(200, {"name": "mooring", "version": mooring.__version__})
        elif self.path.startswith("/manage/v1/usage"):
            self.answer(200, {"items": [USED]})
        elif self.path.startswith("/manage/v1/keys?"):
            self.answer(200, {"items": [{"id": "key-1", "metadata": {"name": "my-key"}}]})
        elif self.path.startswith(("/manage/v1/external-services?", "/manage/v1/endpoints?")):
            self.answer(200, {"items": []})
        else:
            self.answer(404, {"detail": "There is nothing here.", "nextStep": "Look elsewhere."})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        if body["model"] == "gone":
            self.answer(404, {"error": {"message": "There is no such model. Use another."}})
            return
        if body["model"] == "plain":
            self.answer(200, {"choices": [{"message": {"content": "All at once."}}]}, "application/json")
            return
        self.send_response(200)
        self.end_headers()
        for event in EVENTS:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def answer(self, status: int, body: dict, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server.bodies, server.services = [], []  # type: ignore[attr-defined]
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
        (["chat", "Which is greater?"], "ep-1"),
        (["shared", "Which is greater?"], "ep-3"),
        (["shared", "Which is greater?", "-p", "other"], "ep-2"),
        (["unknown", "Which is greater?"], "unknown"),
    ],
)
def test_chat_prints_the_answer_and_finds_the_endpoint(
    gateway: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str], arguments: list[str], model: str
) -> None:
    assert run("chat", *arguments) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("9.8 is greater.\n", "9.8 is 9.80.\n\n")  # no terminal: the answer only
    body = gateway.bodies[0]  # type: ignore[attr-defined]
    assert (body["model"], body["messages"][0]["content"]) == (model, "Which is greater?")


def test_chat_prints_an_answer_that_is_no_stream(
    gateway: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("chat", "plain", "Hello") == 0
    assert capsys.readouterr().out == "All at once.\n"


def test_the_doctor_says_how_to_get_back_in_when_the_key_is_refused(
    gateway: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("doctor", "--offline", "--key", "mk-lost") == 1
    assert "mooring admin reset --data-dir .mooring" in capsys.readouterr().out


def test_the_doctor_is_not_content_with_a_failing_update(
    gateway: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    status = {"state": "updating", "reason": "0 of 1 replicas are ready. Failed after 3 starts. Out of memory."}
    found = {"kind": "ModelService", "id": "svc-1", "metadata": {"name": "demo"}, "spec": {}, "status": status}
    gateway.services = [found]  # type: ignore[attr-defined]
    assert run("doctor", "--offline") == 1
    assert "BAD  Service demo: updating: 0 of 1" in capsys.readouterr().out


def test_usage_tells_names_and_keeps_the_ids_of_what_is_gone(
    gateway: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("usage", "--by", "key") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["my-key", "7", "0", "12", "30"]
    assert run("usage", "--requests") == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row == ["01-31", "08:00:00", "(direct)", "svc-gone", "my-key", "200", "complete", "12", "30", "180", "req-1"]
    assert run("usage", "--requests", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["items"][0] == USED


def test_options_may_stand_before_the_command(gateway: ThreadingHTTPServer, tmp_path: Path) -> None:
    assert run("--data-dir", str(tmp_path / "nowhere"), "chat", "Hello") == 1
    assert run("--data-dir", str(tmp_path / "nowhere"), "chat", "Hello", "--data-dir", ".mooring") == 0
    assert run("--key", "mk-lost", "get", "services") == 1
    assert run("--key", "mk-lost", "get", "services", "--key", "mk-test") == 0


def test_the_version_is_told_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert (run("--version"), run("version")) == (0, 0)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


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
    with pytest.raises(CommandError, match=r"not sent to http://elsewhere\.example"):
        connect("http://elsewhere.example", "", None, Format.table)
    assert connect("", "", None, Format.table).client.key == "mk-test"
    assert connect("", "mk-own", None, Format.table).client.key == "mk-own"


def test_all_names_of_the_loopback_are_the_same_platform(gateway: ThreadingHTTPServer) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert connect(f"http://{host}:{gateway.server_port}", "", None, Format.table).client.key == "mk-test"
    assert connect(f"localhost:{gateway.server_port}", "", None, Format.table).client.key == "mk-test"
    with pytest.raises(CommandError, match="is for http://127"):
        connect("http://localhost:1", "", None, Format.table)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "x:0"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(CommandError, match="not an address"):
        with_scheme(url)


def test_plain_http_to_an_https_port_is_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gateway: ThreadingHTTPServer
) -> None:
    files = certificate.ensure(tmp_path / "tls", "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert run("get", "keys", "--key", "mk-x", "--url", f"127.0.0.1:{server.server_port}") == 1
        server.shutdown()
    assert f"Try: --url https://127.0.0.1:{server.server_port}" in capsys.readouterr().err
    assert run("get", "keys", "--key", "mk-x", "--url", f"https://127.0.0.1:{gateway.server_port}") == 1
    assert f"Try: --url http://127.0.0.1:{gateway.server_port}" in capsys.readouterr().err


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
