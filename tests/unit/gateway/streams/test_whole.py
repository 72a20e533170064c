"""Whole answers: the same bytes if healthy, mended if not, out of a stream and into one."""

import json

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from mooring.core.repairs import (
    BARE_JSON,
    CHOICES,
    ENVELOPE,
    NO_DONE,
    REASONING,
    STREAM_FOR_WHOLE,
    TOOL_CALLS,
    USAGE_ABSENT,
    USAGE_PLACE,
    WHOLE_FOR_STREAM,
)
from mooring.gateway.streams.normalise import NormalisingRelay
from mooring.gateway.streams.repairs import Shape
from mooring.gateway.streams.usage import Usage
from mooring.gateway.streams.whole import Joiner, begins_stream, read_answer, streamed, text_of, with_usage

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}


def shape(operation: str = "chat", wants_usage: bool = True) -> Shape:
    return Shape(operation, wants_usage, "served", "r1", 1_700_000_000)


def chat(*messages: dict, **more) -> dict:
    choices = [{"index": i, "message": m, "finish_reason": "stop"} for i, m in enumerate(messages)]
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": choices,
        "usage": USAGE,
        **more,
    }


def text(*texts: str, **more) -> dict:
    choices = [{"index": i, "text": t, "finish_reason": "length", "logprobs": None} for i, t in enumerate(texts)]
    return {**chat(), "object": "text_completion", "choices": choices, **more}


SAYS = {"role": "assistant", "content": "你好"}
HEALTHY = {
    "chat": chat(SAYS),
    "n=2": chat(SAYS, {**SAYS, "content": "Hi"}),
    "refusal": chat({**SAYS, "content": None, "refusal": "no"}),
    "tools": chat({**SAYS, "content": None, "tool_calls": [CALL]}),
    "reasoning": chat({**SAYS, "reasoning": "想", "reasoning_content": "想"}),
    "null reasoning": chat({**SAYS, "reasoning_content": None, "tool_calls": None}),
}


@pytest.mark.parametrize("answer", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_answer_is_the_same_object(answer):
    body = json.dumps(answer).encode()
    whole = read_answer(body, shape())
    assert whole.body is body
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 2)
    assert (whole.found, whole.failed) == (set(), None)


def test_a_healthy_completion_is_the_same_object():
    body = json.dumps(text("a", "b")).encode()
    assert read_answer(body, shape("completion")).body is body


def drop(answer: dict, *names: str) -> dict:
    return {name: value for name, value in answer.items() if name not in names}


MENDED = {
    "envelope": (drop(chat(SAYS), "id", "object", "created", "model"), {ENVELOPE}),
    "choice": ({**chat(), "choices": [{"message": {"content": "你好"}}]}, {CHOICES}),
    "delta": ({**chat(), "choices": [{"index": 0, "delta": SAYS, "finish_reason": "stop"}]}, {CHOICES}),
    "text": ({**chat(), "choices": [{"text": "你好"}]}, {CHOICES}),
    "words": ({**chat(), "choices": ["你好"]}, {CHOICES}),
    "reasoning": (chat({"role": "assistant", "reasoning_content": "想", "content": "\n\n你好"}), {REASONING}),
    "no usage": (drop(chat(SAYS), "usage"), {USAGE_ABSENT}),
    "usage without total": (chat(SAYS, usage={"prompt_tokens": 5, "completion_tokens": 2}), {USAGE_PLACE}),
    "usage empty": (chat(SAYS, usage={}), {USAGE_ABSENT}),
    "half a character": (chat({**SAYS, "name": "\ud83d"}), set()),
}


@pytest.mark.parametrize(("answer", "found"), MENDED.values(), ids=MENDED)
def test_an_answer_is_mended(answer, found):
    whole = read_answer(json.dumps(answer).encode(), shape())
    assert whole.found == found
    assert (whole.usage is None) is (USAGE_ABSENT in found)
    read = ChatCompletion.model_validate_json(
        whole.body if whole.usage else with_usage(whole.body, Usage(3, 4), estimated=True)
    )
    assert read.choices[0].message.content == "你好"
    assert text_of(whole.body) == ("想你好" if found == {REASONING} else "你好")


def test_tool_calls_and_completions_are_mended():
    call = {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}
    whole = read_answer(json.dumps(chat({**SAYS, "tool_calls": [call]})).encode(), shape())
    assert whole.found == {TOOL_CALLS}
    assert json.loads(whole.body)["choices"][0]["message"]["tool_calls"] == [CALL]
    whole = read_answer(json.dumps({"choices": [{"message": SAYS}]}).encode(), shape("completion"))
    assert Completion.model_validate_json(whole.body).choices[0].text == "你好"


def test_usage_that_we_counted_is_written_in():
    body = json.dumps(drop(chat(SAYS), "usage")).encode()
    told = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert json.loads(with_usage(body, Usage(3, 4), estimated=False))["usage"] == told
    assert json.loads(with_usage(body, Usage(3, 4), estimated=True))["usage"] == {**told, "estimated": True}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'{"a":', b"{}", b'{"choices":7}', b"[" * 5000])
def test_what_is_no_answer_is_none(body):
    assert read_answer(body, shape()) is None


