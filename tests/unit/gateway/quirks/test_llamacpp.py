"""llama.cpp's differences made good: what it would let pass, what it calls otherwise, what it counts wrongly."""

import json

import msgspec
import pytest

from mooring.core.errors import Invalid
from mooring.core.snapshot import decode_service
from mooring.gateway.http1.body import splice
from mooring.gateway.quirks import llamacpp
from mooring.testing.gateway import service_row

ENTRY = decode_service(service_row([], engine="llamacpp", external=False).data or b"")
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}
EMBEDDING = {"model": "m", "input": "hi"}


def check(operation: str, body: dict) -> bool:
    return llamacpp.check_request(operation, json.dumps(body).encode(), ENTRY, [])


@pytest.mark.parametrize(
    ("operation", "body", "param"),
    [
        ("chat", {**CHAT, "temperature": -1}, "temperature"),
        ("chat", {**CHAT, "temperature": "hot"}, "temperature"),
        ("chat", {**CHAT, "top_p": 5}, "top_p"),
        ("chat", {**CHAT, "top_p": 0}, "top_p"),
        ("chat", {**CHAT, "max_tokens": 0}, "max_tokens"),
        ("chat", {**CHAT, "max_tokens": 1.5}, "max_tokens"),
        ("chat", {**CHAT, "max_completion_tokens": -5}, "max_completion_tokens"),
        ("chat", {**CHAT, "n": 0}, "n"),
        ("chat", {**CHAT, "n": 129}, "n"),
        ("chat", {**CHAT, "use_beam_search": True}, "use_beam_search"),
        ("chat", {**CHAT, "best_of": 2}, "best_of"),
        ("chat", {**CHAT, "length_penalty": 1.5}, "length_penalty"),
        ("chat", {**CHAT, "stream_options": {}}, "stream_options"),
        ("chat", {"model": "m"}, "messages"),
        ("chat", {"model": "m", "messages": []}, "messages"),
        ("chat", {"model": "m", "messages": "hi"}, "messages"),
        ("completion", {"model": "m"}, "prompt"),
        ("completion", {"model": "m", "prompt": []}, "prompt"),
        ("completion", {"model": "m", "prompt": ["a"] * 100, "n": 100}, "n"),
        ("embedding", {"model": "m", "input": None}, "input"),
        ("embedding", {**EMBEDDING, "dimensions": 8}, "dimensions"),
    ],
)
def test_what_it_would_let_pass_is_refused_by_name(operation, body, param):
    with pytest.raises(Invalid) as caught:
        check(operation, body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("operation", "body", "several"),
    [
        ("chat", CHAT, False),
        ("chat", {**CHAT, "n": 1, "best_of": 1, "length_penalty": 1, "use_beam_search": False}, False),
        ("chat", {**CHAT, **dict.fromkeys(("temperature", "top_p", "n", "max_tokens", "stream_options"))}, False),
        ("chat", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}, False),
        ("chat", {**CHAT, "n": 2}, True),
        ("completion", {"model": "m", "prompt": ["a"]}, False),
        ("completion", {"model": "m", "prompt": ["a", "b"]}, True),
        ("completion", {"model": "m", "prompt": [1, 2, 3]}, False),
        ("completion", {"model": "m", "prompt": [[1], [2]]}, True),
        ("completion", {"model": "m", "prompt": ""}, False),
        ("embedding", {"model": "m", "input": ["a", "b"]}, False),
    ],
)
def test_several_choices_are_recognised(operation, body, several):
    assert check(operation, body) is several


def test_repetition_penalty_gets_its_name_here():
    body = json.dumps({**CHAT, "repetition_penalty": 1.1}).encode()
    edits: list = []
    llamacpp.check_request("chat", body, ENTRY, edits)
    assert json.loads(b"".join(splice(body, edits))) == {**CHAT, "repeat_penalty": 1.1}


def test_a_request_is_split_into_one_call_per_choice_with_seeds_of_their_own():
    body = json.dumps({"model": "m", "prompt": ["a", "b"], "n": 2, "seed": 7, "temperature": 0.10}).encode()
    calls = [json.loads(one) for one in llamacpp.split_request(body)]
    assert [(call["prompt"], call["seed"]) for call in calls] == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]
    assert all("n" not in call and call["temperature"] == 0.1 for call in calls)


def test_token_prompts_stay_whole_when_split():
    body = json.dumps({"model": "m", "prompt": [1, 2], "n": 2}).encode()
    assert [json.loads(one)["prompt"] for one in llamacpp.split_request(body)] == [[1, 2], [1, 2]]


def test_answers_are_joined_with_exact_usage():
    def answer(text: str, prompt: int, completion: int) -> bytes:
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return msgspec.json.encode({"id": "x", "choices": [{"index": 0, "text": text}], "usage": usage})

    joined = json.loads(llamacpp.join_answers([answer("a", 3, 1), answer("b", 3, 2), answer("c", 5, 4)], 2))
    assert [(choice["index"], choice["text"]) for choice in joined["choices"]] == [(0, "a"), (1, "b"), (2, "c")]
    assert joined["usage"] == {"prompt_tokens": 8, "completion_tokens": 7, "total_tokens": 15}


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": []}, {"prompt": 3}, {"messages": "a"}])
def test_a_tokenize_body_needs_a_prompt_or_messages(body):
    with pytest.raises(Invalid):
        llamacpp.read_tokenize(json.dumps(body).encode())


def test_tokenize_answers_as_vllm_does():
    answer = json.dumps({"tokens": [{"id": 5, "piece": "a"}, {"id": 6, "piece": [0xE4, 0xBD]}]}).encode()
    assert json.loads(llamacpp.tokenize_answer(answer, 2048, True)) == {
        "count": 2,
        "max_model_len": 2048,
        "tokens": [5, 6],
        "token_strs": ["a", "\ufffd"],
    }
    assert json.loads(llamacpp.tokenize_answer(answer, 2048, False))["token_strs"] is None


@pytest.mark.parametrize("body", [b"{}", b'{"tokens":["a"]}', b'{"tokens":3}'])
def test_a_detokenize_body_needs_tokens(body):
    with pytest.raises(Invalid):
        llamacpp.detokenize_body(body)
