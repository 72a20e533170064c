"""One question to an engine over HTTP: one GET, one answer, bounded in time and size.

Small on purpose: probes run every few seconds for every replica, and an engine may be a Unix socket, which most
clients can't dial. No proxies, no redirects, no cookies.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import ssl
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 1 << 20  # an answer about a model is a few KiB
_MAX_HEAD_BYTES = 65536
_FAILURES = (OSError, EOFError, asyncio.LimitOverrunError, http.client.HTTPException, ValueError)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask. `unix` is a socket path, else `address` (an IP) and `port` are dialled.

    `host` is the Host header and, with `tls`, the name the certificate must carry.
    """

    host: str
    unix: str = ""
    address: str = ""
    port: int = 0
    tls: bool = False


class NoAnswer(Exception):
    """The engine could not be reached or did not speak HTTP; the text says what happened.

    Attributes:
        nobody: nothing listens there (no socket, or refused), in contrast to one that is silent or breaks off.
    """

    def __init__(self, text: str, *, nobody: bool = False) -> None:
        super().__init__(text)
        self.nobody = nobody


async def get_json(target: Target, path: str, *, key: str = "", timeout_s: float = 3.0) -> tuple[int, Any]:
    """Return `(status, body)` of `GET path`; the body is None if it is no JSON.

    Raises:
        NoAnswer: refused, broken off, too slow, too large or not HTTP.
    """
    status, body = await _get(target, path, key, timeout_s)
    try:
        return status, json.loads(body)
    except (ValueError, RecursionError):
        return status, None


async def get_text(target: Target, path: str, *, key: str = "", timeout_s: float = 3.0) -> tuple[int, str]:
    """Return `(status, body)` of `GET path`.

    Raises:
        NoAnswer: as `get_json`.
    """
    status, body = await _get(target, path, key, timeout_s)
    return status, body.decode("utf-8", "replace")


async def _get(target: Target, path: str, key: str, timeout_s: float) -> tuple[int, bytes]:
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(target, path, key)
    except TimeoutError:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from None
    except _FAILURES as error:
        nobody = isinstance(error, FileNotFoundError | ConnectionRefusedError)
        raise NoAnswer(_sentence(error), nobody=nobody) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


async def _ask(target: Target, path: str, key: str) -> tuple[int, bytes]:
    reader, writer = await _dial(target)
    try:
        writer.write(_head(target.host, path, key))
        return await _read(reader)
    finally:
        writer.transport.abort()


def _head(host: str, path: str, key: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Accept: application/json, text/plain", "Connection: close"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if not all(line.isprintable() for line in lines):  # a line break would add headers
        raise ValueError("the key or the path holds characters that HTTP can't carry")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _dial(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if target.unix:
        return await asyncio.open_unix_connection(target.unix)
    if target.tls:
        context = ssl.create_default_context()
        return await asyncio.open_connection(target.address, target.port, ssl=context, server_hostname=_name(target))
    return await asyncio.open_connection(target.address, target.port)


def _name(target: Target) -> str:
    host = target.host
    if host.startswith("["):
        return host[1 : host.index("]")]
    return host.rpartition(":")[0] or host


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    if len(head) > _MAX_HEAD_BYTES:
        raise ValueError("the answer's head is too large")
    first, _, rest = head.partition(b"\r\n")
    words = first.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        raise ValueError("the answer is not HTTP")
    headers = http.client.parse_headers(io.BytesIO(rest))
    return int(words[1]), await _body(reader, headers)


async def _body(reader: asyncio.StreamReader, headers: http.client.HTTPMessage) -> bytes:
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        return await _chunks(reader)
    length = headers.get("Content-Length")
    if length is None:
        body = await reader.read(MAX_BYTES + 1)
        while len(body) <= MAX_BYTES and (more := await reader.read(MAX_BYTES)):
            body += more
        return _bounded(body)
    if int(length) > MAX_BYTES:
        raise ValueError("the answer is too large")
    return await reader.readexactly(int(length))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        if size < 0 or len(body) + size > MAX_BYTES:
            raise ValueError("the answer is too large")
        body += (await reader.readexactly(size + 2))[:-2]
    return body


def _bounded(body: bytes) -> bytes:
    if len(body) > MAX_BYTES:
        raise ValueError("the answer is too large")
    return body
