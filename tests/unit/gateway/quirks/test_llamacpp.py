"""llama.cpp's differences made good: what it would let pass, what it calls otherwise, what it counts wrongly."""

from __future__ import annotations

import json

import msgspec
import pytest

from mooring.core.errors import Invalid, ModelNotFound
from mooring.gateway.quirks import llamacpp_choices, llamacpp_tokens

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}
EMBEDDING = {"model": "m", "input": "hi"}


@pytest.mark.parametrize(
    ("operation", "body", "param"),
    [
        ("chat", {**CHAT, "use_beam_search": True}, "use_beam_search"),
        ("chat", {**CHAT, "best_of": 2}, "best_of"),
        ("chat", {**CHAT, "length_penalty": 1.5}, "length_penalty"),
        ("chat", {**CHAT, "id_slot": 0}, "id_slot"),
        ("chat", {**CHAT, "tools": [{"function": {}}]}, "tools"),
        ("chat", {**CHAT, "lora": [{"id": 0, "scale": 1}]}, "lora"),
        ("completion", {**COMPLETION, "lora": []}, "lora"),
        ("embedding", {**EMBEDDING, "dimensions": 8}, "dimensions"),
        ("embedding", {**EMBEDDING, "model": "m:sql"}, "model"),
    ],
)
def test_what_this_engine_has_not_is_refused_by_name(admitted, operation, body, param):
    with pytest.raises(Invalid) as caught:
        admitted("llamacpp", operation, body, adapters=("sql",))
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
def test_several_choices_take_several_calls(admitted, operation, body, several):
    ticket, _ = admitted("llamacpp", operation, body)
    assert (ticket.steps is not None) is several
    assert ticket.choices_per_prompt == (body.get("n") or 1)


def test_repetition_penalty_gets_its_name_here(admitted):
    _, sent = admitted("llamacpp", "chat", {**CHAT, "repetition_penalty": 1.1})
    assert sent == {**CHAT, "model": "up", "repeat_penalty": 1.1}


@pytest.mark.parametrize("null", [{}, {"lora": None}])
@pytest.mark.parametrize(("adapter", "number"), [("sql", 0), ("pirate", 1)])
def test_an_adapter_is_asked_for_by_its_number_and_the_base_by_its_name(admitted, adapter, number, null):
    ticket, sent = admitted("llamacpp", "chat", {**CHAT, **null, "model": f"m:{adapter}"}, adapters=("sql", "pirate"))
    assert sent == {**CHAT, "model": "up", "lora": [{"id": number, "scale": 1}]}
    assert ticket.target.endpoint_id == ""


def test_who_names_no_adapter_gets_none(admitted):
    _, sent = admitted("llamacpp", "chat", CHAT, adapters=("sql",))
    assert "lora" not in sent


def test_an_unknown_adapter_is_told_which_there_are(admitted):
    with pytest.raises(ModelNotFound, match="sql, pirate"):
        admitted("llamacpp", "chat", {**CHAT, "model": "m:nope"}, adapters=("sql", "pirate"))
    with pytest.raises(ModelNotFound, match="no adapters"):
        admitted("llamacpp", "chat", {**CHAT, "model": "m:nope"})


def test_every_choice_is_made_with_the_adapter(admitted):
    ticket, _ = admitted("llamacpp", "chat", {**CHAT, "n": 2, "model": "m:sql"}, adapters=("sql",))
    for one in llamacpp_choices.split_request(b"".join(ticket.body)):
        assert json.loads(one)["lora"] == [{"id": 0, "scale": 1}]


def test_reasoning_in_messages_gets_the_name_that_is_read_here(admitted):
    messages = [*CHAT["messages"], {"role": "assistant", "content": "a", "reasoning": "b"}, *CHAT["messages"]]
    _, sent = admitted("llamacpp", "chat", {**CHAT, "messages": messages})
    assert sent["messages"][1]["reasoning_content"] == "b"


def test_a_request_is_split_into_one_call_per_choice_with_seeds_of_their_own():
    body = json.dumps({"model": "m", "prompt": ["a", "b"], "n": 2, "seed": 7, "temperature": 0.10}).encode()
    calls = [json.loads(one) for one in llamacpp_choices.split_request(body)]
    assert [(call["prompt"], call["seed"]) for call in calls] == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]
    assert all("n" not in call and call["temperature"] == 0.1 for call in calls)


def test_token_prompts_stay_whole_when_split():
    body = json.dumps({"model": "m", "prompt": [1, 2], "n": 2}).encode()
    assert [json.loads(one)["prompt"] for one in llamacpp_choices.split_request(body)] == [[1, 2], [1, 2]]


def test_answers_are_joined_with_exact_usage():
    def answer(text: str, prompt: int, completion: int) -> bytes:
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return msgspec.json.encode({"id": "x", "choices": [{"index": 0, "text": text}], "usage": usage})

    joined = json.loads(llamacpp_choices.join_answers([answer("a", 3, 1), answer("b", 3, 2), answer("c", 5, 4)], 2))
    assert [(choice["index"], choice["text"]) for choice in joined["choices"]] == [(0, "a"), (1, "b"), (2, "c")]
    assert joined["usage"] == {"prompt_tokens": 8, "completion_tokens": 7, "total_tokens": 15}


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": []}, {"prompt": 3}, {"messages": "a"}])
def test_a_tokenize_body_needs_a_prompt_or_messages(body):
    with pytest.raises(Invalid):
        llamacpp_tokens.read_tokenize(json.dumps(body).encode())


def test_tokenize_answers_as_vllm_does():
    answer = json.dumps({"tokens": [{"id": 5, "piece": "a"}, {"id": 6, "piece": [0xE4, 0xBD]}]}).encode()
    assert json.loads(llamacpp_tokens.tokenize_answer(answer, 2048, True)) == {
        "count": 2,
        "max_model_len": 2048,
        "tokens": [5, 6],
        "token_strs": ["a", "\ufffd"],
    }
    assert json.loads(llamacpp_tokens.tokenize_answer(answer, 2048, False))["token_strs"] is None


@pytest.mark.parametrize("body", [b"{}", b'{"tokens":["a"]}', b'{"tokens":3}'])
def test_a_detokenize_body_needs_tokens(body):
    with pytest.raises(Invalid):
        llamacpp_tokens.detokenize_body(body)
