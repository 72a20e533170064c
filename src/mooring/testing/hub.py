"""A hub of models on loopback: Hugging Face's and ModelScope's API, and a second server that the contents come from.

`with FakeHub() as hub: hub.add("org/model", {"model.gguf": data})` and a mirror of `hub.url` fetches it. What goes
wrong is set as attributes, at any time; what was asked and sent is kept in `requests`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

_PIECE_BYTES = 16384
_BIG_BYTES = 4096  # larger files, and weights, are kept apart (LFS) and come from the content server
_WEIGHTS = (".gguf", ".safetensors", ".bin")


@dataclass
class Repository:
    """One model. `revisions` are names for its only commit."""

    name: str
    files: dict[str, bytes]
    revisions: set[str] = field(default_factory=lambda: {"main", "master"})
    gated: bool = False  # listed for all, sent only to those with a token
    private: bool = False  # not even listed without a token

    def __post_init__(self) -> None:
        self.sha256s = {path: sha256(data) for path, data in self.files.items()}
        self.git_sha1s = {path: git_sha1(data) for path, data in self.files.items()}
        self.commit = hashlib.sha1(json.dumps(self.sha256s).encode()).hexdigest()

    def has(self, revision: str) -> bool:
        return revision in self.revisions or revision == self.commit


@dataclass
class Asked:
    """One request. `sent` counts the bytes of a file's content that were written to the connection."""

    server: str  # hub | content
    method: str
    path: str  # with the query
    headers: dict[str, str]  # names in lower case
    file: str = ""  # path within the repository, of requests for contents
    status: int = 0
    sent: int = 0


class FakeHub:
    """Serves repositories until the `with` block ends.

    Attributes:
        tokens: those that are valid; any other token is refused.
        bytes_per_s: the speed of each connection; 0 = as fast as can be.
        cut_after, cuts: break a connection off after so many bytes of content, so many times (-1 = always).
        failures: statuses of the next answers to requests for contents; `retry_after` goes with them.
        listing_failures: statuses of the next answers to requests for a listing.
        ranges: whether parts of files can be asked for.
        corrupt: path → how many times its content comes with a wrong byte (-1 = always).
        told_sizes: path → the size that is listed instead of the true one.
        web_page: answer every request for a listing with a page for people.
        endless: answer requests for a listing with one that never ends.
        told_digests: path → the SHA-256 that is listed instead of the true one.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.bytes_per_s = 0
        self.cut_after = 0
        self.cuts = -1
        self.failures: list[int] = []
        self.listing_failures: list[int] = []
        self.retry_after = ""
        self.web_page = False
        self.endless = False
        self.ranges = True
        self.corrupt: dict[str, int] = {}
        self.told_sizes: dict[str, int] = {}
        self.told_digests: dict[str, str] = {}
        self.requests: list[Asked] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._servers = [_Server(self, "hub", _HubHandler), _Server(self, "content", _ContentHandler)]

    @property
    def url(self) -> str:
        return self._servers[0].url

    @property
    def content_url(self) -> str:
        return self._servers[1].url

    def __enter__(self) -> Self:
        for server in self._servers:
            server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        for server in self._servers:
            server.stop()

    def add(
        self, name: str, files: Mapping[str, bytes], *, gated: bool = False, private: bool = False, revision: str = ""
    ) -> Repository:
        """Publish a model; one of the same name is replaced."""
        made = Repository(name, dict(files), gated=gated, private=private)
        if revision:
            made.revisions.add(revision)
        self.repositories[name] = made
        return made

    def sent(self, file: str = "") -> int:
        """Return how many bytes of a file, or of all, have been sent."""
        with self.lock:
            return sum(asked.sent for asked in self.requests if asked.file and file in ("", asked.file))

    def asked_for(self, file: str) -> list[Asked]:
        """Return the requests for a file's content."""
        with self.lock:
            return [asked for asked in self.requests if asked.file == file]

    def next_failure(self, failures: list[int]) -> int:
        with self.lock:
            return failures.pop(0) if failures else 0

    def takes(self, counts: dict[str, int], name: str) -> bool:
        """Count down; return whether it happens this time."""
        with self.lock:
            left = counts.get(name, 0)
            counts[name] = left - 1 if left > 0 else left
            return left != 0

    def takes_cut(self) -> bool:
        with self.lock:
            happens = bool(self.cut_after) and self.cuts != 0
            self.cuts -= 1 if happens and self.cuts > 0 else 0
            return happens


