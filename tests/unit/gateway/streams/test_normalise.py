"""Whatever a service sends, and however the network cuts it: OpenAI's events leave, and the text is all there."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from mooring.core.repairs import (
    BARE_JSON,
    CHOICES,
    ENVELOPE,
    FRAMING,
    NO_DONE,
    REASONING,
    TOOL_CALLS,
    USAGE_ABSENT,
    USAGE_PLACE,
)
from mooring.gateway.streams import lines, normalise
from mooring.gateway.streams.normalise import NormalisingRelay
from mooring.gateway.streams.objects import read_objects
from mooring.gateway.streams.repairs import Shape
from mooring.gateway.streams.usage import Usage

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
ENVELOPE_OF_CHAT = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "up"}
DONE = b"data: [DONE]\n\n"
TEXT = "Hi, 你好!"


def shape(operation: str = "chat", wants_usage: bool = True, **more) -> Shape:
    return Shape(operation, wants_usage, "served", "r1", 1_700_000_000, **more)


def run(data: bytes, cuts: list[int], asked: Shape, clean: bool = True) -> tuple[bytes, NormalisingRelay]:
    relay = NormalisingRelay(asked)
    out = b"".join([relay.feed(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])
    out += relay.end(clean)
    if not relay.broken and relay.failed is None:
        told = relay.usage if relay.usage is not None else Usage(3, relay.events)
        out += relay.tail(told, estimated=relay.usage is None)
    return out, relay


def every_cut(data: bytes, asked: Shape, clean: bool = True) -> tuple[bytes, NormalisingRelay]:
    """Return what leaves; it is the same however the bytes were cut."""
    whole, relay = run(data, [], asked, clean)
    known = (relay.broken, relay.failed, relay.usage, set(relay.found), relay.events, relay.said)
    chance = random.Random(len(data))
    ways = [[at] for at in range(len(data))]
    ways += [sorted(chance.choices(range(len(data) + 1), k=count)) for count in (2, 5, 20, len(data))]
    for cuts in [*ways, list(range(len(data)))]:
        out, other = run(data, cuts, asked, clean)
        assert out == whole, cuts
        assert (other.broken, other.failed, other.usage, set(other.found), other.events, other.said) == known, cuts
    return whole, relay


def chunks_of(out: bytes, operation: str = "chat", done: bool = True) -> list[dict]:
    """Read the way a strict caller does: only `data:` events and comments, all of OpenAI's schema."""
    *events, rest = out.split(b"\n\n")
    assert rest == b""
    events = [event for event in events if not event.startswith(b":")]
    assert all(event.startswith(b"data: ") and b"\n" not in event and b"\r" not in event for event in events)
    if done:
        assert events.pop() == b"data: [DONE]"
    assert b"data: [DONE]" not in events
    chunks = [json.loads(event[6:]) for event in events]
    for chunk in chunks:
        if operation == "chat":
            ChatCompletionChunk.model_validate(chunk)
        else:  # its type is that of a whole answer: it knows no null
            choices = [{**choice, "finish_reason": "stop"} for choice in chunk["choices"]]
            Completion.model_validate({**chunk, "choices": choices})
    return chunks


