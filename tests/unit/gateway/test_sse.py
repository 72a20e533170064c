"""Streams come out the same however the network cuts them."""

import json

import pytest

from mooring.gateway.quirks import llamacpp
from mooring.gateway.streams.sse import EventRelay
from mooring.testing.upstream import delta

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CHAT = (
    delta("你好")
    + delta("!", usage=None)
    + b'data: {"id":"c","choices":[],"usage":'
    + json.dumps(USAGE).encode()
    + b"}\n\n"
    + b"data: [DONE]\n\n"
)
CRLF = CHAT.replace(b"\n\n", b"\r\n\r\n")
WITHOUT_USAGE = delta("你好") + delta("!", usage=None) + b"data: [DONE]\n\n"


def run(relay: EventRelay, data: bytes, cuts: list[int]) -> bytes:
    out = b""
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        out += relay.feed(data[start:end])
    return out + relay.end(True)


@pytest.mark.parametrize("wanted", [True, False])
def test_every_cut_gives_the_same_stream(wanted):
    for cut in range(len(CHAT)):
        relay = EventRelay(wanted)
        assert run(relay, CHAT, [cut]) == (CHAT if wanted else WITHOUT_USAGE)
        assert relay.usage is not None
        assert (relay.usage.prompt_tokens, relay.usage.completion_tokens) == (5, 2)


def test_byte_by_byte_is_the_same_too():
    relay = EventRelay(False)
    assert run(relay, CHAT, list(range(1, len(CHAT)))) == WITHOUT_USAGE


def test_events_with_crlf_are_understood():
    for cut in range(len(CRLF)):
        relay = EventRelay(False)
        assert run(relay, CRLF, [cut]) == WITHOUT_USAGE.replace(b"\n\n", b"\r\n\r\n")


def test_a_last_event_without_its_blank_line_is_not_lost():
    relay = EventRelay(False)
    assert relay.feed(delta("a") + b"data: tail") == delta("a")
    assert relay.end(True) == b"data: tail"


def test_half_an_event_of_a_connection_that_broke_is_taken_back():
    relay = EventRelay(False)
    assert relay.feed(delta("a") + b"data: tail") == delta("a")
    assert relay.end(False) == b""
    assert relay.broken


def test_an_endless_event_is_passed_in_pieces():
    relay = EventRelay(False)
    long = b"data: " + b"x" * (2 << 20)
    assert relay.feed(long) + relay.end(True) == long


def completion(index: int, text: str, **more) -> bytes:
    body = {
        "choices": [{"text": text, "index": index, "finish_reason": None}],
        "id": "chatcmpl-a",
        "model": "m",
        **more,
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


LLAMA = (
    completion(1, "a")
    + completion(0, "b")
    + completion(1, "", usage=USAGE)
    + completion(0, "", usage=USAGE)
    + b"data: [DONE]\n\n"
)


def events(data: bytes) -> list:
    payloads = [event[6:] for event in data.decode().split("\n\n") if event]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


@pytest.mark.parametrize(("per_prompt", "prompt_tokens"), [(2, 5), (1, 10)])
def test_llamacpp_usage_of_several_choices_is_summed_and_sent_once(admitted, per_prompt, prompt_tokens):
    asked = {"model": "m", "prompt": "a", "n": per_prompt, "stream": True, "stream_options": {"include_usage": True}}
    ticket, _ = admitted("llamacpp", "completion", asked)
    for cut in range(len(LLAMA)):
        relay = llamacpp.event_relay(ticket)
        *chunks, usage, done = events(run(relay, LLAMA, [cut]))
        assert done == "[DONE]"
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 4
        assert usage["usage"]["prompt_tokens"] == prompt_tokens
        assert usage["usage"]["total_tokens"] == prompt_tokens + 4
        assert all("usage" not in chunk and chunk["id"] == "cmpl-a" for chunk in chunks)
        assert usage["id"] == "cmpl-a"


def test_llamacpp_usage_is_taken_out_when_nobody_asked(admitted):
    ticket, _ = admitted("llamacpp", "completion", {"model": "m", "prompt": "a", "n": 2, "stream": True})
    relay = llamacpp.event_relay(ticket)
    chunks = events(run(relay, LLAMA, []))
    assert len(chunks) == 5
    assert not any("usage" in chunk for chunk in chunks[:-1])
    assert relay.usage is not None
    assert relay.usage.completion_tokens == 4
