"""The command line's HTTP client: one small class over the standard library, for management and chat."""

from __future__ import annotations

import base64
import ipaddress
import json
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from mooring import __version__
from mooring.cli.problems import CommandError, NotFoundError, RefusedKeyError

Json = dict[str, Any]
PAGE = 200
HANDSHAKE_S = 3.0
UNAVAILABLE = 503


class Client:
    """Talks to one platform.

    Args:
        base_url: such as `http://127.0.0.1:8080`.
        key: API key; "" to call open paths only.
        certificate: a PEM file to trust besides the system's, for a platform with its own certificate.
        timeout_s: longest silence of the platform.
    """

    def __init__(self, base_url: str, key: str, certificate: Path | None = None, timeout_s: float = 60.0) -> None:
        self.base_url = base_url.rstrip("/")
        self.key = key
        self.timeout_s = timeout_s
        self.headers: dict[str, str] = {}  # sent with every call besides the usual ones
        handlers: list[urllib.request.BaseHandler] = []
        if is_loopback(base_url):  # a proxy for the outside world can't reach this machine's own loopback
            handlers.append(urllib.request.ProxyHandler({}))
        if self.base_url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=_tls(certificate)))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON answer to GET; a query parameter of None or "" is not sent."""
        return self._json("GET", path, query, None)

    def post(self, path: str, body: Any, **query: Any) -> Any:
        """Return the JSON answer to POST."""
        return self._json("POST", path, query, body)

    def put(self, path: str, body: Any, **query: Any) -> Any:
        """Return the JSON answer to PUT."""
        return self._json("PUT", path, query, body)

    def patch(self, path: str, changes: Any, **query: Any) -> Any:
        """Return the JSON answer to PATCH: `changes` are merged into the object (RFC 7396)."""
        return self._json("PATCH", path, query, changes)

    def delete(self, path: str, **query: Any) -> Any:
        """Return the JSON answer to DELETE, None if it has no body."""
        return self._json("DELETE", path, query, None)

    def text(self, path: str, **query: Any) -> str:
        """Return the answer to GET as text."""
        with self._open("GET", path, query, None) as answer:
            return answer.read().decode("utf-8", "replace")

    def download(self, path: str, **query: Any) -> bytes:
        """Return the answer to GET as it came."""
        with self._open("GET", path, query, None) as answer:
            return answer.read()

    def head(self, path: str) -> Mapping[str, str]:
        """Return the headers of the answer to GET."""
        with self._open("GET", path, {}, None) as answer:
            return dict(answer.headers.items())

    def lines(self, path: str, *, silence_s: float | None, **query: Any) -> Iterator[str]:
        """Yield the lines of a streamed answer to GET without their ends, as they come, until it ends or breaks off.

        Args:
            silence_s: longest silence within the stream before it counts as broken; None if silence says nothing.
        """
        with self._send(self._request("GET", path, query), silence_s) as answer:
            try:
                for line in answer:
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
            except (OSError, HTTPException):
                return

    def items(self, path: str, *, most: int = 10_000, **query: Any) -> list[Json]:
        """Return all objects of a list, page by page, at most `most`."""
        found: list[Json] = []
        cursor: str | None = ""
        while cursor is not None and len(found) < most:
            page = self.get(path, **query, limit=min(PAGE, most - len(found)), cursor=cursor)
            found += page["items"]
            cursor = page.get("nextCursor") or None
        return found[:most]

    def stream(self, path: str, body: Json) -> Iterator[Json]:
        """Yield the JSON data of each server-sent event of the answer to POST, until `[DONE]`.

        Some services answer with plain JSON although a stream was asked for: that is then the only one.
        """
        with self._open("POST", path, {}, body) as answer:
            try:
                if answer.headers.get_content_type() == "application/json":
                    yield json.loads(answer.read())
                    return
                for line in answer:
                    data = line.strip().removeprefix(b"data:").strip()
                    if line.startswith(b"data:") and data != b"[DONE]":
                        yield json.loads(data)
            except (OSError, HTTPException) as error:
                raise CommandError(f"The answer broke off: {error}.", "Try again.") from error

    def _json(self, method: str, path: str, query: Json, body: Any) -> Any:
        with self._open(method, path, query, body) as answer:
            raw = answer.read()
        return json.loads(raw) if raw else None

    def _open(self, method: str, path: str, query: Json, body: Any) -> HTTPResponse:
        return self._send(self._request(method, path, query, body), self.timeout_s)

    def _request(self, method: str, path: str, query: Json, body: Any = None) -> urllib.request.Request:
        sent = {name: value for name, value in query.items() if value not in (None, "")}
        url = self.base_url + path + ("?" + urllib.parse.urlencode(sent) if sent else "")
        request = urllib.request.Request(url, method=method, headers=self._headers())
        if body is not None:
            request.data = json.dumps(body).encode()
            merge = "merge-patch+" if method == "PATCH" else ""
            request.add_header("Content-Type", f"application/{merge}json")
        return request

    def _send(self, request: urllib.request.Request, timeout_s: float | None) -> HTTPResponse:
        try:
            return self._opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error.code, error.read(), error.headers.get("Retry-After") or "") from None
        except (OSError, HTTPException) as error:
            raise _unreachable(self.base_url, error) from None

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": f"mooring-cli/{__version__}", "Accept": "application/json", **self.headers}
        if ":" in self.key and not self.key.startswith("llmos-"):  # user:password
            headers["Authorization"] = "Basic " + base64.b64encode(self.key.encode()).decode()
        elif self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine's loopback."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _tls(certificate: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if certificate is not None and certificate.exists():
        context.load_verify_locations(certificate)
    return context


def _refusal(status: int, raw: bytes, retry_after: str = "") -> CommandError:
    """Return what a refusal says: RFC 9457 problem details, an OpenAI error, or whatever came.

    Args:
        retry_after: seconds after which the platform wants to be asked again, "" if it does not say.
    """
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    kind = {401: RefusedKeyError, 404: NotFoundError}.get(status, CommandError)
    if not isinstance(body, dict):
        refusal = CommandError(f"The platform answered with status {status}.", "Look at its log.")
    elif isinstance(error := body.get("error"), dict):
        refusal = kind(str(error.get("message") or f"status {status}"), str(error.get("next_step") or ""))
        refusal.code = str(error.get("code") or "")
    else:
        message = str(body.get("detail") or body.get("title") or f"status {status}")
        refusal = kind(message, str(body.get("nextStep") or ""))
        refusal.faults = [fault for fault in body.get("errors") or [] if isinstance(fault, dict)]
        refusal.code = str(body.get("code") or "")
    if status == UNAVAILABLE and retry_after.isdigit():
        refusal.next_step = f"{refusal.next_step} Try again in {retry_after} s.".lstrip()
    refusal.answered = status
    return refusal


def _unreachable(base_url: str, error: OSError | HTTPException) -> CommandError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return CommandError(
            f"The certificate of {base_url} is not trusted: {reason.verify_message}.",
            "Give the folder that holds it with --data-dir, or its file in SSL_CERT_FILE.",
        )
    if isinstance(reason, ssl.SSLError) and reason.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        plain = base_url.replace("https:", "http:", 1)
        return CommandError(f"What answers at {base_url} does not speak HTTPS.", f"Try: --url {plain}")
    if isinstance(reason, HTTPException | ConnectionResetError) and _speaks_tls(base_url):
        secure = base_url.replace("http:", "https:", 1)
        return CommandError(f"What answers at {base_url} speaks HTTPS only.", f"Try: --url {secure}")
    return CommandError(f"No platform answers at {base_url} ({reason}).", "Is it running? Start it with: mooring up")


def _speaks_tls(base_url: str) -> bool:
    """Whether a plain-text call met a TLS server; nothing but a handshake is sent there."""
    parts = urllib.parse.urlsplit(base_url)
    if parts.scheme != "http":
        return False
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((parts.hostname or "", parts.port or 80), timeout=HANDSHAKE_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    except OSError:
        return False