def text_of(chunks: list[dict], name: str = "content", index: int = 0) -> str:
    said = [choice.get("delta", choice) for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(piece.get(name) or "" for piece in said)


def data(*chunks: dict, mark: bytes = b"data: ", end: bytes = b"\n\n", **how) -> bytes:
    return b"".join(mark + json.dumps(chunk, ensure_ascii=False, **how).encode() + end for chunk in chunks)


def chunk(delta: dict, reason: str | None = None, index: int = 0, **more) -> dict:
    return {**ENVELOPE_OF_CHAT, "choices": [{"index": index, "delta": delta, "finish_reason": reason}], **more}


def answer(*texts: str, **more) -> list[dict]:
    return [
        chunk({"role": "assistant", "content": ""}, **more),
        *[chunk({"content": text}, **more) for text in texts],
        chunk({}, "stop", **more),
    ]


def without(chunks: list[dict], *names: str) -> list[dict]:
    return [{name: value for name, value in one.items() if name not in names} for one in chunks]


USAGE_CHUNK = {**ENVELOPE_OF_CHAT, "choices": [], "usage": USAGE}
CHAT = answer("Hi", ", 你", "好!")

# --- healthy streams

TIGHT = {"separators": (",", ":")}
LLAMA = [
    {"choices": one["choices"], "created": 1, "id": "c-1", "model": "m.gguf", "system_fingerprint": "b1",
     "object": one["object"]}
    for one in [chunk({"role": "assistant", "content": None}), *CHAT[1:]]
]  # fmt: skip
TOOLS = [
    chunk({"role": "assistant", "content": None}),
    chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
    chunk({}, "tool_calls"),
]
BOTH = [chunk({"role": "assistant", "content": ""}), chunk({"reasoning": "想", "reasoning_content": "想"}), *CHAT[1:]]
HEALTHY = {
    "openai": data(*answer(*"Hi 你好", usage=None), USAGE_CHUNK, **TIGHT) + DONE,
    "vllm": data(*CHAT, USAGE_CHUNK) + DONE,
    "llamacpp": data(*LLAMA, {**USAGE_CHUNK, "timings": {"prompt_n": 1}}, **TIGHT) + DONE,
    "escaped": data(*answer('say "x"\n', "\\", "\t", 'a"', "\U0001f600"), USAGE_CHUNK, **TIGHT) + DONE,
    "comments": b": hello\n\n" + data(*CHAT[:3]) + b": ping\n\n" + data(*CHAT[3:], USAGE_CHUNK) + DONE,
    "tools": data(*TOOLS, USAGE_CHUNK) + DONE,
    "n=2": data(*[chunk({"role": "assistant", "content": ""}, index=i) for i in (0, 1)],
                *[chunk({"content": t}, index=i) for t in "abc" for i in (0, 1)],
                *[chunk({}, "stop", index=i) for i in (0, 1)], USAGE_CHUNK) + DONE,
    "reasoning": data(*BOTH, USAGE_CHUNK) + DONE,
    "azure": data({**ENVELOPE_OF_CHAT, "choices": [], "prompt_filter_results": []}, *CHAT, USAGE_CHUNK) + DONE,
}  # fmt: skip
COMPLETION = [
    {"id": "c", "object": "text_completion", "created": 1, "model": "m",
     "choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}]}
    for text, reason in (("Hi", None), (" 你好", None), ("", "stop"))
]  # fmt: skip


@pytest.mark.parametrize("stream", HEALTHY.values(), ids=HEALTHY)
@pytest.mark.parametrize("known", [frozenset(), frozenset({USAGE_ABSENT})], ids=["", "kept"])
def test_a_healthy_stream_leaves_byte_for_byte(stream, known):
    out, relay = every_cut(stream, shape(known=known))
    assert out == stream
    assert (relay.usage.prompt_tokens, relay.usage.completion_tokens) == (5, 2)
    assert (relay.found, relay.broken, relay.finished) == (frozenset(), False, True)
    chunks_of(out)


def test_a_healthy_completion_leaves_byte_for_byte():
    stream = data(*COMPLETION, {**COMPLETION[0], "choices": [], "usage": USAGE}) + DONE
    out, _ = every_cut(stream, shape("completion"))
    assert out == stream
    assert text_of(chunks_of(out, "completion"), "text") == "Hi 你好"


def test_usage_that_nobody_asked_for_is_dropped():
    for stream in HEALTHY.values():
        kept = b"".join(e + b"\n\n" for e in stream.split(b"\n\n")[:-1] if b'"prompt_tokens"' not in e)
        assert run(stream, [], shape(wants_usage=False))[0] == kept
        assert run(stream, list(range(len(stream))), shape(wants_usage=False))[0] == kept


def test_what_only_looks_like_the_frame_is_read():
    usual = data(chunk({"content": "x"}), **TIGHT)
    relay = NormalisingRelay(shape())
    assert relay.feed(data(CHAT[0], **TIGHT) + usual) != b""
    for inside in (b'x"},"extra":{"y":"', b'y","reasoning":"z'):
        out = relay.feed(usual.replace(b'"x"', b'"' + inside + b'"'))
        chunks_of(out, done=False)
    assert "z" in text_of(chunks_of(out, done=False), "reasoning_content")
    for broken in (b"\\", b"\\u12", b"\n", b"\r", b"\x01", b"\\x"):
        fresh = NormalisingRelay(shape())
        fresh.feed(data(CHAT[0], **TIGHT) + usual)
        assert fresh.feed(usual.replace(b'"x"', b'"' + broken + b'"')) == b"", broken
        fresh.end(True)
        assert fresh.broken
    assert "\ufffd" in text_of(chunks_of(relay.feed(usual.replace(b'"x"', b'"\xe4\xbd"')), done=False))


@pytest.mark.parametrize("choices", [1, 8])
def test_the_usual_event_passes_unread(choices, monkeypatch):
    read = []
    monkeypatch.setattr(normalise, "read_objects", lambda payload: read.append(payload) or read_objects(payload))
    opening = [chunk({"role": "assistant", "content": ""}, index=index) for index in range(choices)]
    usual = [chunk({"content": text}, index=index) for text in ["a", "你", '"', "\n"] * 25 for index in range(choices)]
    relay = NormalisingRelay(shape())
    for one in [*opening, *usual]:
        event = data(one, **TIGHT)
        assert relay.feed(event) == event
    assert relay.feed(data(*usual, **TIGHT)) == data(*usual, **TIGHT)  # many in one read
    assert len(read) == 2 * choices
    assert relay.events == 200 * choices


def test_choices_of_one_chunk_are_told_apart_by_their_place():
    said = [{"delta": {"content": "a"}}, {"delta": {"content": "b"}, "finish_reason": "stop"}]
    chunks = chunks_of(every_cut(data({"choices": said}, {"choices": said}), shape())[0])
    assert (text_of(chunks, index=0), text_of(chunks, index=1)) == ("aa", "bb")
    assert [choice["delta"].get("role") for choice in chunks[0]["choices"]] == ["assistant", "assistant"]


# --- broken streams: name → bytes, repairs that are found

PRETTY = b"".join(json.dumps(one, indent=2, ensure_ascii=False).encode() + b"\n" for one in CHAT)
WITH_USAGE = data(*CHAT, USAGE_CHUNK)
IN_LAST = [*CHAT[:-1], {**CHAT[-1], "usage": USAGE}]
SOME = {name: USAGE[name] for name in ("prompt_tokens", "completion_tokens")}
MENDED = {
    "no [DONE]": (WITH_USAGE, {NO_DONE}),
    "[DONE] cut": (WITH_USAGE + b"data: [DO", {NO_DONE}),
    "[DONE] twice": (WITH_USAGE + DONE + DONE, set()),
    "[DONE] without end": (WITH_USAGE + b"data: [DONE]", set()),
    "[DONE] bare": (WITH_USAGE + b"[DONE]\n", {FRAMING}),
    "[DONE] spaced": (WITH_USAGE + b"data: [DONE] \n\n", set()),
    "data after [DONE]": (WITH_USAGE + DONE + data(*CHAT, {"error": {"message": "late"}}) + b'data: {"a\n\n', set()),
    "comment after [DONE]": (WITH_USAGE + DONE + b": bye\n\n", set()),
    "usage after [DONE]": (data(*CHAT) + DONE + data(USAGE_CHUNK), set()),
    "CRLF": (WITH_USAGE.replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n", {FRAMING}),
    "CR": ((WITH_USAGE + DONE).replace(b"\n", b"\r"), {FRAMING}),
    "mixed ends": (WITH_USAGE.replace(b"\n\n", b"\n\r\n") + DONE, {FRAMING}),
    "one line end": (WITH_USAGE.replace(b"\n\n", b"\n") + DONE, {FRAMING}),
    "comments inside": (WITH_USAGE.replace(b"\n\n", b"\n: x\n\n") + DONE, {FRAMING}),
    "comments before": (WITH_USAGE.replace(b"data:", b": x\ndata:") + DONE, set()),
    "fields": (WITH_USAGE.replace(b"data:", b"event: message\nid: 1\nretry: 9\ndata:") + DONE, {FRAMING}),
    "BOM": (b"\xef\xbb\xbf" + WITH_USAGE + DONE, {FRAMING}),
    "no space": (WITH_USAGE.replace(b"data: ", b"data:") + b"data:[DONE]\n\n", {FRAMING}),
    "multi-line": (WITH_USAGE.replace(b', "c', b',\ndata: "c') + DONE, {FRAMING}),
    "NDJSON": (data(*CHAT, USAGE_CHUNK, mark=b"", end=b"\n"), {BARE_JSON, NO_DONE}),
    "NDJSON, CRLF, no end": (data(*CHAT, USAGE_CHUNK, mark=b"", end=b"\r\n").rstrip(), {BARE_JSON, NO_DONE, FRAMING}),
    "NDJSON, spaced": (data(*CHAT, USAGE_CHUNK, mark=b" ", end=b"\n\n") + DONE, {BARE_JSON}),
    "pretty": (PRETTY + data(USAGE_CHUNK, mark=b"", end=b"\n"), {BARE_JSON, NO_DONE}),
    "bare objects on one line": (data(*CHAT, USAGE_CHUNK, mark=b"", end=b"") + b"\n", {BARE_JSON, FRAMING, NO_DONE}),
    "objects in one event": (b"data: " + data(*CHAT, USAGE_CHUNK, mark=b"", end=b", ") + b"\n\n", {FRAMING, NO_DONE}),
    "a list in one event": (b"data: " + json.dumps([*CHAT, USAGE_CHUNK]).encode() + b"\n\n" + DONE, {FRAMING}),
    "not a number": (data(*answer("Hi", ", 你好!", x=float("nan")), USAGE_CHUNK) + DONE, {FRAMING}),
    "signs of life": (b"data: {}\n\ndata: \n\nevent: ping\n\n" + WITH_USAGE + DONE, {FRAMING}),
    "envelope": (data(*without(CHAT, "id", "object", "created", "model"), USAGE_CHUNK) + DONE, {ENVELOPE}),
    "wrong envelope": (
        data(*[{**c, "object": "x", "created": 1.5, "id": 7} for c in CHAT], USAGE_CHUNK) + DONE,
        {ENVELOPE},
    ),
    "choices": (
        data(
            {**ENVELOPE_OF_CHAT, "choices": [{"delta": {"content": "Hi"}, "finish_reason": ""}]},
            {**ENVELOPE_OF_CHAT, "choices": [{"message": {"role": "", "content": ", 你"}}]},
            {**ENVELOPE_OF_CHAT, "choices": [{"text": "好"}]},
            {**ENVELOPE_OF_CHAT, "choices": [{"index": "0", "delta": {"content": "!"}, "finish_reason": "stop"}]},
            USAGE_CHUNK,
        ) + DONE,
        {CHOICES},
    ),
    "no role": (data(*CHAT[1:], USAGE_CHUNK) + DONE, {CHOICES}),
    "usage in the last": (data(*IN_LAST) + DONE, {USAGE_PLACE}),
    "usage in every": (data(*[{**c, "usage": USAGE} for c in CHAT]) + DONE, {USAGE_PLACE}),
    "usage without total": (data(*CHAT, {**USAGE_CHUNK, "usage": SOME}) + DONE, {USAGE_PLACE}),
    "usage without choices": (data(*CHAT, without([USAGE_CHUNK], "choices")[0]) + DONE, {CHOICES}),
    "usage twice": (WITH_USAGE + data(USAGE_CHUNK) + DONE, set()),
    "no usage": (data(*CHAT) + DONE, {USAGE_ABSENT}),
    "usage null": (data(*answer("Hi, ", "你好!", usage=None)) + DONE, {USAGE_ABSENT}),
    "usage empty": (data(*CHAT, {**USAGE_CHUNK, "usage": {}}) + DONE, {USAGE_ABSENT, USAGE_PLACE}),
    "usage nonsense": (
        data(*CHAT, {**USAGE_CHUNK, "usage": {"prompt_tokens": "x"}}) + DONE,
        {USAGE_ABSENT, USAGE_PLACE},
    ),
    "chip3": (
        data(*without(CHAT[:-1], "object", "created"), IN_LAST[-1], mark=b"", end=b"\n"),
        {BARE_JSON, NO_DONE, ENVELOPE, USAGE_PLACE},
    ),
    "many": (
        b"\xef\xbb\xbf" + data(*without(IN_LAST[1:], "id"), mark=b"event: m\ndata:", end=b"\r\n\r\n"),
        {FRAMING, NO_DONE, ENVELOPE, CHOICES, USAGE_PLACE},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("stream", "found"), MENDED.values(), ids=MENDED)
def test_a_broken_stream_leaves_as_openai_writes_it(stream, found):
    out, relay = every_cut(stream, shape())
    chunks = chunks_of(out)
    assert text_of(chunks) == TEXT
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert relay.found == found
    assert not relay.broken
    assert [one["usage"] for one in chunks if one.get("usage")] == [
        USAGE if relay.usage is not None else
        {"prompt_tokens": 3, "completion_tokens": relay.events, "total_tokens": 3 + relay.events, "estimated": True}
    ]  # fmt: skip
    assert chunks[-1]["choices"] == []
    unasked, _ = run(stream, [], shape(wants_usage=False))
    assert [one for one in chunks_of(unasked) if one.get("usage")] == []
    assert text_of(chunks_of(unasked)) == TEXT


def test_missing_members_are_those_of_the_chunk_before_or_of_the_request():
    first, second = {"choices": [{"delta": {"content": "a"}}]}, {"choices": [{"delta": {"content": "b"}}]}
    out, _ = run(data(first, {**second, "id": "own", "model": "up"}, first), [], shape())
    chunks = chunks_of(out)
    assert [one["id"] for one in chunks] == ["chatcmpl-r1", "own", "own", "own"]
    assert [one["model"] for one in chunks] == ["served", "up", "up", "up"]
    assert chunks[0]["created"] == 1_700_000_000


def test_a_broken_completion_leaves_as_openai_writes_it():
    choices = ({"text": "Hi"}, {"delta": {"content": " 你"}}, "好")
    stream = data(*[{"choices": [choice]} for choice in choices], mark=b"", end=b"\n")
    out, relay = every_cut(stream, shape("completion"))
    chunks = chunks_of(out, "completion")
    assert text_of(chunks, "text") == "Hi 你好"
    assert chunks[0]["id"] == "cmpl-r1"
    assert relay.found == {BARE_JSON, ENVELOPE, CHOICES, NO_DONE, USAGE_ABSENT}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_has_both_names_and_no_newlines_follow_it(name):
    pieces = [chunk({"role": "assistant", "content": ""}), *[chunk({name: text}) for text in ("想", "想", "\n")]]
    pieces += [chunk({"content": text}) for text in ("\n", "\n\nYes", "\n", "no")]
    out, relay = every_cut(data(*pieces, chunk({}, "stop"), USAGE_CHUNK) + DONE, shape())
    chunks = chunks_of(out)
    assert text_of(chunks, "reasoning") == text_of(chunks, "reasoning_content") == "想想\n"
    assert text_of(chunks) == "Yes\nno"
    assert relay.found == {REASONING}


def test_reasoning_in_the_middle_is_followed_by_no_newlines_either():
    content = chunk({"content": "a"})
    pieces = [CHAT[0], content, content, chunk({"reasoning": "想"}), chunk({"content": "\n"}), content, CHAT[-1]]
    out, _ = every_cut(data(*pieces, USAGE_CHUNK) + DONE, shape())
    assert text_of(chunks_of(out)) == "aaa"


def call(**more) -> dict:
    return {"tool_calls": [more]}


CALLS = {
    "no index, by id": [call(id="a", function={"name": "f", "arguments": "{"}), call(id="b", function={"name": "g"}),
                        call(id="a", function={"arguments": "}"}), call(id="b", function={"arguments": "{}"})],
    "no index, goes on": [call(id="a", function={"name": "f", "arguments": "{"}), call(function={"arguments": "}"}),
                          call(id="b", function={"name": "g", "arguments": "{}"})],
    "no index, no id": [call(function={"name": "f", "arguments": "{}"}), call(function={"name": "g", "arguments": {}})],
    "arguments an object": [call(index=0, id="a", type="function", function={"name": "f", "arguments": {}}),
                            call(index=1, id="b", type="function", function={"name": "g", "arguments": {}})],
    "no list": [{"tool_calls": {"id": "a", "function": {"name": "f", "arguments": "{}"}}},
                {"tool_calls": [None, {"id": "b", "function": {"name": "g", "arguments": "{}"}}]}],
}  # fmt: skip


@pytest.mark.parametrize("deltas", CALLS.values(), ids=CALLS)
def test_tool_calls_are_kept_apart_and_whole(deltas):
    pieces = [chunk({"role": "assistant", "content": None}), *[chunk(delta) for delta in deltas]]
    out, relay = every_cut(data(*pieces, chunk({}, "tool_calls"), USAGE_CHUNK) + DONE, shape())
    joined: dict[int, list[str]] = {}
    for one in chunks_of(out):
        for choice in one["choices"]:
            for part in choice["delta"].get("tool_calls") or ():
                name, arguments = joined.setdefault(part["index"], ["", ""])
                joined[part["index"]] = [
                    name + part["function"].get("name", ""),
                    arguments + part["function"].get("arguments", ""),
                ]
    assert joined == {0: ["f", "{}"], 1: ["g", "{}"]}
    assert relay.found == {TOOL_CALLS}


def test_half_a_character_in_an_escape_is_passed_on():
    halves = data(chunk({"role": "assistant", "content": ""})) + b"".join(
        data(chunk({"content": "@"})).replace(b"@", half) for half in (b"\\ud83d", b"\\ude00")
    )
    out, relay = every_cut(halves, shape(known=frozenset({USAGE_ABSENT})))
    assert text_of(chunks_of_escaped(out)).encode("utf-16", "surrogatepass").decode("utf-16") == "\U0001f600"
    assert relay.said == "\U0001f600"


def chunks_of_escaped(out: bytes) -> list[dict]:
    return [json.loads(event[6:]) for event in out.split(b"\n\n")[:-2]]


# --- errors and ends

ERRORS = {
    "object": b'data: {"error":{"message":"no"}}\n\n',
    "bare": b'{"error":{"message":"no"}}\n',
    "event": b'event: error\ndata: {"message":"no"}\n\n',
    "event in words": b"event: error\ndata: no\n\n",
    "event in JSON words": b'event: error\ndata: "no"\n\n',
    "event with error": b'event: error\ndata: {"error":{"message":"no"}}\n\n',
    "old vLLM": b'data: {"object":"error","message":"no","code":400}\n\n',
    "text": b'data: {"error":"no"}\n\n',
    "flag": b'data: {"error":true,"message":"no"}\n\n',
    "code and sentence": b'data: {"code":20012,"message":"no","data":null}\n\n',
    "Baidu": b'data: {"error_code":17,"error_msg":"no"}\n\n',
    "last, without end": b'data: {"error":{"message":"no"}}',
    "pretty": b'{\n  "error": {\n    "message": "no"\n  }\n}\n',
    "list": b'data: [{"error":{"message":"no"}}]\n\n',
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_an_error_ends_the_stream_after_all_that_came_before(error):
    out, relay = every_cut(data(*CHAT[:3]) + error, shape())
    assert relay.failed is not None
    assert relay.failed["message"] == "no"
    assert out == data(*CHAT[:3])
    assert every_cut(data(*CHAT[:3]) + error + (b"" if error.endswith(b"}") else data(CHAT[3])), shape())[0] == out


ENDS = {  # what came, whether its framing says that it is complete → broken
    "cut in an event": (data(*CHAT[:3])[:-20], True, True),
    "cut in a line": (data(*CHAT[:3], mark=b"", end=b"\n")[:-9], True, True),
    "connection lost": (data(*CHAT[:3]), False, True),
    "ends without a reason": (data(*CHAT[:3]), True, False),
    "lost after the reason": (data(*CHAT), False, False),
    "lost after [DONE]": (data(*CHAT[:3]) + DONE + b"data: {", False, False),
    "HTML": (b"<html>\n<body>\n\n<h1>502</h1>\n", True, True),
    "nothing": (b"", True, True),
    "unreadable": (data(CHAT[0]) + b'data: {"choices": oops}\n\n' + data(*CHAT[1:]) + DONE, True, True),
    "only signs of life": (b": ping\n\ndata: {}\n\n", True, True),
    "one of two choices ended": (data(chunk({"content": "a"}, "stop"), chunk({"content": "b"}, index=1)), False, True),
}


@pytest.mark.parametrize(("stream", "clean", "broken"), ENDS.values(), ids=ENDS)
def test_an_end_is_told_from_a_break(stream, clean, broken):
    out, relay = every_cut(stream, shape(), clean)
    assert (relay.broken, relay.failed) == (broken, None)
    chunks_of(out, done=not broken)


LIMIT = 5000  # bytes, in the place of lines.MAX_LINE: the loop is the same
LONG = b"x" * (LIMIT + 9)
ENDLESS = {
    "line": b"data: " + LONG,
    "noise": LONG,
    "event": b'data: {"a":"' + LONG + b'"}\n\n',
    "bare": b'{"a":\n' + b'"b",\n' * (LIMIT // 4),
    "data lines": b"data: {\n" + b"data: 1,\n" * (LIMIT // 2),
}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_what_has_no_end_is_not_kept(endless, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", LIMIT)
    for cuts in ([], [len(endless) // 2], list(range(100, len(endless), 500)), [LIMIT + 400, LIMIT + 500]):
        out, relay = run(data(*CHAT[:3]) + endless, cuts, shape())
        assert out == data(*CHAT[:3])
        assert relay.broken


def test_an_event_as_long_as_can_be_passes_however_it_is_cut(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", LIMIT)
    for more, broken in ((0, False), (1, True)):
        room = LIMIT - len(data(chunk({"content": ""}))) + 2
        stream = data(CHAT[0], chunk({"content": "y" * (room + more)}), CHAT[-1])
        for cuts in ([], list(range(LIMIT - 100, len(stream)))):
            assert run(stream, cuts, shape())[1].broken is broken


def test_what_was_said_is_kept_where_it_must_be_counted():
    stream = data(
        *CHAT[:-1], chunk({"reasoning": "想"}), chunk(call(index=0, id="a", function={"name": "f"})), CHAT[-1]
    )
    _, relay = every_cut(stream, shape(known=frozenset({USAGE_ABSENT})))
    assert relay.said == TEXT + "想f"
    assert every_cut(stream, shape())[1].said is None


def test_the_own_members_of_usage_are_kept():
    own = {**USAGE, "prompt_cache_hit_tokens": 4, "prompt_tokens_details": {"cached_tokens": 4}}
    out, relay = run(data(*CHAT[:-1], {**CHAT[-1], "usage": own}) + DONE, [], shape())
    assert chunks_of(out)[-1]["usage"] == own
    assert relay.usage.cached_tokens == 4


# --- any text, any cuts, several defects at once

DEFECTS = {
    "bare": lambda stream: stream.replace(b"data: ", b"").replace(b"\n\n", b"\n"),
    "crlf": lambda stream: stream.replace(b"\n", b"\r\n"),
    "no space": lambda stream: stream.replace(b"data: ", b"data:"),
    "id": lambda stream: stream.replace(b"data:", b"id: 1\ndata:"),
    "no done": lambda stream: stream.replace(b"data: [DONE]\n\n", b"").replace(b"[DONE]\n", b""),
    "bom": lambda stream: b"\xef\xbb\xbf" + stream,
    "one end": lambda stream: stream.replace(b"\n\n", b"\n"),
}


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=6),
    st.lists(st.sampled_from(sorted(DEFECTS)), unique=True),
    st.sets(st.sampled_from(["id", "object", "created", "model"])),
    st.booleans(),
    st.lists(st.integers(0, 4000), max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_any_text_round_trips_through_any_defects_and_cuts(texts, defects, missing, escaped, cuts):
    pieces = without(answer(*texts), *missing)
    stream = b"".join(b"data: " + json.dumps(one, ensure_ascii=escaped).encode() + b"\n\n" for one in pieces) + DONE
    if not (defects or missing):
        usage = data(USAGE_CHUNK)
        stream = stream.replace(DONE, usage + DONE)
    original = stream
    for name in defects:
        stream = DEFECTS[name](stream)
    whole, relay = run(stream, [], shape())
    assert text_of(chunks_of(whole)) == "".join(texts)
    assert relay.broken is False
    assert run(stream, sorted(min(cut, len(stream)) for cut in cuts), shape())[0] == whole
    if not (defects or missing):
        assert whole == original
