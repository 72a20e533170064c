"""The command line's HTTP client: one small class over the standard library, for management and chat."""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from mooring import __version__
from mooring.cli.problems import CommandError, NotFoundError

Json = dict[str, Any]
PAGE = 200


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
        """Yield the JSON data of each server-sent event of the answer to POST, until `[DONE]`."""
        with self._open("POST", path, {}, body) as answer:
            try:
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
        sent = {name: value for name, value in query.items() if value not in (None, "")}
        url = self.base_url + path + ("?" + urllib.parse.urlencode(sent) if sent else "")
        request = urllib.request.Request(url, method=method, headers=self._headers())
        if body is not None:
            request.data = json.dumps(body).encode()
            merge = "merge-patch+" if method == "PATCH" else ""
            request.add_header("Content-Type", f"application/{merge}json")
        try:
            return self._opener.open(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error.code, error.read()) from None
        except (OSError, HTTPException) as error:
            raise _unreachable(self.base_url, error) from None

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": f"mooring-cli/{__version__}", "Accept": "application/json"}
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


def _refusal(status: int, raw: bytes) -> CommandError:
    """Return what a refusal says: RFC 9457 problem details, an OpenAI error, or whatever came."""
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return CommandError(f"The platform answered with status {status}.", "Look at its log.")
    kind = NotFoundError if status == 404 else CommandError
    error = body.get("error")
    if isinstance(error, dict):
        return kind(str(error.get("message") or f"status {status}"), str(error.get("next_step") or ""))
    message = str(body.get("detail") or body.get("title") or f"status {status}")
    faults = [_fault(fault) for fault in body.get("errors") or []]
    if len(faults) > 1:
        message = "\n".join([message, *faults])
    return kind(message, str(body.get("nextStep") or ""))


def _fault(fault: Json) -> str:
    number = f"document {fault['index'] + 1}, " if "index" in fault else ""
    return f"  {number}{fault.get('field')}: {fault.get('message')}"


def _unreachable(base_url: str, error: OSError | HTTPException) -> CommandError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return CommandError(
            f"The certificate of {base_url} is not trusted: {reason.verify_message}.",
            "Give the folder that holds it with --data-dir, or its file in SSL_CERT_FILE.",
        )
    return CommandError(f"No platform answers at {base_url} ({reason}).", "Is it running? Start it with: mooring up")
