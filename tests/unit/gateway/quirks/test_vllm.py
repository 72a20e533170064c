"""vLLM's differences made good: names of the reasoning, newlines, errors with numbers, a cache that all share."""

from __future__ import annotations

import json

import pytest

from mooring.core.errors import ModelNotFound
from mooring.gateway.answers.relay import ended_by, upstream_error, whole_answer
from mooring.gateway.quirks import llamacpp, vllm
from mooring.gateway.streams.sse import EventRelay

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}
DONE = b"data: [DONE]\n\n"


def compact(value) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def event(index: int = 0, finish: str | None = None, **delta) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return b"data: " + compact({"id": "chatcmpl-1", "model": "up", "choices": [choice]}) + b"\n\n"


def through(relay: EventRelay, data: bytes, step: int) -> bytes:
    return b"".join(relay.feed(data[at : at + step]) for at in range(0, len(data), step)) + relay.end(True)


def deltas(data: bytes) -> list:
    payloads = [one[6:] for one in data.decode().split("\n\n") if one.startswith("data: {")]
    return [choice["delta"] for payload in payloads for choice in json.loads(payload)["choices"]]


# --- requests


def test_callers_of_different_projects_share_no_cache_and_nobody_pushes_in(admitted):
    _, sent = admitted("vllm", "chat", CHAT)
    assert sent == {**CHAT, "model": "up", "cache_salt": "default"}
    _, sent = admitted("vllm", "completion", {**COMPLETION, "cache_salt": "theirs", "priority": -5})
    assert (sent["cache_salt"], sent["priority"]) == ("default", 0)
    _, sent = admitted("vllm", "embedding", {"model": "m", "input": "a"})
    assert sent == {"model": "up", "input": "a"}


def test_a_limit_beyond_the_context_is_none(admitted):
    for name in ("max_tokens", "max_completion_tokens"):
        for length, passed in ((1024, None), (100_000, 100_000), (0, 100_000)):
            _, sent = admitted("vllm", "chat", {**CHAT, name: 100_000}, context_length=length)
            assert sent[name] == passed


def test_an_adapter_is_a_model_here(admitted):
    for operation, body in (("chat", CHAT), ("completion", COMPLETION), ("tokenize", COMPLETION)):
        _, sent = admitted("vllm", operation, {**body, "model": "m:sql"}, adapters=("pirate", "sql"))
        assert sent["model"] == "up:sql"
    with pytest.raises(ModelNotFound, match="pirate, sql"):
        admitted("vllm", "chat", {**CHAT, "model": "m:nope"}, adapters=("pirate", "sql"))


def test_beams_and_penalties_are_its_own(admitted):
    more = {"use_beam_search": True, "n": 2, "length_penalty": 0.5, "repetition_penalty": 1.1}
    ticket, sent = admitted("vllm", "chat", {**CHAT, **more})
    assert {name: sent[name] for name in more} == more
    assert ticket.steps is None


@pytest.mark.parametrize("operation", ["tokenize", "detokenize"])
def test_tokenizing_passes_in_its_own_form(admitted, operation):
    ticket, sent = admitted("vllm", operation, {"model": "m", "prompt": "a", "tokens": [1]})
    assert sent == {"model": "up", "prompt": "a", "tokens": [1]}
    assert ticket.steps is None


def test_reasoning_in_messages_gets_the_name_that_is_read_here(admitted):
    said = {"role": "assistant", "content": "a", "reasoning_content": "because"}
    tools = [{"type": "function", "function": {"parameters": {"properties": {"reasoning_content": {}}}}}]
    _, sent = admitted("vllm", "chat", {**CHAT, "messages": [*CHAT["messages"], said], "tools": tools})
    assert sent["messages"] == [*CHAT["messages"], {**said, "reasoning": "because"}]
    assert sent["tools"] == tools
    both = {**said, "reasoning": "mine"}
    _, sent = admitted("vllm", "chat", {**CHAT, "messages": [*CHAT["messages"], both]})
    assert sent["messages"][1] == both


# --- whole answers


def answer(**message) -> bytes:
    return compact({"id": "1", "choices": [{"index": 0, "message": message, "logprobs": {"x": 1.50}}], "usage": {}})


def test_a_whole_answer_gets_both_names_and_begins_with_its_text(admitted):
    ticket, _ = admitted("vllm", "chat", CHAT)
    out = whole_answer(ticket, answer(content='\n\n9.81 is "it"', reasoning="\nboth 9\n"))
    assert json.loads(out)["choices"][0]["message"] == {
        "content": '9.81 is "it"',
        "reasoning": "\nboth 9\n",
        "reasoning_content": "\nboth 9\n",
    }


@pytest.mark.parametrize(
    "body",
    [
        answer(content="\n\na", reasoning=None),
        answer(content='say "reasoning": "x"', refusal=None),
        b'{"choices":[{"reasoning":"x","index":0}]}',
        b'{"choices":{"reasoning":"x"}}',
        b'{"reasoning":"x"}',
        b'{"reasoning":"x"',
    ],
)
def test_other_answers_pass_byte_for_byte(admitted, body):
    ticket, _ = admitted("vllm", "chat", CHAT)
    assert whole_answer(ticket, body) == body


