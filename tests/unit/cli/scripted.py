"""A stand-in for a platform: answers what a test tells it to, over a real socket, and remembers what was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from mooring.cli import main

Reply = Callable[["Asked"], "Answer | dict[str, Any]"]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What is sent back: JSON, or pieces of a stream that ends in order or is `cut`."""

    status: int = 200
    json: Any = None
    pieces: tuple[bytes, ...] = ()
    cut: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Script:
    """Replies by method and path; a list is worked off, its last reply stays."""

    replies: dict[tuple[str, str], Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def on(self, method: str, path: str, *replies: Any) -> None:
        """Reply so: an Answer, JSON, or a function of the request; several are given one after the other."""
        self.replies[method, path] = list(replies)

    def reply(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        replies = self.replies.get((asked.method, asked.path))
        if replies is None:
            return Answer(404, {"detail": f"There is no {asked.path}.", "nextStep": "Look elsewhere."})
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        reply = reply(asked) if callable(reply) else reply
        return reply if isinstance(reply, Answer) else Answer(json=reply)

    def sent(self, method: str, path: str) -> list[Asked]:
        """Return the requests of this kind so far."""
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(
            self.command,
            parts.path,
            dict(parse_qsl(parts.query)),
            {name.lower(): value for name, value in self.headers.items()},
            json.loads(raw) if raw else None,
        )
        answer = self.server.script.reply(asked)  # type: ignore[attr-defined]
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.pieces or answer.cut:
            self._stream(answer)
            return
        data = b"" if answer.json is None else json.dumps(answer.json).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self, answer: Answer) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in answer.pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        if answer.cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def do_HEAD(self) -> None:
        self.handle_any()

    def do_GET(self) -> None:
        self.handle_any()

    def do_POST(self) -> None:
        self.handle_any()

    def do_PUT(self) -> None:
        self.handle_any()

    def do_PATCH(self) -> None:
        self.handle_any()

    def do_DELETE(self) -> None:
        self.handle_any()

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves one script."""

    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        script.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


def write_admin_file(folder: Path, url: str) -> None:
    """Make the data directory that the command line looks for."""
    (folder / ".mooring").mkdir(mode=0o700)
    content = {"base_url": url, "api_key": "mk-test", "endpoint_id": "ep-1"}
    (folder / ".mooring" / "admin.json").write_text(json.dumps(content))
    (folder / ".mooring" / "admin.json").chmod(0o600)


def run(*arguments: str) -> int:
    """Run a command line and return its exit status."""
    with pytest.raises(SystemExit) as ended:
        main.run(list(arguments))
    return int(ended.value.code or 0)