def sha256(data: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    """Return git's id of a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_big(path: str, data: bytes) -> bool:
    """Return whether the hub keeps a file apart (LFS)."""
    return path.endswith(_WEIGHTS) or len(data) > _BIG_BYTES


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: FakeHub, name: str, handler: type[_Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub
        self.name = name
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: callers are killed in the middle on purpose."""


class _Handler(BaseHTTPRequestHandler):
    """What both servers do: keep the request, answer with JSON or with a file's content."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Keep quiet: `requests` tells."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        self.asked = Asked(
            self.server.name, self.command, self.path, {name.lower(): value for name, value in self.headers.items()}
        )
        with hub.lock:
            hub.requests.append(self.asked)
        self.answer(hub)

    def answer(self, hub: FakeHub) -> None:
        raise NotImplementedError

    def say(self, status: int, body: Any = None, **headers: str) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.head(status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers})
        if self.command != "HEAD":
            self.wfile.write(data)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.asked.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_content(self, hub: FakeHub, repository: Repository, path: str, **headers: str) -> None:
        """Answer with a file's content, or the range asked for, and with what is to go wrong."""
        self.asked.file, data = path, repository.files[path]
        if status := hub.next_failure(hub.failures):
            return self.say(
                status, {"error": "as ordered"}, **({"Retry_After": hub.retry_after} if hub.retry_after else {})
            )
        etag = f'"{repository.sha256s[path]}"'
        if hub.takes(hub.corrupt, path):
            data = bytes([data[0] ^ 1]) + data[1:]
        start, end = _range(self.asked.headers, etag, len(data)) if hub.ranges else (0, 0)
        if start >= len(data) > 0:
            return self.say(416, None, Content_Range=f"bytes */{len(data)}")
        told = {"ETag": etag, "Content-Type": "application/octet-stream", **headers}
        if hub.ranges:
            told["Accept-Ranges"] = "bytes"
        if end:
            told["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        body = data[start:end] if end else data
        self.head(206 if end else 200, told | {"Content-Length": str(len(body))})
        if self.command != "HEAD":
            self._send(hub, memoryview(body))
        return None

    def _send(self, hub: FakeHub, body: memoryview) -> None:
        cut = hub.takes_cut()
        for at in range(0, len(body), _PIECE_BYTES):
            piece = body[at : at + _PIECE_BYTES]
            if cut and self.asked.sent >= hub.cut_after:
                self.close_connection = True
                self.connection.close()
                return
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            with hub.lock:
                self.asked.sent += len(piece)
            if hub.bytes_per_s and hub.closing.wait(len(piece) / hub.bytes_per_s):
                self.close_connection = True
                return


def _range(headers: Mapping[str, str], etag: str, size: int) -> tuple[int, int]:
    """Return the first byte and the one after the last; (0, 0) = the whole file."""
    text = headers.get("range", "")
    if not text.startswith("bytes=") or headers.get("if-range", etag) != etag:
        return 0, 0
    first, _, last = text.removeprefix("bytes=").partition("-")
    return int(first), min(size, int(last) + 1 if last else size)


class _ContentHandler(_Handler):
    """/<repository>/<path>?digest=…: large files, for whoever has the URL."""

    def answer(self, hub: FakeHub) -> None:
        parts = urlsplit(self.path)
        owner, _, rest = unquote(parts.path).lstrip("/").partition("/")
        name, _, path = rest.partition("/")
        repository = hub.repositories.get(f"{owner}/{name}")
        if repository is None or path not in repository.files:
            return self.say(404, {"error": "no such content"})
        return self.send_content(hub, repository, path)


class _HubHandler(_Handler):
    """The hub itself; its two APIs differ in their paths."""

    def answer(self, hub: FakeHub) -> None:
        parts = urlsplit(self.path)
        path, query = (
            unquote(parts.path).strip("/"),
            {name: values[0] for name, values in parse_qs(parts.query).items()},
        )
        if hub.web_page:
            return self.say(200, "<html>Welcome to the intranet</html>")
        if hub.endless:
            return self._never_end(hub)
        if path.startswith("api/v1/models/"):
            return self._modelscope(hub, path.removeprefix("api/v1/models/"), query)
        if path.startswith("api/models/"):
            return self._huggingface(hub, path.removeprefix("api/models/"))
        if "/resolve/" in path:
            return self._resolve(hub, path)
        return self.say(404, {"error": "no such path"})

    @property
    def _token(self) -> str:
        cookie = self.asked.headers.get("cookie", "").partition("m_session_id=")[2]
        return self.asked.headers.get("authorization", "").removeprefix("Bearer ") or cookie

    def _never_end(self, hub: FakeHub) -> None:
        """Send the beginning of a list until the other side leaves."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"[0")
            while not hub.closing.is_set():
                self.wfile.write(b", 123456789" * 20_000)

    # --- Hugging Face ---------------------------------------------------------------------------------------

    def _huggingface(self, hub: FakeHub, path: str) -> None:
        owner, name, *rest = path.split("/")
        repository = self._find(hub, f"{owner}/{name}")
        if repository is None:
            return None
        if status := hub.next_failure(hub.listing_failures):
            return self.say(status, {"error": "as ordered"})
        if len(rest) > 1 and not repository.has(rest[1]):
            return self.say(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        if rest[:1] == ["tree"]:
            return self.say(200, [_tree_entry(hub, repository, path) for path in repository.files])
        return self.say(
            200,
            {
                "id": repository.name,
                "modelId": repository.name,
                "sha": repository.commit,
                "private": repository.private,
                "gated": "manual" if repository.gated else False,
                "siblings": [_sibling(hub, repository, path) for path in repository.files],
            },
        )

    def _find(self, hub: FakeHub, name: str) -> Repository | None:
        """Return a repository, or refuse as Hugging Face does."""
        if self._token and self._token not in hub.tokens:
            message = "Invalid credentials in Authorization header"
            return self.say(401, {"error": message}, X_Error_Message=message)
        repository = hub.repositories.get(name)
        if repository is None or (repository.private and not self._token):
            status = 404 if self._token else 401
            return self.say(status, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return repository

    def _resolve(self, hub: FakeHub, path: str) -> None:
        name, _, rest = path.partition("/resolve/")
        repository = self._find(hub, name)
        if repository is None:
            return None
        revision, _, file = rest.partition("/")
        if not repository.has(revision):
            return self.say(404, None, X_Error_Code="RevisionNotFound")
        if file not in repository.files:
            return self.say(404, None, X_Error_Code="EntryNotFound")
        if repository.gated and not self._token:
            return self.say(401, {"error": "Access to model is restricted"}, X_Error_Code="GatedRepo")
        return self._give(hub, repository, file)

    def _give(self, hub: FakeHub, repository: Repository, file: str) -> None:
        data, digest = repository.files[file], repository.sha256s[file]
        if not is_big(file, data):
            return self.send_content(hub, repository, file, X_Repo_Commit=repository.commit)
        location = f"{hub.content_url}/{repository.name}/{quote(file)}?digest={digest}"
        return self.say(
            302,
            None,
            Location=location,
            X_Repo_Commit=repository.commit,
            X_Linked_Size=str(len(data)),
            X_Linked_ETag=f'"{digest}"',
            ETag=f'"{digest}"',
        )

    # --- ModelScope -----------------------------------------------------------------------------------------

    def _modelscope(self, hub: FakeHub, path: str, query: dict[str, str]) -> None:
        owner, name, *rest = path.split("/")
        repository = hub.repositories.get(f"{owner}/{name}")
        if self._token and self._token not in hub.tokens:
            return self.say(401, {"Code": 10010103009, "Message": "AccessToken is invalid", "Success": False})
        if repository is None or (repository.private and not self._token):
            return self.say(404, {"Code": 10010205001, "Message": "record not found", "Success": False})
        if rest == ["repo", "files"]:
            return self._list(hub, repository, query.get("Revision", "master"))
        if rest != ["repo"] or query.get("FilePath") not in repository.files:
            return self.say(404, {"Code": 10990101013, "Message": "file not found", "Success": False})
        if repository.gated and not self._token:
            return self.say(403, {"Code": 10010101007, "Message": "access denied", "Success": False})
        return self._give(hub, repository, query["FilePath"])

    def _list(self, hub: FakeHub, repository: Repository, revision: str) -> None:
        if status := hub.next_failure(hub.listing_failures):
            return self.say(status, {"Code": status, "Message": "as ordered", "Success": False})
        known = repository.has(revision)
        files = [_entry(hub, repository, path) for path in repository.files] if known else None
        data = {"Files": files, "IsVisual": 0, "LatestCommitter": {"ShortId": repository.commit[:8]} if known else None}
        return self.say(200, {"Code": 200, "Data": data, "Message": "success", "Success": True})


def _size(hub: FakeHub, repository: Repository, path: str) -> int:
    return hub.told_sizes.get(path, len(repository.files[path]))


def _digest(hub: FakeHub, repository: Repository, path: str) -> str:
    return hub.told_digests.get(path, repository.sha256s[path])


def _sibling(hub: FakeHub, repository: Repository, path: str) -> dict[str, Any]:
    size = _size(hub, repository, path)
    told: dict[str, Any] = {"rfilename": path, "size": size, "blobId": repository.git_sha1s[path]}
    if is_big(path, repository.files[path]):
        told["lfs"] = {"sha256": _digest(hub, repository, path), "size": size, "pointerSize": 134}
    return told


def _tree_entry(hub: FakeHub, repository: Repository, path: str) -> dict[str, Any]:
    size = _size(hub, repository, path)
    told: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": repository.git_sha1s[path]}
    if is_big(path, repository.files[path]):
        told["lfs"] = {"oid": _digest(hub, repository, path), "size": size, "pointerSize": 134}
    return told


def _entry(hub: FakeHub, repository: Repository, path: str) -> dict[str, Any]:
    return {
        "Path": path,
        "Name": path.rpartition("/")[2],
        "Type": "blob",
        "Size": _size(hub, repository, path),
        "Sha256": _digest(hub, repository, path),
        "Revision": repository.commit,
        "CommittedDate": 1_790_000_000,
        "IsLFS": is_big(path, repository.files[path]),
    }
