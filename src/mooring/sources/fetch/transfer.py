"""One request for bytes of a file: proxy, redirects, ranges, and what an answer's status means.

The credential goes to the hub's own origin only; a redirect to a content server leaves it out.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

import mooring
from mooring.core.models import FetchOrder
from mooring.sources import hub
from mooring.sources.hub import FetchFailed, HubFile, Listing

CONNECT_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 30.0
_REDIRECTS = 5
_READ_BYTES = 1 << 20
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 60.0
_LONGEST_RETRY_AFTER_S = 300.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Again(Exception):
    """This request did not work; another one may, after `pause_s` or a back-off."""

    def __init__(self, why: str, pause_s: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.pause_s = pause_s


class WrongSize(Exception):
    """The server's file has another size than the hub listed."""


class Answer:
    """Bytes of a file from `start` on. `ranged` is False where the server sends all of it whatever was asked."""

    def __init__(self, response: BaseHTTPResponse, start: int, *, ranged: bool) -> None:
        self.start = start
        self.ranged = ranged
        etag = response.headers.get("ETag", "")
        self.etag = "" if etag.startswith("W/") else etag  # a weak one can't be used with ranges
        self._response = response

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes as they come.

        Raises:
            Again: the connection broke.
        """
        try:
            while data := self._response.read1(_READ_BYTES, decode_content=False):
                yield memoryview(data)
        except (HTTPError, OSError) as error:
            raise Again(f"the connection broke ({type(error).__name__})") from error

    def close(self, *, complete: bool) -> None:
        """Give the connection back if everything was read, else close it."""
        if not complete:
            self._response.close()
        self._response.release_conn()


class Transfer:
    """Asks for files of one listing. Used by several threads."""

    def __init__(self, order: FetchOrder, listing: Listing, connections: int) -> None:
        self.order = order
        self._listing = listing
        self._origin = _origin(listing.base_url)
        self._direct = urllib3.PoolManager(num_pools=8, maxsize=connections)
        self._proxies = {
            scheme: _proxy_manager(url, connections)
            for scheme, url in getproxies().items()
            if scheme in ("http", "https") and url
        }

    def open(self, file: HubFile, start: int, end: int, etag: str) -> Answer:
        """Ask for the bytes from `start` to before `end`, of the version that has `etag` ("" = any).

        Raises:
            Again: not now.
            WrongSize: the server's file is not as long as listed.
            FetchFailed: the hub refuses.
        """
        headers = {"Accept-Encoding": "identity", "User-Agent": f"mooring/{mooring.__version__}"}
        if start > 0 or end < file.size:
            headers["Range"] = f"bytes={start}-{end - 1}"
            if etag:
                headers["If-Range"] = etag
        url = file.url
        for _ in range(_REDIRECTS + 1):
            response = self._request(url, headers)
            if response.status not in (301, 302, 303, 307, 308):
                return self._judge(file, url, response, start, asked="Range" in headers)
            target = response.headers.get("Location", "")
            response.drain_conn()
            response.release_conn()
            url = urljoin(url, target)
        raise hub.bad_mirror(self.order, f"it redirects '{file.path}' in a circle")

    def _request(self, url: str, headers: dict[str, str]) -> BaseHTTPResponse:
        credential = dict(self._listing.credential) if _origin(url) == self._origin else {}
        try:
            return self._manager(url).request(
                "GET",
                url,
                headers=headers | credential,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
            )
        except (HTTPError, OSError, ValueError) as error:  # ValueError: a redirect to what is no URL
            raise Again(f"{urlsplit(url).netloc} does not answer ({_cause(error)})") from error

    def _manager(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme)
        if proxy is None or _is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc):
            return self._direct
        return proxy

    def _judge(self, file: HubFile, url: str, response: BaseHTTPResponse, start: int, *, asked: bool) -> Answer:
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start:
                response.close()
                raise Again("the server sent another range than asked")
            _check_size(file, match[3], response)
            return Answer(response, start, ranged=True)
        if response.status == 200:
            _check_size(file, response.headers.get("Content-Length", "*"), response)
            return Answer(response, 0, ranged=not asked)
        failure = self._failure(file, url, response)
        response.close()
        raise failure

    def _failure(self, file: HubFile, url: str, response: BaseHTTPResponse) -> Exception:
        status, host = response.status, urlsplit(url).netloc
        if status == 416:
            return WrongSize(f"{file.size} bytes are listed, but the server has fewer")
        if status >= 500 or status in (408, 425, 429):
            return Again(f"{host} answered with status {status}", _retry_after(response))
        if _origin(url) != self._origin:  # a signed URL that expired: the next try gets a new one
            return Again(f"{host} refused with status {status}")
        return self._refusal(file, status, response.headers.get("X-Error-Code", ""))

    def _refusal(self, file: HubFile, status: int, code: str) -> FetchFailed:
        if code == "GatedRepo" or (status in (401, 403) and not self._listing.credential):
            return hub.gated(self.order)
        if status in (401, 403):
            return hub.credential_refused(self.order)
        if status in (404, 410):
            return hub.no_such_file(self.order, file.path)
        return hub.refused_status(self.order, status)


def pause_s(again: Again, tries: int) -> float:
    """Return how long to wait before the next try: as told, else longer each time, and never all at once."""
    if again.pause_s is not None:
        return min(again.pause_s, _LONGEST_RETRY_AFTER_S)
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.0)


def _check_size(file: HubFile, told: str, response: BaseHTTPResponse) -> None:
    if told.isdigit() and int(told) != file.size:
        response.close()
        raise WrongSize(f"{file.size} bytes are listed, but the server has {told}")


def _retry_after(response: BaseHTTPResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


def _proxy_manager(url: str, connections: int) -> urllib3.ProxyManager:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    headers = None
    if parts.username:
        headers = urllib3.make_headers(proxy_basic_auth=f"{parts.username}:{parts.password or ''}")
    return urllib3.ProxyManager(
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), proxy_headers=headers, maxsize=connections
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cause(error: BaseException) -> str:
    return str(error).rpartition("): ")[2] or type(error).__name__
