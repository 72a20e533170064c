"""The same request on every engine: one shape of answer, one of refusal, and usage that counts everything.

`recorded/` holds what vLLM 0.32 and llama.cpp (xllamacpp 2026.10) say; here is what leaves the gateway.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

QUESTION = {"role": "user", "content": "9.11 and 9.8, which is greater?"}
CHAT = {"model": "ep-1", "messages": [QUESTION], "temperature": 0}
TEXT = {"model": "ep-1", "prompt": "Hello", "temperature": 0}
EMBED = {"model": "ep-1", "input": ["Hello", "world"]}
TEXT_PATH, EMBED_PATH = "/v1/completions", "/v1/embeddings"
STREAM = {"stream": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def chunks(body: bytes) -> list[Any]:
    payloads = [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event.startswith("data:")]
    assert payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


def said(events: list[Any], name: str) -> str:
    return "".join(choice["delta"].get(name) or "" for event in events for choice in event["choices"])


# --- answers


async def test_a_chat_gives_its_reasoning_and_begins_with_its_text(engine):
    answer = await engine.ask("chat", CHAT)
    assert answer.status == 200
    [choice] = answer.json["choices"]
    assert choice["message"]["content"] == "9.8 is greater than 9.11."
    assert choice["message"]["reasoning_content"].strip().startswith("Integer parts are both 9.")
    assert choice["finish_reason"] == "stop"
    assert answer.json["id"].startswith("chatcmpl-")
    assert answer.json["usage"]["total_tokens"] == 80
    assert engine.metered() == (23, 57)


async def test_an_answer_cut_off_while_thinking_has_reasoning_and_no_content(engine):
    answer = await engine.ask("cut_while_thinking", {**CHAT, "max_tokens": 5})
    [choice] = answer.json["choices"]
    assert not choice["message"]["content"]
    assert choice["message"]["reasoning_content"].strip() == "Integer parts are"
    assert choice["finish_reason"] == "length"
    assert engine.metered() == (23, 5)


async def test_a_stream_gives_its_reasoning_and_begins_with_its_text(engine):
    answer = await engine.ask("chat_stream_usage", {**CHAT, **STREAM})
    events = chunks(answer.body)
    assert said(events, "reasoning_content").startswith("Integer" if engine.name == "llamacpp" else "\nInteger")
    assert said(events, "content").startswith("9.8")
    assert not any(event.get("usage") for event in events)
    assert [choice["finish_reason"] for choice in events[-1]["choices"]] == ["stop"]
    assert engine.metered() == (23, 57)


async def test_usage_asked_for_is_the_last_chunk(engine):
    events = chunks((await engine.ask("chat_stream_usage", {**CHAT, **USAGE})).body)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] == 80
    assert engine.metered() == (23, 57)


async def test_usage_in_every_chunk_is_counted_once(engine):
    says = "chat_stream_continuous_usage" if engine.name == "vllm" else "chat_stream_usage"
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = chunks((await engine.ask(says, {**CHAT, "stream": True, "stream_options": options})).body)
    assert events[-1]["usage"]["completion_tokens"] == 57
    assert engine.metered() == (23, 57)


async def test_a_completion_has_an_id_of_its_kind(engine):
    answer = await engine.ask("text", TEXT, TEXT_PATH)
    assert answer.json["id"].startswith("cmpl-")
    assert answer.json["choices"][0]["text"].startswith("\nHello!")  # a text's newlines are its own
    assert engine.metered() == (1, 8)


async def test_a_completions_stream_puts_its_usage_last(engine):
    events = chunks((await engine.ask("text_stream_usage", {**TEXT, **USAGE}, TEXT_PATH)).body)
    assert all(event["id"].startswith("cmpl-") for event in events)
    assert [event["usage"]["completion_tokens"] for event in events if event.get("usage")] == [8]
    assert events[-1]["choices"] == []
    assert engine.metered() == (1, 8)


async def test_usage_counts_every_choice(engine):
    says = "two_choices" if engine.name == "vllm" else "one_choice"
    answer = await engine.ask(says, {**CHAT, "n": 2})
    assert [choice["index"] for choice in answer.json["choices"]] == [0, 1]
    assert all(choice["message"]["reasoning_content"].strip() == "Integer" for choice in answer.json["choices"])
    assert answer.json["usage"]["total_tokens"] == 29
    assert engine.metered() == (23, 6)


async def test_usage_counts_every_prompt(engine):
    says = "list_of_prompts" if engine.name == "vllm" else "one_prompt"
    answer = await engine.ask(says, {**TEXT, "prompt": ["Hello", "Hi"]}, TEXT_PATH)
    assert [choice["text"] for choice in answer.json["choices"]] == ["\nHello!", "\nHello!"]
    assert answer.json["id"].startswith("cmpl-")
    assert engine.metered() == (2, 6)


async def test_a_schema_and_tools_reach_the_engine(engine):
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    assert (await engine.ask("json_schema", {**CHAT, "response_format": schema})).status == 200
    assert (await engine.ask("tools", {**CHAT, "tools": [tool], "tool_choice": "none"})).status == 200
    assert [engine.received[0]["response_format"], engine.received[1]["tools"]] == [schema, [tool]]
    assert engine.metered() == (46, 68)


async def test_embeddings_are_metered_by_their_prompt(engine):
    answer = await engine.ask("embeddings", EMBED, EMBED_PATH)
    assert [one["index"] for one in answer.json["data"]] == [0, 1]
    assert engine.metered() == (3, 0)


async def test_tokenizing_speaks_vllms_form(engine):
    answer = await engine.ask("tokenize", {"model": "ep-1", "prompt": " How红色"}, "/tokenize")
    assert (answer.json["count"], answer.json["max_model_len"]) == (2, 1024)
    assert len(answer.json["tokens"]) == 2
    answer = await engine.ask("tokenize", {"model": "ep-1", "messages": [QUESTION]}, "/v1/tokenize")
    assert answer.json["count"] == 2
    answer = await engine.ask("detokenize", {"model": "ep-1", "tokens": [703, 1244]}, "/detokenize")
    assert answer.json == {"prompt": " How红色"}
    assert engine.metered() == (0, 0)


async def test_the_list_of_models_is_the_gateways_own(engine):
    answer = await engine.ask("chat", None, "/v1/models", "GET")
    assert [(model["id"], model["parent"]) for model in answer.json["data"]] == [
        ("ep-1", None),
        ("ep-1:other", "ep-1"),
        ("ep-1:pirate", "ep-1"),
        ("elsewhere", None),
        ("elsewhere:other", "elsewhere"),
        ("elsewhere:pirate", "elsewhere"),
    ]
    assert {model["max_model_len"] for model in answer.json["data"]} == {1024}
    assert engine.received == []


async def test_an_adapter_is_asked_for_in_the_engines_own_way(engine):
    answer = await engine.ask("chat_with_adapter", {**CHAT, "model": "ep-1:pirate"})
    assert answer.status == 200
    [sent] = engine.received
    if engine.name == "vllm":
        assert (sent["model"], "lora" in sent) == ("tiny:pirate", False)
    else:
        assert (sent["model"], sent["lora"]) == ("tiny", [{"id": 1, "scale": 1}])
    usage = answer.json["usage"]
    assert engine.metered() == (usage["prompt_tokens"], usage["completion_tokens"])


# --- what is passed on


async def test_an_unknown_member_and_the_usual_ones_reach_the_engine(engine):
    more = {"no_such_field": 1, "ignore_eos": True, "min_tokens": 2, "logit_bias": {"5": 1}, "stop": ["x"]}
    assert (await engine.ask("chat", {**CHAT, **more})).status == 200
    assert {name: engine.received[0][name] for name in more} == more


async def test_a_repetition_penalty_has_the_engines_name(engine):
    await engine.ask("chat", {**CHAT, "repetition_penalty": 1.1})
    name = "repetition_penalty" if engine.name == "vllm" else "repeat_penalty"
    assert engine.received[0][name] == 1.1


async def test_a_limit_beyond_the_context_ends_the_answer_there(engine):
    assert (await engine.ask("chat", {**CHAT, "max_tokens": 100_000})).status == 200
    assert engine.received[0]["max_tokens"] == (None if engine.name == "vllm" else 100_000)


async def test_thinking_is_switched_in_the_templates_words(engine):
    await engine.ask("chat", {**CHAT, "thinking": {"type": "disabled"}})
    assert engine.received[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert "thinking" not in engine.received[0]


async def test_what_was_thought_before_reaches_the_engine_under_its_name(engine):
    for name in ("reasoning", "reasoning_content"):
        thought = {"role": "assistant", "content": "a", name: "because"}
        await engine.ask("chat", {**CHAT, "messages": [QUESTION, thought, QUESTION]})
    wanted = "reasoning" if engine.name == "vllm" else "reasoning_content"
    assert [sent["messages"][1][wanted] for sent in engine.received] == ["because", "because"]


# --- refusals: the same of both, whoever finds the fault


@pytest.mark.parametrize(
    ("says", "body", "param"),
    [
        ("temperature_negative", {**CHAT, "temperature": -1}, "temperature"),
        ("top_p_too_large", {**CHAT, "top_p": 5}, "top_p"),
        ("temperature_is_text", {**CHAT, "temperature": "hot"}, "temperature"),
        ("max_tokens_zero", {**CHAT, "max_tokens": 0}, "max_tokens"),
        ("max_tokens_negative", {**CHAT, "max_tokens": -5}, "max_tokens"),
        ("messages_missing", {"model": "ep-1"}, "messages"),
        ("messages_empty", {**CHAT, "messages": []}, "messages"),
        ("message_without_content", {**CHAT, "messages": [{"role": "user"}]}, "messages[0].content"),
        ("stream_options_without_stream", {**CHAT, "stream_options": {"include_usage": True}}, "stream_options"),
        ("chat", {"messages": [QUESTION]}, "model"),
    ],
)
async def test_what_engines_judge_differently_is_refused_before_them(engine, says, body, param):
    answer = await engine.ask(says, body)
    assert_refused(answer, 400, "invalid_request", param)
    assert engine.received == []
    assert engine.metered() == (0, 0)


def assert_refused(answer: Any, status: int, code: str, param: str | None) -> None:
    assert answer.status == status
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert (answer.error["code"], answer.error["param"]) == (code, param)
    assert "parameter=" not in answer.error["message"]


async def test_a_body_that_is_no_json_is_refused(engine):
    answer = await engine.ask("bad_json", b'{"model": "ep-1", "messages": [')
    assert_refused(answer, 400, "invalid_json", None)


@pytest.mark.parametrize("more", [{}, STREAM])
async def test_a_prompt_beyond_the_context_says_so(engine, more):
    answer = await engine.ask("prompt_too_long", {**CHAT, **more})
    assert_refused(answer, 400, "context_length_exceeded", "input_tokens" if engine.name == "vllm" else "messages")
    assert "1024 tokens" in answer.error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert engine.metered() == (0, 0)


@pytest.mark.parametrize("model", ["nope", "ep-1:nope", "nope:pirate"])
async def test_an_unknown_model_and_an_unknown_adapter_are_404(engine, model):
    answer = await engine.ask("unknown_model", {**CHAT, "model": model})
    assert_refused(answer, 404, "model_not_found", "model")
    assert ("other, pirate" in answer.error["message"]) == model.startswith("ep-1")
    assert engine.received == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/nothing", 404, "path_not_found"), ("GET", "/v1/chat/completions", 405, "method_not_allowed")],
)
async def test_unknown_paths_and_wrong_methods_never_reach_it(engine, method, path, status, code):
    answer = await engine.ask("unknown_path", None, path, method)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert engine.received == []


async def test_a_call_that_the_running_engine_has_not_is_a_type_it_does_not_offer(engine):
    answer = await engine.ask("embeddings_not_offered", EMBED, EMBED_PATH)
    assert_refused(answer, 400, "unsupported_type", "model")


async def test_shorter_embeddings_are_refused(engine):
    answer = await engine.ask("embeddings_dimensions", {**EMBED, "dimensions": 8}, EMBED_PATH)
    assert_refused(answer, 400, "invalid_request", "dimensions")


async def test_beams_and_length_penalty_are_vllms(engine):
    for says, more in (("beam_search", {"use_beam_search": True, "n": 2}), ("length_penalty", {"length_penalty": 0.5})):
        answer = await engine.ask(says, {**TEXT, **more}, TEXT_PATH)
        if engine.name == "vllm":
            assert answer.status == 200
            assert {name: engine.received[-1][name] for name in more} == more
        else:
            assert_refused(answer, 400, "invalid_request", next(iter(more)))
    assert engine.metered() == ((2, 10) if engine.name == "vllm" else (0, 0))


async def test_who_brings_an_adapter_of_llamacpp_along_is_refused_there(engine):
    answer = await engine.ask("chat", {**CHAT, "lora": [{"id": 1, "scale": 1}]})
    if engine.name == "vllm":
        assert answer.status == 200  # unknown there, and ignored
    else:
        assert_refused(answer, 400, "invalid_request", "lora")
        assert engine.received == []