ERRORS = [{"error": {"message": "no"}}, {"object": "error", "message": "no"}, [{"error": {"message": "no"}}]]


@pytest.mark.parametrize("error", [*ERRORS, {"error": "no"}, {"code": 7, "msg": "no"}])
def test_an_error_in_the_place_of_an_answer_is_told(error):
    assert read_answer(json.dumps(error).encode(), shape()).failed["message"] == "no"


LINES = [
    {"id": "c", "choices": [{"delta": {"content": "你"}}]},
    {"choices": [{"delta": {"content": "好", "reasoning": "想"}}], "usage": USAGE},
]
NDJSON = b"".join(json.dumps(line).encode() + b"\n" for line in LINES)
BEGINNINGS = [
    (b"", None),
    (b"\n ", None),
    (b"da", None),
    (b"data: {", None),
    (b"data: {}", True),
    (b"\xef\xbb\xbf: ping\n", True),
    (b"event: x\n", True),
    (b"<!DOCTYPE html>", False),
    (b"no\n", False),
    (NDJSON[:20], None),
    (NDJSON, True),
    (json.dumps(chat(SAYS)).encode(), None),
    (json.dumps(chat(SAYS)).encode() + b"\n", False),
    (json.dumps(chat(SAYS), indent=1).encode(), False),
    (b'{"error":{"message":"no"}}\n', False),
    (b'{"choices":[]}\n', True),
    (b'{"choices":[7]}\n', True),
]


@pytest.mark.parametrize(("data", "stream"), BEGINNINGS)
def test_a_stream_is_known_by_its_beginning(data, stream):
    assert begins_stream(data) is stream


def events_of(answer: dict, operation: str = "chat") -> bytes:
    asked = shape(operation)
    whole = streamed(read_answer(json.dumps(answer).encode(), asked), asked)
    assert WHOLE_FOR_STREAM in whole.found
    relay = NormalisingRelay(asked)
    out = relay.feed(whole.body)
    assert (out, relay.found, relay.finished) == (whole.body, frozenset(), True)  # healthy
    return out + relay.tail(whole.usage, estimated=False)


BOTH_WAYS = {**HEALTHY, "all": chat({**SAYS, "reasoning": "想", "reasoning_content": "想", "tool_calls": [CALL, CALL]})}


@pytest.mark.parametrize("answer", BOTH_WAYS.values(), ids=BOTH_WAYS)
def test_an_answer_turned_into_a_stream_is_joined_to_the_same_answer(answer):
    whole = Joiner(shape()).join(events_of(answer))
    assert whole.found == {STREAM_FOR_WHOLE}
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 2)
    read = json.loads(whole.body)
    ChatCompletion.model_validate(read)
    assert {name: read[name] for name in ("id", "created", "model", "usage")} == {
        "id": "c", "created": 1, "model": "up", "usage": USAGE,
    }  # fmt: skip
    for joined, choice in zip(read["choices"], answer["choices"], strict=True):
        said = {name: value for name, value in choice["message"].items() if value}
        assert {name: value for name, value in joined["message"].items() if value} == said
        assert joined["finish_reason"] == choice["finish_reason"]


def test_a_completion_turned_into_a_stream_is_joined_to_the_same_answer():
    whole = Joiner(shape("completion")).join(events_of(text("a", "b"), "completion"))
    choices = json.loads(whole.body)["choices"]
    assert [(one["index"], one["text"], one["finish_reason"]) for one in choices] == [
        (0, "a", "length"),
        (1, "b", "length"),
    ]
    Completion.model_validate_json(whole.body)


def test_lines_of_json_are_joined():
    whole = Joiner(shape()).join(NDJSON)
    assert whole.found == {STREAM_FOR_WHOLE, BARE_JSON, NO_DONE, ENVELOPE, CHOICES, REASONING, USAGE_PLACE}
    message = ChatCompletion.model_validate_json(whole.body).choices[0].message
    assert (message.content, message.reasoning) == ("你好", "想")
    assert text_of(whole.body) == "想你好"


def test_tool_calls_far_apart_cost_nothing():
    pieces = [{"index": index, "id": str(index), "function": {"name": "f", "arguments": "{}"}} for index in (10**9, 3)]
    lines = [{"choices": [{"delta": {"tool_calls": [piece]}}]} for piece in pieces]
    whole = Joiner(shape()).join(b"".join(b"data: %b\n\n" % json.dumps(line).encode() for line in lines))
    calls = ChatCompletion.model_validate_json(whole.body).choices[0].message.tool_calls
    assert [one.id for one in calls] == ["3", str(10**9)]


def test_a_stream_that_breaks_off_or_fails_is_no_answer():
    assert Joiner(shape()).join(NDJSON[:-20]) is None
    assert Joiner(shape()).join(b": ping\n\n") is None
    assert Joiner(shape()).join(b'data: {"choices":[]}\n\ndata: [DONE]\n\n') is None
    assert Joiner(shape()).join(NDJSON + b'{"error":{"message":"no"}}\n').failed == {"message": "no"}
    assert Joiner(shape()).join(NDJSON.replace(b"usage", b"other")).usage is None
