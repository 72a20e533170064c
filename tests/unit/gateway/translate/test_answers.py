"""What a chat answers, said in the caller's API: the SDKs' own types and their own reading of streams judge it."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from mooring.core.errors import UpstreamFailed
from mooring.gateway.streams.sse import split_events
from mooring.gateway.translate import TRANSLATIONS

EVENTS: dict[str, TypeAdapter[Any]] = {
    "messages": TypeAdapter(RawMessageStreamEvent),
    "responses": TypeAdapter(ResponseStreamEvent),
}
WHOLE: dict[str, Any] = {"messages": Message, "responses": Response}
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
ASKED = {
    "messages": json.dumps(
        {"model": "m", "max_tokens": 9, "stop_sequences": ["###"], "messages": [{"role": "user", "content": "hi"}]}
    ).encode(),
    "responses": json.dumps(
        {
            "model": "m",
            "input": "hi",
            "instructions": "be kind",
            "metadata": {"a": "b"},
            "temperature": 0.5,
            "tools": [TOOL],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            "reasoning": {"effort": "low"},
            "max_output_tokens": 9,
        }
    ).encode(),
}
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
DONE = b"data: [DONE]\n\n"


class Sample(NamedTuple):
    """What a model says, and how the two APIs name its end."""

    thought: str = ""
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()  # name, arguments
    finish: str = "stop"
    stop: str | None = None
    stop_reason: str = "end_turn"
    incomplete: str | None = None


SAMPLES = {
    "text": Sample(text="Hello, world."),
    "Chinese": Sample(text="你好，世界！“数据:” 🙂\n\ndata: [DONE]\n\n"),
    "reasoning, then text": Sample(thought="让我想想……\nyes", text="It is 4."),
    "only reasoning": Sample(thought="hm", finish="length", stop_reason="max_tokens", incomplete="max_output_tokens"),
    "nothing": Sample(),
    "reasoning, then a cut": Sample(
        thought="hm", text="It", finish="length", stop_reason="max_tokens", incomplete="max_output_tokens"
    ),
    "cut": Sample(text="Once upon", finish="length", stop_reason="max_tokens", incomplete="max_output_tokens"),
    "filtered": Sample(finish="content_filter", stop_reason="refusal", incomplete="content_filter"),
    "filtered later": Sample(text="I ", finish="content_filter", stop_reason="refusal", incomplete="content_filter"),
    "stopped by a string": Sample(text="a", stop="###", stop_reason="stop_sequence"),
    "stopped by another string": Sample(text="a", stop="!", stop_reason="end_turn"),
    "a call": Sample(
        calls=(("weather", '{"city": "上海", "days": [1, 2]}'),), finish="tool_calls", stop_reason="tool_use"
    ),
    "a call that ends as text": Sample(calls=(("weather", '{"a": 1}'),), finish="stop", stop_reason="tool_use"),
    "everything, two calls": Sample(
        thought="I look twice.",
        text="One moment.",
        calls=(("weather", '{"city": "a \\"b\\" }"}'), ("weather", '{"city": "b"}')),
        finish="tool_calls",
        stop_reason="tool_use",
    ),
    "calls without arguments": Sample(
        calls=(("now", ""), ("now", "{}"), ("now", "")), finish="tool_calls", stop_reason="tool_use"
    ),
    "a call cut off": Sample(
        calls=(("weather", '{"city": "上'),), finish="length", stop_reason="max_tokens", incomplete="max_output_tokens"
    ),
}
ENVELOPE = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "up"}


def said(sample: Sample) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": sample.text or None}
    if sample.thought:
        message |= {"reasoning": sample.thought, "reasoning_content": sample.thought}
    if sample.calls:
        message["tool_calls"] = [
            {"id": f"t{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for place, (name, arguments) in enumerate(sample.calls)
        ]
    return message


def whole(sample: Sample) -> bytes:
    choice = {"index": 0, "message": said(sample), "finish_reason": sample.finish, "stop_reason": sample.stop}
    return json.dumps({**ENVELOPE, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None, **more}]
    body = {**ENVELOPE, "object": "chat.completion.chunk", "choices": choices}
    return b"data: %b\n\n" % json.dumps(body if choices else {**body, "usage": USAGE}, ensure_ascii=False).encode()


def pieces(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def call_piece(index: int, arguments: str = "", name: str = "", call_id: str = "") -> bytes:
    begun = {"id": call_id, "type": "function"} if call_id else {}
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return chunk({"tool_calls": [{"index": index, **begun, "function": function}]})


def stream(sample: Sample, size: int = 3) -> list[bytes]:
    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"reasoning": piece, "reasoning_content": piece}) for piece in pieces(sample.thought, size)]
    events += [chunk({"content": piece}) for piece in pieces(sample.text, size)]
    for place, (name, arguments) in enumerate(sample.calls):
        events.append(call_piece(place, name=name, call_id=f"t{place}"))
        events += [call_piece(place, piece) for piece in pieces(arguments, size)]
    return [*events, chunk({}, finish_reason=sample.finish, stop_reason=sample.stop), chunk(), DONE]


def translated(operation: str, events: list[bytes]) -> bytes:
    translator = TRANSLATIONS[operation].Translator(ASKED[operation], "req-1")
    return b"".join([translator.feed(event) for event in events]) + translator.end()


def read(out: bytes) -> list[dict[str, Any]]:
    """Every event, whose name is its type."""
    read = []
    for event in split_events(out):
        name, _, payload = event.partition(b"\n")
        read.append(json.loads(payload.removeprefix(b"data: ")))
        assert name == b"event: %b" % read[-1]["type"].encode()
    return read


def transport(out: bytes) -> httpx2.Client:
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=out)
    return httpx2.Client(transport=httpx2.MockTransport(lambda _: answer), trust_env=False)


def message_of(out: bytes) -> dict[str, Any]:
    """What Anthropic's client makes of a stream."""
    with transport(out) as http:
        client = anthropic.Anthropic(api_key="k", base_url="http://up", http_client=http)
        with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as events:
            return events.get_final_message().to_dict()


