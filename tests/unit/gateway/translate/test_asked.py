"""What a caller asks in another API's words, said as a chat; and what a chat can't say, refused by name."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mooring.core.errors import Invalid, InvalidJson, Missing, UpstreamFailed
from mooring.gateway.translate import TRANSLATIONS, messages

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "name"]), inner),
    max_leaves=4,
)
HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}
CHAT_TOOLS = [{"type": "function", "function": FUNCTION}]
MESSAGE_TOOLS = [
    {"name": "weather", "description": "Tells it.", "input_schema": SCHEMA, "cache_control": {"type": "e"}}
]
RESPONSE_TOOLS = [{"type": "function", **FUNCTION, "strict": None}]
CALL = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"上海"}'}}
RESULT = {"role": "tool", "tool_call_id": "t1", "content": "rain"}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said, "cache_control": {"type": "ephemeral"}}


def chat_of(operation: str, body: dict[str, Any]) -> dict[str, Any]:
    return json.loads(TRANSLATIONS[operation].to_chat(json.dumps(body, ensure_ascii=False).encode()))


def said_in_messages(*said: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": list(said) or HI, **more}


MESSAGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("plain", said_in_messages(), {"model": "m", "max_tokens": 9, "messages": HI}),
    (
        "system blocks and a stream",
        said_in_messages(system=[text("a"), text("b")], stream=True, stream_options={"x": 1}),
        {
            "stream": True,
            "stream_options": None,
            "messages": [{"role": "system", "content": "a\nb"}, *HI],
        },
    ),
    ("no stream", said_in_messages(stream=False, stream_options={}), {"stream": False, "stream_options": None}),
    (
        "parameters of the engine pass, of Anthropic's service not",
        said_in_messages(
            top_k=5, seed=7, temperature=0.5, stop_sequences=["x"], metadata={"user_id": "u"}, speed="fast"
        ),
        {"top_k": 5, "seed": 7, "temperature": 0.5, "stop": ["x"], "user": "u", "speed": None, "metadata": None},
    ),
    (
        "a tool's round",
        said_in_messages(
            *HI,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "redacted_thinking", "data": "x"},
                    text("I look."),
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "上海"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    text("and?"),
                    {"type": "tool_result", "tool_use_id": "t1", "content": [text("rain")]},
                    {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "t2", "content": "error 5", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "t3"},
                ],
            },
            {"role": "user", "content": "now"},
        ),
        {
            "messages": [
                *HI,
                {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [CALL]},
                RESULT,
                {"role": "tool", "tool_call_id": "t2", "content": "Error: no"},
                {"role": "tool", "tool_call_id": "t2", "content": "error 5"},
                {"role": "tool", "tool_call_id": "t3", "content": ""},
                {"role": "user", "content": "and?\nnow"},
            ]
        },
    ),
    (
        "a call without a word, and a system turn",
        said_in_messages(
            *HI,
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "上海"}}],
            },
            {"role": "system", "content": "be brief"},
        ),
        {
            "messages": [
                *HI,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "system", "content": "be brief"},
            ]
        },
    ),
    (
        "tools, one at a time",
        said_in_messages(tools=MESSAGE_TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True}),
        {"tools": CHAT_TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
    ),
    (
        "this tool",
        said_in_messages(tools=MESSAGE_TOOLS, tool_choice={"type": "tool", "name": "weather"}),
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "parallel_tool_calls": None},
    ),
    (
        "no tools, no choice",
        said_in_messages(tools=[], tool_choice={"type": "auto"}),
        {"tools": None, "tool_choice": None},
    ),
    (
        "thinking",
        said_in_messages(thinking={"type": "enabled", "budget_tokens": 1024}, chat_template_kwargs={"a": 1}),
        {"thinking": {"type": "enabled"}, "chat_template_kwargs": {"enable_thinking": True, "a": 1}},
    ),
    (
        "no thinking",
        said_in_messages(thinking={"type": "disabled"}),
        {"thinking": {"type": "disabled"}, "chat_template_kwargs": {"enable_thinking": False}},
    ),
    (
        "thinking as the model likes",
        said_in_messages(thinking={"type": "adaptive"}, output_config={"effort": "max"}),
        {"thinking": {"type": "auto"}, "chat_template_kwargs": None, "reasoning_effort": "high"},
    ),
    (
        "a schema",
        said_in_messages(output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            }
        },
    ),
]
RESPONSES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("plain", {"model": "m", "input": "hi"}, {"model": "m", "messages": HI, "input": None}),
    (
        "all that is only said again, or means nothing here",
        {
            "input": "hi",
            "store": True,
            "metadata": {"a": "b"},
            "truncation": "auto",
            "include": ["x"],
            "background": False,
        },
        {"messages": HI, "store": None, "metadata": None, "truncation": None, "include": None, "background": None},
    ),
    (
        "parameters",
        {"input": "hi", "max_output_tokens": 7, "reasoning": {"effort": "low"}, "top_p": 0.5, "top_k": 3, "user": "u"},
        {
            "max_completion_tokens": 7,
            "reasoning_effort": "low",
            "top_p": 0.5,
            "top_k": 3,
            "user": "u",
            "reasoning": None,
        },
    ),
    (
        "a conversation",
        {
            "instructions": "be kind",
            "input": [
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
                {"type": "function_call", "call_id": "t1", "name": "weather", "arguments": '{"city":"上海"}'},
                {"type": "function_call_output", "call_id": "t1", "output": [{"type": "input_text", "text": "rain"}]},
                {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "so"}]},
                {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
            ],
            "stream": True,
        },
        {
            "messages": [
                {"role": "system", "content": "be kind\nbe brief"},
                *HI,
                {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [CALL]},
                RESULT,
                {"role": "assistant", "content": "", "reasoning_content": "so"},
            ],
            "stream_options": None,
        },
    ),
    (
        "tools",
        {"input": "hi", "tools": RESPONSE_TOOLS, "tool_choice": {"type": "function", "name": "weather"}},
        {"tools": CHAT_TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    (
        "a tool without parameters",
        {"input": "hi", "tools": [{"type": "function", "name": "f", "strict": True}], "parallel_tool_calls": False},
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True},
                }
            ],
            "parallel_tool_calls": False,
        },
    ),
    ("text", {"input": "hi", "text": {"format": {"type": "text"}}}, {"response_format": None, "text": None}),
    (
        "json",
        {"input": "hi", "text": {"format": {"type": "json_object"}}},
        {"response_format": {"type": "json_object"}},
    ),
    (
        "a schema",
        {"input": "hi", "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}},
    ),
]


@pytest.mark.parametrize(
    ("operation", "body", "expected"),
    [pytest.param("messages", *case[1:], id=f"messages: {case[0]}") for case in MESSAGES]
    + [pytest.param("responses", *case[1:], id=f"responses: {case[0]}") for case in RESPONSES],
)
def test_it_is_said_as_a_chat(operation, body, expected):
    chat = chat_of(operation, body)
    assert {name: chat.get(name) for name in expected} == expected


def test_what_nobody_knows_keeps_its_digits():
    for operation, told in (
        ("messages", b'"max_tokens":1,"messages":[{"role":"user","content":""}]'),
        ("responses", b'"input":""'),
    ):
        assert b'"x":1.10e1000' in TRANSLATIONS[operation].to_chat(b'{"x":1.10e1000,%b}' % told)


def block(**members: Any) -> dict[str, Any]:
    return said_in_messages({"role": "user", "content": [text("a"), members]})


def item(**members: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": "a"}, members]}


SECOND = "messages.0.content.1"
REFUSED: list[tuple[str, Any, str | None, str]] = [
    ("messages", block(type="image", source={}), SECOND, "is an image"),
    ("messages", block(type="document", source={}), SECOND, "is a document"),
    ("messages", block(type="search_result", content=[]), SECOND, "is a search result"),
    ("messages", block(type="web_search_tool_result", content=[]), SECOND, "runs on a server"),
    ("messages", block(type="thing"), SECOND, "'thing'"),
    ("messages", block(text="a"), f"{SECOND}.type", "is missing"),
    (
        "messages",
        block(type="tool_result", tool_use_id="t", content=[{"type": "image"}]),
        f"{SECOND}.content.0",
        "is an image",
    ),
    (
        "messages",
        said_in_messages({"role": "assistant", "content": [{"type": "server_tool_use"}]}),
        "messages.0.content.0",
        "runs on a server",
    ),
    ("messages", said_in_messages({"role": "tool", "content": "a"}), "messages.0.role", "'tool'"),
    ("messages", {"messages": HI}, "max_tokens", "is missing"),
    ("messages", said_in_messages(max_tokens=0), "max_tokens", "at least 1"),
    ("messages", said_in_messages(max_tokens=True), "max_tokens", "whole number"),
    ("messages", {"max_tokens": 1}, "messages", "is missing"),
    ("messages", {"max_tokens": 1, "messages": []}, "messages", "must not be empty"),
    ("messages", said_in_messages(stream=1), "stream", "true or false"),
    (
        "messages",
        said_in_messages(tools=[{"type": "web_search_20250305", "name": "w"}]),
        "tools.0",
        "web_search_20250305",
    ),
    ("messages", said_in_messages(tools=[{"name": "w"}]), "tools.0.input_schema", "is missing"),
    ("messages", said_in_messages(mcp_servers=[{"type": "url"}]), "mcp_servers", "runs tools"),
    ("messages", said_in_messages(container="c"), "container", "runs tools"),
    ("messages", said_in_messages(thinking={"type": "auto"}), "thinking.type", "'auto'"),
    ("messages", b"[]", None, "not a valid JSON object"),
    ("messages", b'{"a": "\xff"}', None, "UTF-8"),
    ("messages", b'{"messages": %b}' % (b"[" * 200_000 + b"]" * 200_000), None, "nested too deeply"),
    ("messages", b'{"system": 1e999, "max_tokens": 1, "messages": []}', "system", "can't be read"),
    ("responses", item(role="user", content=[{"type": "input_image"}]), "input.1.content.0", "is an image"),
    ("responses", item(role="user", content=[{"type": "input_file"}]), "input.1.content.0", "is a file"),
    ("responses", item(role="user", content=[{"type": "input_audio"}]), "input.1.content.0", "is audio"),
    ("responses", item(type="item_reference", id="i"), "input.1", "is kept"),
    ("responses", item(id="i"), "input.1", "is kept"),
    ("responses", item(type="computer_call"), "input.1", "'computer_call'"),
    ("responses", item(role="robot", content="a"), "input.1.role", "'robot'"),
    ("responses", {}, "input", "is missing"),
    ("responses", {"input": "a", "previous_response_id": "r"}, "previous_response_id", "nothing is kept"),
    ("responses", {"input": "a", "conversation": "c"}, "conversation", "nothing is kept"),
    ("responses", {"input": "a", "prompt": {"id": "p"}}, "prompt", "nothing is kept"),
    ("responses", {"input": "a", "background": True}, "background", "not offered"),
    ("responses", {"input": "a", "tools": [{"type": "web_search"}]}, "tools.0", "'web_search'"),
    ("responses", {"input": "a", "tools": [{"type": "mcp"}]}, "tools.0", "'mcp'"),
    ("responses", {"input": "a", "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "'allowed_tools'"),
    ("responses", {"input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format.name", "is missing"),
    ("responses", {"input": "a", "metadata": {"a": 1}}, "metadata", "strings only"),
    ("responses", {"input": "a", "truncation": "some"}, "truncation", "'some'"),
    ("responses", {"input": "a", "temperature": "hot"}, "temperature", "a number"),
]


@pytest.mark.parametrize(
    ("operation", "body", "param", "sentence"), REFUSED, ids=[f"{case[0]}: {case[2]} {case[3]}" for case in REFUSED]
)
def test_what_a_chat_cannot_say_is_refused_by_name(operation, body, param, sentence):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Invalid) as refusal:
        TRANSLATIONS[operation].to_chat(data)
    error = refusal.value
    assert error.param == param
    assert sentence in error.message
    assert error.next_step
    assert isinstance(error, InvalidJson) == (param is None)
    assert isinstance(error, Missing) == ("is missing" in error.message)


ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}'
SAMPLES = [("messages", body) for _, body, _ in MESSAGES] + [("responses", body) for _, body, _ in RESPONSES]
NAMES = sorted({name for _, body in SAMPLES for name in body} | {"container", "mcp_servers", "prompt", "output_format"})


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@settings(max_examples=300, deadline=None)
@given(st.data(), JSON)
def test_a_value_of_any_kind_anywhere_is_refused_or_answered(data, value):
    operation, body = data.draw(st.sampled_from(SAMPLES))
    path = data.draw(st.sampled_from([*places(body), *((name,) for name in NAMES)]))
    body = {**body, path[0]: None} if path and path[0] not in body else body
    asked = json.dumps(put(body, path, value)).encode()
    translation = TRANSLATIONS[operation]
    try:
        chat = translation.to_chat(asked)
    except Invalid:
        return
    assert isinstance(json.loads(chat)["messages"], list)
    answer = json.loads(translation.from_chat(ANSWER, asked, "r"))
    assert answer["model"] is not None
    stream = translation.Translator(asked, "r")
    assert stream.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n') + stream.end()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
@example(b"")
@example(b'{"input":')
def test_no_bytes_get_through_that_are_no_object(data):
    for translation in TRANSLATIONS.values():
        with pytest.raises(Invalid):
            translation.to_chat(data)


@pytest.mark.parametrize("translate", [messages.to_chat, messages.count_body])
@pytest.mark.parametrize("place", ["used", "offered"])
def test_depth_is_refused_wherever_it_begins_to_matter(translate, place):
    use = {"type": "tool_use", "id": "i", "name": "f", "input": {"a": "here"}}
    body = said_in_messages({"role": "assistant", "content": [use]})
    if place == "offered":
        body = said_in_messages(tools=[{"name": "f", "input_schema": {"a": "here"}}])
    shallow = json.dumps(body).encode()
    refused = 0
    for depth in [*range(900, 1020, 2), 200_000]:
        deep = b"[" * depth + b"]" * depth
        try:
            assert deep in translate(shallow.replace(b'"here"', deep))
        except Invalid:
            refused += 1
    assert refused


def test_tokens_are_counted_of_what_would_be_sent():
    body = said_in_messages(system="s", tools=MESSAGE_TOOLS, thinking={"type": "disabled"}, tool_choice={"type": "any"})
    del body["max_tokens"]
    assert json.loads(messages.count_body(json.dumps(body).encode())) == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, *HI],
        "tools": CHAT_TOOLS,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert json.loads(messages.count_body(b'{"messages":[{"role":"user","content":"hi"}]}')) == {"messages": HI}
    assert json.loads(messages.count_answer(b'{"count":12,"max_model_len":9}')) == {"input_tokens": 12}


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b'{"count":"x"}', b"\xff"])
def test_an_answer_without_a_count_is_a_failure(answer):
    with pytest.raises(UpstreamFailed):
        messages.count_answer(answer)