def test_an_answer_cut_off_while_thinking_has_no_content(admitted):
    ticket, _ = admitted("vllm", "chat", CHAT)
    [choice] = json.loads(whole_answer(ticket, answer(content=None, reasoning="so")))["choices"]
    assert choice["message"] == {"content": None, "reasoning": "so", "reasoning_content": "so"}


# --- streams

THOUGHT = (
    event(role="assistant", content="")
    + event(reasoning='\n"9"')
    + event(reasoning=" and 9\\")
    + event(content="\n")
    + event(content="\n\n9")
    + event(content="\n.81")
    + event(content="", finish="stop")
    + DONE
)


@pytest.mark.parametrize("step", [1, 7, 50, 137, 10_000])
def test_a_stream_gets_both_names_and_begins_with_its_text(admitted, step):
    ticket, _ = admitted("vllm", "chat", {**CHAT, "stream": True})
    out = through(vllm.event_relay(ticket), THOUGHT, step)
    said = deltas(out)
    for name in ("reasoning", "reasoning_content"):
        assert "".join(delta.get(name, "") for delta in said) == '\n"9" and 9\\'
    assert "".join(delta.get("content", "") for delta in said) == "9\n.81"
    assert out.endswith(DONE)


def test_every_choice_begins_with_its_text(admitted):
    ticket, _ = admitted("vllm", "chat", {**CHAT, "stream": True, "n": 2})
    data = event(0, reasoning="a") + event(1, reasoning="b") + event(0, content="\n\nA") + event(1, content="\nB")
    said = deltas(through(vllm.event_relay(ticket), data + event(0, content="\nC"), 10_000))
    assert [delta["content"] for delta in said if "content" in delta] == ["A", "B", "\nC"]


@pytest.mark.parametrize(
    "data",
    [
        event(content="\n\nhi") + event(content='"reasoning":"x"', finish="stop") + DONE,
        event(content="a", reasoning=None) + DONE,
        event(content="a", reasoning_content="b", reasoning="b"),
        b'data: {"choices":[],"error":null}\n\n: ping\n\n',
        b'data: {"reasoning":"x","reasoning_content":"x"}\n\ndata: {"content":"\\na"}\n\n',
    ],
)
@pytest.mark.parametrize("step", [1, 10_000])
def test_other_streams_pass_byte_for_byte(admitted, data, step):
    ticket, _ = admitted("vllm", "chat", {**CHAT, "stream": True})
    assert through(vllm.event_relay(ticket), data, step) == data


@pytest.mark.parametrize(("engine", "quirks"), [("vllm", vllm), ("llamacpp", llamacpp)])
@pytest.mark.parametrize("step", [9, 10_000])
def test_an_error_in_a_stream_is_its_end(admitted, engine, quirks, step):
    ticket, _ = admitted(engine, "chat", {**CHAT, "stream": True})
    told = {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}
    relay = quirks.event_relay(ticket)
    data, out = event(content="a") + b"data: " + compact({"error": told}) + b"\n\n", b""
    for at in range(0, len(data), step):
        out += relay.feed(data[at : at + step])
    assert (out, relay.failed) == (event(content="a"), told)
    error = ended_by(told, ticket.service.entry)
    assert (error.status, error.code, error.message) == (502, "upstream_error", "EngineCore died")


# --- errors


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (
            400,
            {
                "message": "This model's maximum context length is 1024 tokens. However, your prompt contains at "
                "least 1025 input tokens.",
                "param": "input_tokens",
                "code": 400,
            },
            (400, "context_length_exceeded", "input_tokens", "1024 tokens"),
        ),
        (
            400,
            {
                "message": "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
                "param": "temperature",
                "code": 400,
            },
            (400, "invalid_request", "temperature", "temperature must be non-negative, got -1.0."),
        ),
        (
            400,
            {
                "message": "1 validation error:\n  {'type': 'float_parsing', 'loc': 'body.min_tokens', 'msg': 'Input "
                "should be a valid number', 'input': 'hot'}",
                "param": "body.min_tokens",
                "code": 400,
            },
            (400, "invalid_request", "min_tokens", "min_tokens: Input should be a valid number"),
        ),
        (
            404,
            {"message": "The model `up:x` does not exist.", "param": "model", "code": 404},
            (404, "model_not_found", "model", "does not exist"),
        ),
        (500, {"message": "boom", "code": 500}, (502, "upstream_error", None, "boom")),
        (503, {"message": "busy", "code": 503}, (503, "unavailable", None, "busy")),
    ],
)
def test_errors_get_the_code_that_says_what_is_wrong(admitted, status, error, expected):
    ticket, _ = admitted("vllm", "chat", CHAT)
    told = upstream_error(status, compact({"error": {"type": "X", **error}}), ticket.service.entry, b"")
    assert (told.status, told.code, told.param) == expected[:3]
    assert expected[3] in told.message


def test_a_path_that_this_run_has_not_is_a_call_it_does_not_offer(admitted):
    ticket, _ = admitted("vllm", "embedding", {"model": "m", "input": "a"})
    told = upstream_error(404, b'{"detail":"Not Found"}', ticket.service.entry, b"")
    assert (told.status, told.code) == (400, "unsupported_type")
