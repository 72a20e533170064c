"""Anthropic's Messages for services that only know chat completions.

What a chat can't say is refused: images, documents, and tools that Anthropic runs itself. What only steers Anthropic's
own service (caching, tiers, places) is left out. (Fields: the API reference of the Messages API, version 2023-06-01.)
"""

from __future__ import annotations

import msgspec

from mooring.core.errors import UpstreamFailed
from mooring.gateway.translate.conversation import Conversation, joined, refuse_part
from mooring.gateway.translate.messages_stream import Translator, content_of, ending_of, envelope, usage_of
from mooring.gateway.translate.reading import Members, Node, Request, as_json, check_stream, shown, written
from mooring.gateway.translate.said import read_answer

__all__ = ["Translator", "count_answer", "count_body", "from_chat", "to_chat"]

_SYSTEM = {"text": "text"}
_ROLES = {"user": "user", "assistant": "assistant", "system": "system"}
_LEFT_OUT = frozenset(
    {
        "cache_control",
        "context_management",
        "diagnostics",
        "inference_geo",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none", "tool": "tool"}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
# what `thinking` asks for → our gateway's word for it, and the chat template's
_THINKING: dict[str, tuple[str, bool | None]] = {
    "enabled": ("enabled", True),
    "disabled": ("disabled", False),
    "adaptive": ("auto", None),
    "between_tools": ("auto", None),
}
_ERROR = "Error: "
_encode = msgspec.json.Encoder().encode


class _Counted(msgspec.Struct):
    count: int


_decode_counted = msgspec.json.Decoder(_Counted).decode


def to_chat(body: bytes) -> bytes:
    """Return the chat completion's body that says the same.

    Raises:
        Invalid, InvalidJson, Missing: a member is of the wrong kind, or can't be said in a chat; `param` names it.
    """
    request = Request(body)
    told: Members = {"messages": _messages(request), "max_tokens": request.take("max_tokens").count()}
    check_stream(request)
    told |= _tools(request) | _thinking(request) | _output(request)
    stop = [entry.text() for entry in _entries(request.take("stop_sequences"))]
    if stop:
        told["stop"] = stop
    user = _user(request.take("metadata"))
    if user:
        told["user"] = user
    for name in ("container", "mcp_servers"):
        node = request.take(name)
        if node.value:
            node.refuse("needs a server that runs tools, and this service runs none", f"Leave {name} out.")
    request.drop(_LEFT_OUT)
    return request.with_members(told)


def from_chat(answer: bytes, asked: bytes, request_id: str) -> bytes:
    """Return the message that a whole chat completion is. `asked`: the caller's body, as `to_chat` took it.

    Raises:
        UpstreamFailed: the answer can't be read.
    """
    said = read_answer(answer, request_id)
    message = envelope(request_id, said.model, asked)
    message |= {"content": content_of(said.parts), **ending_of(said, asked), "usage": usage_of(said.usage)}
    return _encode(message)


def count_body(body: bytes) -> bytes:
    """Return the body for `/tokenize` that counts what a message would send: `{"model", "messages", "tools"?, …}`.

    Raises:
        Invalid, InvalidJson, Missing: as `to_chat`; no `max_tokens` is needed.
    """
    request = Request(body)
    told: Members = {"model": request.take("model").value, "messages": _messages(request)}
    told["tools"] = _tools(request).get("tools")
    told["chat_template_kwargs"] = _thinking(request).get("chat_template_kwargs")
    if told["chat_template_kwargs"] is None:
        told["chat_template_kwargs"] = request.take("chat_template_kwargs").value
    return written({name: value for name, value in told.items() if value is not None})


def count_answer(answer: bytes) -> bytes:
    """Return `{"input_tokens": n}` of what `/tokenize` answered.

    Raises:
        UpstreamFailed: the answer can't be read.
    """
    try:
        return _encode({"input_tokens": _decode_counted(answer).count})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamFailed("The service's answer holds no count of tokens.") from None


def _entries(node: Node) -> list[Node]:
    return [] if node.absent else node.entries()


def _user(metadata: Node) -> str:
    return "" if metadata.absent else metadata.member("user_id").text_or("")


def _messages(request: Request) -> list[Members]:
    conversation = Conversation()
    system = request.take("system")
    if not system.absent:
        conversation.say("system", joined(system, _SYSTEM))
    messages = request.take("messages")
    for message in messages.entries():
        role = message.member("role").one_of(_ROLES)
        content = message.member("content")
        if role == "system":
            conversation.say(role, joined(content, _SYSTEM))
        elif not isinstance(content.value, list):
            conversation.say(role, content.text())
        elif role == "assistant":
            _assistant(conversation, content)
        else:
            _user_turn(conversation, content)
    if not messages.value:
        messages.refuse("must not be empty")
    return conversation.messages


def _user_turn(conversation: Conversation, content: Node) -> None:
    """Answers of tools come first: in a chat they follow the call at once."""
    texts: list[str] = []
    for block in content.entries():
        kind = block.member("type").text()
        if kind == "text":
            texts.append(block.member("text").text())
        elif kind == "tool_result":
            conversation.answer(block.member("tool_use_id").text(), _result(block))
        else:
            _refuse(block, kind)
    if texts:
        conversation.say("user", "\n".join(texts))


def _result(block: Node) -> str:
    content = block.member("content")
    text = "" if content.absent else joined(content, _SYSTEM)
    failed = block.member("is_error").flag()
    return _ERROR + text if failed and not text.lower().startswith("error") else text


def _assistant(conversation: Conversation, content: Node) -> None:
    for block in content.entries():
        kind = block.member("type").text()
        if kind == "text":
            conversation.say("assistant", block.member("text").text())
        elif kind == "thinking":
            conversation.think(block.member("thinking").text())
        elif kind == "tool_use":
            name, call_id = block.member("name").text(), block.member("id").text()
            conversation.call(call_id, name, as_json(block.member("input")))
        elif kind != "redacted_thinking":
            _refuse(block, kind)


def _refuse(block: Node, kind: str) -> None:
    if kind in ("server_tool_use", "mcp_tool_use", "container_upload") or kind.endswith("_tool_result"):
        block.refuse(f"is part of a tool that runs on a server ('{shown(kind)}')", "Leave such blocks out.")
    refuse_part(block, kind)


def _tools(request: Request) -> Members:
    tools = [_tool(tool) for tool in _entries(request.take("tools"))]
    choice = request.take("tool_choice")
    if choice.absent:
        return {"tools": tools} if tools else {}
    chosen = choice.member("type").one_of(_CHOICES)
    if chosen == "tool":
        chosen = {"type": "function", "function": {"name": choice.member("name").text()}}
    told: Members = {"tools": tools, "tool_choice": chosen}
    if choice.member("disable_parallel_tool_use").flag():
        told["parallel_tool_calls"] = False
    return told if tools else {}


def _tool(tool: Node) -> Members:
    kind = tool.member("type").text_or("custom")
    if kind != "custom":
        tool.refuse(
            f"has the type '{shown(kind)}', which only Anthropic offers",
            "Offer it as a tool of your own, with name, description and input_schema, and run it yourself.",
        )
    function: Members = {"name": tool.member("name").text()}
    description = tool.member("description").text_or("")
    if description:
        function["description"] = description
    function["parameters"] = tool.member("input_schema").members()
    if tool.member("strict").flag():
        function["strict"] = True
    return {"type": "function", "function": function}


def _thinking(request: Request) -> Members:
    """`thinking` is said twice: in our gateway's word and, for services that it doesn't reach, in the template's."""
    thinking = request.take("thinking")
    if thinking.absent:
        return {}
    word, enabled = thinking.member("type").one_of(_THINKING)
    budget = thinking.member("budget_tokens")
    if not budget.absent:
        budget.count()  # how much is thought is the model's matter
    told: Members = {"thinking": {"type": word}}
    if enabled is not None:
        given = request.take("chat_template_kwargs")
        told["chat_template_kwargs"] = {"enable_thinking": enabled, **({} if given.absent else given.members())}
    return told


def _output(request: Request) -> Members:
    told: Members = {}
    config, wanted = request.take("output_config"), request.take("output_format")
    if not config.absent:
        effort = config.member("effort")
        if not effort.absent:
            told["reasoning_effort"] = effort.one_of(_EFFORTS)
        if wanted.absent:
            wanted = config.member("format")
    if not wanted.absent:
        wanted.member("type").one_of({"json_schema": None})
        schema = {"name": "answer", "schema": wanted.member("schema").members(), "strict": True}
        told["response_format"] = {"type": "json_schema", "json_schema": schema}
    return told