def response_of(out: bytes) -> dict[str, Any]:
    """What OpenAI's client makes of a stream."""
    with transport(out) as http:
        client = openai.OpenAI(api_key="k", base_url="http://up", http_client=http)
        with client.responses.stream(model="m", input="hi") as events:
            return [event for event in events if event.type.startswith("response.")][-1].response.to_dict()


CLIENTS = {"messages": message_of, "responses": response_of}
every_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
both = pytest.mark.parametrize("operation", TRANSLATIONS.keys())


def message(sample: Sample) -> dict[str, Any]:
    """A message as it has to be."""
    content: list[dict[str, Any]] = []
    if sample.thought:
        content.append({"type": "thinking", "thinking": sample.thought, "signature": ""})
    if sample.text:
        content.append({"type": "text", "text": sample.text})
    for place, (name, arguments) in enumerate(sample.calls):
        cut = sample.incomplete and {"arguments": arguments}
        read = cut or (json.loads(arguments) if arguments else {})
        content.append({"type": "tool_use", "id": f"t{place}", "name": name, "input": read})
    refused = {"type": "refusal", "category": None, "explanation": None}
    return {
        "id": "msg_req-1",
        "type": "message",
        "role": "assistant",
        "model": "up",
        "content": content,
        "stop_reason": sample.stop_reason,
        "stop_sequence": "###" if sample.stop_reason == "stop_sequence" else None,
        "stop_details": refused if sample.stop_reason == "refusal" else None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 2},
        },
    }


def output(sample: Sample) -> list[dict[str, Any]]:
    """A response's output as it has to be."""
    items: list[dict[str, Any]] = []
    if sample.thought:
        content = [{"type": "reasoning_text", "text": sample.thought}]
        items.append({"id": "rs_req-1_0", "type": "reasoning", "summary": [], "content": content})
    if sample.text:
        content = [{"type": "output_text", "text": sample.text, "annotations": [], "logprobs": []}]
        name = f"msg_req-1_{len(items)}"
        items.append({"id": name, "type": "message", "role": "assistant", "content": content})
    for place, (name, arguments) in enumerate(sample.calls):
        called = {"call_id": f"t{place}", "name": name, "arguments": arguments}
        items.append({"id": f"fc_req-1_{len(items)}", "type": "function_call", **called})
    for item in items:
        item["status"] = "incomplete" if sample.incomplete and item is items[-1] else "completed"
    return items


@every_sample
def test_a_whole_message_is_what_the_chat_said(sample):
    answer = TRANSLATIONS["messages"].from_chat(whole(sample), ASKED["messages"], "req-1")
    assert json.loads(answer) == message(sample)
    Message.model_validate_json(answer, strict=True)


@every_sample
def test_a_whole_response_is_what_the_chat_said(sample):
    answer = TRANSLATIONS["responses"].from_chat(whole(sample), ASKED["responses"], "req-1")
    response = json.loads(answer)
    assert response["output"] == output(sample)
    assert response["status"] == ("incomplete" if sample.incomplete else "completed")
    assert response["incomplete_details"] == (sample.incomplete and {"reason": sample.incomplete})
    assert response["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 17,
    }
    asked = json.loads(ASKED["responses"])
    for name in ("instructions", "metadata", "temperature", "text", "reasoning", "max_output_tokens"):
        assert response[name] == asked[name]
    assert response["tools"] == [{**TOOL, "strict": None}]
    assert (response["store"], response["model"], response["created_at"]) == (False, "up", 1_700_000_000)
    assert Response.model_validate_json(answer).output_text == sample.text


