"""A server on a Unix socket that answers as an engine was recorded: `tests/contract/engines/recorded/<engine>.json`.

The file is `{case: {"request": {"method", "path", "body"}, "status", "headers", "body" or "stream": [lines]}}`. A test
says which case answers which path; each connection carries one request. A wrong key gets the case `wrong_key`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

Case = Mapping[str, Any]


def read_cases(path: Path) -> dict[str, Any]:
    """Return the recorded cases of one engine."""
    return json.loads(path.read_text(encoding="utf-8"))


def answer_of(case: Case) -> bytes:
    """Return the bytes of a recorded answer, with `Connection: close`."""
    if "stream" in case:
        body = "".join(f"{line}\n\n" for line in case["stream"])
    else:
        said = case["body"]
        body = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    data = body.encode()
    head = f"HTTP/1.1 {case['status']} Recorded\r\nContent-Type: {case['headers']['content-type']}\r\n"
    return f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data


class RecordedEngine:
    """Answers paths with cases.

    Attributes:
        cases: what was recorded.
        answers: `{path: case name}`; a path not named here is answered as the recorded request for it.
        key: without it, paths other than the open ones get the case `wrong_key`.
        seen: the paths asked for, in order.
    """

    def __init__(self, cases: dict[str, Any], key: str, open_paths: tuple[str, ...] = ("/health", "/metrics")) -> None:
        self.cases = cases
        self.answers: dict[str, str] = {}
        self.key = key
        self.seen: list[str] = []
        self._open = open_paths

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ", 2)[1]
            self.seen.append(path)
            writer.write(answer_of(self.cases[self._case(path, head)]))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the engine under test asks no further
        finally:
            writer.close()

    def _case(self, path: str, head: str) -> str:
        if path not in self._open and f"authorization: bearer {self.key}\r\n" not in head.lower():
            return "wrong_key"
        if path in self.answers:
            return self.answers[path]
        found = (name for name, case in self.cases.items() if case["request"]["path"] == path and name != "wrong_key")
        return next(found, "unknown_path")

    @asynccontextmanager
    async def listening(self, socket: Path) -> AsyncIterator[str]:
        """Serve on a Unix socket and give its address."""
        server = await asyncio.start_unix_server(self.answer, socket)
        async with server:
            yield f"unix:{socket}"
