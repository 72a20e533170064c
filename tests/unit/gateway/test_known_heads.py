"""A head seen before is recognised by its bytes, and by nothing less."""

import httptools
import pytest

from mooring.gateway.http1.known_heads import KnownHeads
from mooring.gateway.http1.request import Head

LINES = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer mk-a\r\n"
BODY = b'{"model":"m"}'


def whole(body: bytes = BODY, lines: bytes = LINES, length: bytes | None = None) -> bytes:
    return lines + b"Content-Length: %b\r\n\r\n" % (b"%d" % len(body) if length is None else length) + body


def parsed(data: bytes) -> Head:
    """Read a head as the server does."""
    head = Head()

    class Facts:
        def on_url(self, url):
            head.target += url

        def on_header(self, name, value):
            head.add_header(name, value)

        def on_headers_complete(self):
            head.method = parser.get_method()
            head.keep_alive = parser.should_keep_alive()

    parser = httptools.HttpRequestParser(Facts())
    parser.feed_data(data)
    return head


def learnt(*seen: bytes) -> KnownHeads:
    heads = KnownHeads()
    for data in seen:
        heads.learn(data, parsed(data))
    return heads


def test_the_same_head_with_another_length_is_recognised():
    heads = learnt(whole())
    for body in (BODY, b"", b"x" * 70_000):
        match = heads.match(whole(body))
        assert match is not None
        head, got = match
        assert (head.authorization, head.target, got) == (b"Bearer mk-a", b"/v1/chat/completions", body)


@pytest.mark.parametrize(
    "data",
    [
        whole(lines=LINES.replace(b"mk-a", b"mk-b")),
        whole(lines=LINES + b"X-A: 1\r\n"),
        whole(lines=LINES + b"Transfer-Encoding: chunked\r\n"),
        whole(lines=LINES + b"Content-Length: 3\r\n"),
        whole() + b"GET / HTTP/1.1\r\n",
        whole()[:-1],
        whole(length=b"+13"),
        whole(length=b"0x0d"),
        whole(length=b" 13"),
        whole(length=b"13 "),
        whole(length=b"13,13"),
        whole(length=b""),
        whole().replace(b"\r\n", b"\n"),
        whole(b"x\r\n\r\ny", length=b"3"),
    ],
)
def test_anything_else_is_left_to_the_parser(data):
    assert learnt(whole()).match(data) is None


@pytest.mark.parametrize(
    "lines",
    [
        LINES + b"Expect: 100-continue\r\n",
        LINES + b"Connection: close\r\n",
        LINES + b"X-Client-Request-Id: 7\r\n",
        LINES + b"X-A: " + b"a" * 5000 + b"\r\n",
    ],
)
def test_heads_that_say_more_are_not_learnt(lines):
    assert learnt(whole(lines=lines)).match(whole(lines=lines)) is None


def test_a_length_inside_another_header_is_no_length():
    lines = LINES + b"X-A: Content-Length: 5\r\n"
    heads = learnt(whole(lines=lines))
    match = heads.match(whole(lines=lines))
    assert match is not None
    assert match[1] == BODY
    assert heads.match(whole(lines=lines.replace(b": 5", b": 7"))) is None


def test_lower_case_headers_are_learnt_too():
    data = whole().replace(b"Content-Length", b"content-length")
    assert learnt(data).match(data) is not None


def test_it_stays_small():
    heads = KnownHeads()
    for number in range(5000):
        data = whole(lines=LINES + b"X-N: %d\r\n" % number)
        heads.learn(data, parsed(data))
    assert len(heads._heads) <= 2048