def test_null_in_a_request_counts_as_absent_in_its_response():
    asked = b'{"input":"hi","tools": null,"metadata" :null, "text":null,"tool_choice":null,"parallel_tool_calls":null}'
    response = Response.model_validate_json(TRANSLATIONS["responses"].from_chat(b'{"choices":[]}', asked, "r"))
    assert (response.tools, response.metadata, response.tool_choice) == ([], {}, "auto")
    assert response.parallel_tool_calls
    assert response.text is not None


@both
@every_sample
def test_a_stream_is_read_by_the_client_as_the_whole_answer(operation, sample):
    out = translated(operation, stream(sample))
    for event in read(out):
        EVENTS[operation].validate_python(event)
    streamed = CLIENTS[operation](out)
    WHOLE[operation].model_validate(streamed)
    expected = json.loads(TRANSLATIONS[operation].from_chat(whole(sample), ASKED[operation], "req-1"))
    if operation == "messages" and sample.incomplete and sample.calls:
        expected["content"][0]["input"] = {}  # the client reads what is whole
    for given_by_client in ("parsed_arguments", "parsed_output", "parsed"):
        streamed = without(streamed, given_by_client)
    assert streamed == expected


def without(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: without(inner, name) for key, inner in value.items() if key != name}
    return [without(inner, name) for inner in value] if isinstance(value, list) else value


def test_the_events_of_a_message_come_in_order():
    out = read(translated("messages", stream(SAMPLES["everything, two calls"], 100)))
    delta = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [event["type"] for event in out] == ["message_start", *delta * 4, "message_delta", "message_stop"]
    assert [event["index"] for event in out if "index" in event] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    kinds = [event["delta"]["type"] for event in out if event["type"] == "content_block_delta"]
    assert kinds == ["thinking_delta", "text_delta", "input_json_delta", "input_json_delta"]


def test_the_events_of_a_response_come_in_order():
    out = read(translated("responses", stream(SAMPLES["everything, two calls"], 100)))
    assert [event["type"].removeprefix("response.") for event in out] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        *["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"] * 2,
        "completed",
    ]
    assert [event["sequence_number"] for event in out] == list(range(len(out)))


@both
def test_calls_that_come_in_turns_are_told_one_after_the_other(operation):
    events = [
        call_piece(0, '{"a":', name="f", call_id="t0"),
        call_piece(1, '{"b"', name="g", call_id="t1"),
        call_piece(0, "{}"),
        chunk({"content": "and"}),
        call_piece(1, ": 2}"),
        call_piece(0, "}"),
        call_piece(0, " "),
        chunk({}, finish_reason="tool_calls"),
    ]
    out = translated(operation, events)
    answer = CLIENTS[operation](out)
    if operation == "messages":
        content = [block.get("input") or block["text"] for block in answer["content"]]
        assert content == [{"a": {}}, {"b": 2}, "and"]
        places = [event["index"] for event in read(out) if "index" in event]
    else:
        told = [item.get("arguments") or item["content"][0]["text"] for item in answer["output"]]
        assert told == ['{"a":{}}', '{"b": 2}', "and"]
        places = [event["output_index"] for event in read(out) if "output_index" in event]
    assert places == sorted(places)


