"""The facts of one HTTP request, filled in by the parser's callbacks and judged afterwards."""

from __future__ import annotations

from mooring.core.errors import HeadTooLarge, Invalid, MooringError

# Headers the gateway itself reads; the length test spares the others a lower().
_KNOWN = frozenset(
    {
        b"host",
        b"authorization",
        b"content-type",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"upgrade",
        b"x-client-request-id",
    }
)
_LENGTHS = frozenset(len(name) for name in _KNOWN)
_ONCE = frozenset({b"host", b"authorization", b"content-type"})


class Request:
    """One request. `head_done` is set when the head is complete; header callbacks after that are trailers."""

    __slots__ = (
        "authorization",
        "body",
        "body_bytes",
        "client_request_id",
        "complete",
        "content_length",
        "content_type",
        "expect_continue",
        "has_host",
        "head_bytes",
        "head_done",
        "headers",
        "judged",
        "keep_alive",
        "method",
        "problem",
        "target",
        "upgrade",
        "version_1_0",
    )

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.method = b""
        self.authorization = b""
        self.content_type = b""
        self.content_length = -1  # -1: none announced
        self.client_request_id = b""
        self.has_host = False
        self.expect_continue = False
        self.upgrade = b""
        self.version_1_0 = False
        self.keep_alive = True
        self.head_bytes = 0
        self.head_done = False
        self.judged = False  # the head has been judged (path, method, key, type, size)
        self.body: bytes | bytearray = b""
        self.body_bytes = 0
        self.complete = False
        self.problem: MooringError | None = None

    def read_head(self, max_head_bytes: int) -> None:
        """Pick the known headers out of the head. Sets `problem` when the head can't be accepted."""
        seen: set[bytes] | None = None
        size = len(self.target)
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if len(name) not in _LENGTHS:
                continue
            name = name.lower()
            if name not in _KNOWN:
                continue
            if name in _ONCE:
                if seen is None:
                    seen = {name}
                elif name in seen:
                    self.problem = Invalid(
                        f"The header {name.decode()} was sent twice.",
                        next_step="Send it once.",
                        code="duplicate_header",
                    )
                    return
                else:
                    seen.add(name)
            self._keep(name, value)
        self.head_bytes = size
        if size > max_head_bytes:
            self.problem = HeadTooLarge(f"The request head is {size} bytes long; {max_head_bytes} are allowed.")
        elif not self.has_host and not self.version_1_0:
            self.problem = Invalid("The Host header is missing.", next_step="Send a Host header.", code="missing_host")

    def _keep(self, name: bytes, value: bytes) -> None:
        if name == b"authorization":
            self.authorization = value
        elif name == b"host":
            self.has_host = True
        elif name == b"content-type":
            self.content_type = value
        elif name == b"content-length":
            self.content_length = int(value) if value.isdigit() else -1
        elif name == b"expect":
            self.expect_continue = value.lower() == b"100-continue"
        elif name == b"upgrade":
            self.upgrade = value.lower()
        elif name == b"x-client-request-id":
            self.client_request_id = value

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    def add_body(self, piece: bytes) -> None:
        self.body_bytes += len(piece)
        if not self.body:
            self.body = piece
        elif isinstance(self.body, bytearray):
            self.body += piece
        else:
            grown = bytearray(self.body)
            grown += piece
            self.body = grown
