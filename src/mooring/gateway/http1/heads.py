"""Response heads as bytes, assembled from prebuilt pieces."""

from __future__ import annotations

from http import HTTPStatus

STATUS_LINE = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Inference answers are data, never a page: no sniffing, no scripts, no frames.
_SAFE = b"X-Content-Type-Options: nosniff\r\nContent-Security-Policy: sandbox\r\n"
_JSON = b"Content-Type: application/json\r\n" + _SAFE
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n" + _SAFE
CLOSE = b"Connection: close\r\n"


def status_line(status: int) -> bytes:
    """Return the status line of any status; unknown numbers get an empty phrase."""
    return STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status


def json_answer(status: int, body: bytes, extra: bytes, *, close: bool, head_only: bool = False) -> bytes:
    """Return a whole JSON answer. `extra` holds complete header lines; `head_only` answers HEAD."""
    return b"%b%b%b%bContent-Length: %d\r\n\r\n%b" % (
        status_line(status),
        _JSON,
        extra,
        CLOSE if close else b"",
        len(body),
        b"" if head_only else body,
    )


def stream_head(extra: bytes, *, close: bool, chunked: bool) -> bytes:
    """Return the head of an event-stream answer; without `chunked` (HTTP/1.0) the body ends with the connection."""
    framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"
    return b"%b%b%b%b" % (_STREAM, extra, CLOSE if close or not chunked else b"", framing)


def printable(value: bytes) -> bytes:
    """Return at most 128 visible ASCII characters of a header value that is sent back."""
    return bytes(byte for byte in value[:128] if 0x21 <= byte <= 0x7E)