@both
def test_calls_without_an_id_or_with_the_same_are_told_apart(operation):
    events = [
        call_piece(0, "{}", name="f", call_id="t"),
        call_piece(1, "{}", name="f", call_id="t"),
        chunk({"tool_calls": [{"index": 2, "function": {"arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 2, "function": {"name": "late"}}]}),
        DONE,
    ]
    answer = CLIENTS[operation](translated(operation, events))
    calls = answer["content"] if operation == "messages" else answer["output"]
    assert [call.get("call_id", call["id"]) for call in calls] == ["t", "call_req-1_1", "call_req-1_2"]
    assert [call["name"] for call in calls] == ["f", "f", "late"]


@both
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_where_the_events_are_cut_changes_nothing(operation, data):
    events = stream(data.draw(st.sampled_from(list(SAMPLES.values()))), data.draw(st.integers(1, 9)))
    expected = translated(operation, events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    runs = [b"".join(events[start:end]) for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    assert translated(operation, runs) == expected
    assert translated(operation, [*events, *events]) == expected  # nothing is said after the end


@both
def test_comments_pass_and_the_end_needs_no_mark(operation):
    events = stream(SAMPLES["text"])
    translator = TRANSLATIONS[operation].Translator(ASKED[operation], "req-1")
    assert translator.feed(b": waiting\n\n") == b": waiting\n\n"
    out = translator.feed(b"".join(events[:-1]))
    assert out + translator.end() == translated(operation, events)
    assert translator.end() == b""
    assert translator.feed(b": more\n\n" + events[1]) == b""


@both
def test_nothing_at_all_is_an_empty_answer(operation):
    answer = CLIENTS[operation](translated(operation, []))
    assert (answer["content"] if operation == "messages" else answer["output"]) == []
    assert answer["model"] == "m"


@both
def test_other_choices_are_left_out(operation):
    events = stream(SAMPLES["text"])
    other = chunk({"content": "other"}).replace(b'"index": 0', b'"index": 1')
    assert translated(operation, [events[0], other, *events[1:]]) == translated(operation, events)


@both
def test_a_refusal_is_told_as_one(operation):
    out = translated(operation, [chunk({"refusal": "I can"}), chunk({"refusal": "'t."}), DONE])
    for event in read(out):
        EVENTS[operation].validate_python(event)
    answer = CLIENTS[operation](out)
    if operation == "messages":
        assert (answer["content"][0]["text"], answer["stop_reason"]) == ("I can't.", "refusal")
    else:
        assert answer["output"][0]["content"] == [{"type": "refusal", "refusal": "I can't."}]


@both
@pytest.mark.parametrize("before", [0, 1, 4], ids=["before anything", "after the first chunk", "in the text"])
def test_a_stream_that_fails_ends_with_the_error(operation, before):
    translator = TRANSLATIONS[operation].Translator(ASKED[operation], "req-1")
    out = translator.feed(b"".join(stream(SAMPLES["text"])[:before]))
    out += translator.error_event("rate_limit_error", "Too much. Wait.", "upstream_rate_limited")
    assert translator.feed(DONE) + translator.end() + translator.error_event("x", "y", "z") == b""
    if operation == "messages":
        assert read(out)[-1]["error"] == {
            "type": "rate_limit_error",
            "message": "Too much. Wait.",
            "code": "upstream_rate_limited",
        }
        with pytest.raises(anthropic.APIStatusError, match=r"Too much\. Wait\."):
            message_of(out)
        return
    error, failed = read(out)[-2:]
    for event in read(out):
        EVENTS[operation].validate_python(event)
    assert (error["type"], error["code"], error["message"]) == ("error", "upstream_rate_limited", "Too much. Wait.")
    answer = response_of(out)
    assert answer == failed["response"]
    assert (answer["status"], answer["error"]["code"]) == ("failed", "rate_limit_exceeded")
    assert [item["status"] for item in answer["output"]] == ["incomplete"] * (before > 1)


@pytest.mark.parametrize(
    ("kind", "told"), [("server_error", "api_error"), ("overloaded_error", "overloaded_error"), ("odd", "api_error")]
)
def test_kinds_of_errors_are_anthropics(kind, told):
    translator = TRANSLATIONS["messages"].Translator(ASKED["messages"], "req-1")
    event = read(translator.error_event(kind, "No.", "c"))[0]
    assert (event["error"]["type"], event["request_id"]) == (told, "req-1")


@both
@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (b'{"choices":[{"delta":{"content":["x"]}}]}', "can't be read"),
        (b"{", "can't be read"),
        (b'{"error":{"message":"Out of memory."}}', "Out of memory."),
        (b'{"error":"Gone."}', "Gone."),
        (b'{"error":{}, "choices":[]}', ""),
    ],
)
def test_nothing_is_lost_in_silence(operation, odd, message):
    out = translated(operation, [chunk({"content": "a"}), b"data: %b\n\n" % odd, chunk({"content": "b"}), DONE])
    errors = [event for event in read(out) if event["type"] == "error"]
    assert len(errors) == bool(message)
    assert message in json.dumps(errors)


@both
@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"choices":[{"message":{"content":5}}]}', b"\xff"])
def test_a_whole_answer_that_is_no_chat_is_a_failure(operation, answer):
    with pytest.raises(UpstreamFailed):
        TRANSLATIONS[operation].from_chat(answer, ASKED[operation], "req-1")


@both
def test_estimated_usage_is_marked(operation):
    answer = json.dumps({**json.loads(whole(SAMPLES["text"])), "usage": {"completion_tokens": 3, "estimated": True}})
    usage = json.loads(TRANSLATIONS[operation].from_chat(answer.encode(), ASKED[operation], "req-1"))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["estimated"]) == (0, 3, True)


@both
def test_usage_that_nobody_told_is_not_invented(operation):
    answer = b'{"choices":[]}'
    usage = json.loads(TRANSLATIONS[operation].from_chat(answer, ASKED[operation], "req-1"))["usage"]
    assert usage is None or usage["output_tokens"] == 0
