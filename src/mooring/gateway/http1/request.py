"""The facts of one HTTP request, filled in by the parser's callbacks and judged afterwards."""

from __future__ import annotations

from mooring.core.errors import Invalid, MooringError

_HOST, _AUTHORIZATION, _CONTENT_TYPE, _CONTENT_LENGTH, _EXPECT, _UPGRADE, _CLIENT_REQUEST_ID, _API_KEY = range(8)
# Headers the gateway itself reads, in lower case and as most clients write them; other spellings take a lower().
_KNOWN = {
    spelling: number
    for name, number in {
        b"Host": _HOST,
        b"Authorization": _AUTHORIZATION,
        b"Content-Type": _CONTENT_TYPE,
        b"Content-Length": _CONTENT_LENGTH,
        b"Expect": _EXPECT,
        b"Upgrade": _UPGRADE,
        b"X-Client-Request-Id": _CLIENT_REQUEST_ID,
        b"X-Api-Key": _API_KEY,
    }.items()
    for spelling in (name, name.lower())
}
_ONCE = {_HOST: "host", _AUTHORIZATION: "authorization", _CONTENT_TYPE: "content_type", _API_KEY: "api_key"}
_LENGTHS = frozenset(len(name) for name in _KNOWN)


class Head:
    """The facts of one request's head. Complete ones are never changed: the same head may serve many requests.

    The defaults are class attributes: a head is made for every call, and most of them never change.
    """

    target = b""
    method = b""
    authorization: bytes | None = None
    content_type: bytes | None = None
    content_length = -1  # -1: none announced
    client_request_id = b""
    api_key: bytes | None = None  # as Anthropic's clients send it
    host: bytes | None = None
    expect_continue = False
    upgrade = b""
    version_1_0 = False
    keep_alive = True
    problem: MooringError | None = None

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def add_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; the known ones are read. Sets `problem` when the head can't be accepted."""
        self.headers.append((name, value))
        number = _KNOWN.get(name)
        if number is None:
            if len(name) not in _LENGTHS:
                return
            number = _KNOWN.get(name.lower())
            if number is None:
                return
        self._keep(number, name, value)

    def _keep(self, number: int, name: bytes, value: bytes) -> None:
        once = _ONCE.get(number)
        if once is not None:
            if getattr(self, once) is not None:
                self._twice(name)
            setattr(self, once, value)
        elif number == _CONTENT_LENGTH:
            self.content_length = int(value) if value.isdigit() else -1
        elif number == _EXPECT:
            self.expect_continue = value.lower() == b"100-continue"
        elif number == _UPGRADE:
            self.upgrade = value.lower()
        else:
            self.client_request_id = value

    def _twice(self, name: bytes) -> None:
        """A second Host or Authorization would be read differently by different readers."""
        self.problem = Invalid(
            f"The header {name.decode('latin-1')} was sent twice.", next_step="Send it once.", code="duplicate_header"
        )

    def size(self) -> int:
        """Return the size of the head in bytes, close enough for a limit."""
        return len(self.target) + sum(len(name) + len(value) + 4 for name, value in self.headers)


class Request:
    """One request: its head, its body as far as it came."""

    done = False  # the head is complete; header callbacks after that are trailers
    timed = False  # the deadline of its head is set
    judged = False  # the head has been judged (path, method, key, type, size)
    body: bytes | bytearray = b""
    body_bytes = 0  # counted in the worker's budget

    def __init__(self, head: Head) -> None:
        self.head = head

    def add_body(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        self.body_bytes += len(piece)
        if not self.body:
            self.body = piece
        elif isinstance(self.body, bytearray):
            self.body += piece
        else:
            grown = bytearray(self.body)
            grown += piece
            self.body = grown
