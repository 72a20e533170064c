"""What is refused before any deployed engine sees it: the same on all of them."""

from __future__ import annotations

import pytest

from mooring.core.errors import Invalid, InvalidJson

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}
EMBEDDING = {"model": "m", "input": "hi"}

pytestmark = pytest.mark.parametrize("engine", ["llamacpp", "vllm"])


@pytest.mark.parametrize(
    ("operation", "body", "param"),
    [
        ("chat", {**CHAT, "temperature": -1}, "temperature"),
        ("chat", {**CHAT, "temperature": "hot"}, "temperature"),
        ("chat", {**CHAT, "top_p": 5}, "top_p"),
        ("chat", {**CHAT, "top_p": 0}, "top_p"),
        ("chat", {**CHAT, "top_k": -2}, "top_k"),
        ("chat", {**CHAT, "min_p": 1.1}, "min_p"),
        ("chat", {**CHAT, "presence_penalty": 3}, "presence_penalty"),
        ("chat", {**CHAT, "frequency_penalty": -3}, "frequency_penalty"),
        ("chat", {**CHAT, "repetition_penalty": 0}, "repetition_penalty"),
        ("chat", {**CHAT, "max_tokens": 0}, "max_tokens"),
        ("chat", {**CHAT, "max_tokens": -5}, "max_tokens"),
        ("chat", {**CHAT, "max_tokens": 1.5}, "max_tokens"),
        ("chat", {**CHAT, "max_completion_tokens": -5}, "max_completion_tokens"),
        ("chat", {**CHAT, "n": 0}, "n"),
        ("chat", {**CHAT, "n": 129}, "n"),
        ("chat", {**CHAT, "stream_options": {}}, "stream_options"),
        ("chat", {**CHAT, "thinking": {"type": "deep"}}, "thinking.type"),
        ("chat", {**CHAT, "thinking": {}}, "thinking"),
        ("chat", {**CHAT, "stop": [1]}, "stop[0]"),
        ("chat", {"model": "m"}, "messages"),
        ("chat", {"model": "m", "messages": None}, "messages"),
        ("chat", {"model": "m", "messages": []}, "messages"),
        ("chat", {"model": "m", "messages": "hi"}, "messages"),
        ("chat", {"model": "m", "messages": ["hi"]}, "messages[0]"),
        ("chat", {"model": "m", "messages": [*CHAT["messages"], {"role": "user"}]}, "messages[1].content"),
        ("chat", {"model": "m", "messages": [{"role": "system", "content": None}]}, "messages[0].content"),
        ("completion", {"model": "m"}, "prompt"),
        ("completion", {"model": "m", "prompt": []}, "prompt"),
        ("completion", {"model": "m", "prompt": ["a"] * 100, "n": 100}, "n"),
        ("embedding", {"model": "m", "input": None}, "input"),
        ("embedding", {"model": "m", "input": []}, "input"),
    ],
)
def test_what_can_not_be_right_is_refused_by_name(admitted, engine, operation, body, param):
    with pytest.raises(Invalid) as caught:
        admitted(engine, operation, body)
    assert caught.value.param == param
    assert param.partition("[")[0] in caught.value.message


def test_text_that_is_none_is_refused(admitted, engine):
    with pytest.raises(InvalidJson):
        admitted(engine, "chat", b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}')


@pytest.mark.parametrize(
    "more",
    [
        dict.fromkeys(("temperature", "top_p", "n", "max_tokens", "stream_options", "thinking", "stop", "tools")),
        {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "max_tokens": 1, "presence_penalty": -2},
        {"no_such_field": {"a": 1.50}, "logit_bias": {"1": 5}},
        {"thinking": {"type": "auto", "budget_tokens": 5}},
    ],
)
def test_what_may_be_right_passes_as_it_came(admitted, engine, more):
    _, sent = admitted(engine, "chat", {**CHAT, **more})
    sent.pop("cache_salt", None)
    assert sent == {**CHAT, "model": "up", **more}


def test_an_assistant_may_have_said_nothing(admitted, engine):
    called = {"role": "assistant", "tool_calls": []}
    _, sent = admitted(engine, "chat", {**CHAT, "messages": [*CHAT["messages"], called]})
    assert sent["messages"][1] == called


@pytest.mark.parametrize(("kind", "wanted"), [("enabled", True), ("disabled", False)])
@pytest.mark.parametrize("null", [{}, {"chat_template_kwargs": None}])
def test_thinking_is_said_in_the_templates_words(admitted, engine, kind, wanted, null):
    _, sent = admitted(engine, "chat", {**CHAT, **null, "thinking": {"type": kind}})
    assert sent["chat_template_kwargs"] == {"enable_thinking": wanted}


def test_the_templates_own_words_stand(admitted, engine):
    given = {"thinking": {"type": "enabled"}, "chat_template_kwargs": {"x": 1}}
    _, sent = admitted(engine, "chat", {**CHAT, **given})
    assert sent["chat_template_kwargs"] == {"x": 1}
