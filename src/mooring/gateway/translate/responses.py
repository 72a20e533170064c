"""OpenAI's Responses for services that only know chat completions.

Nothing is kept between two calls, so what refers to an earlier one is refused, as is what a chat can't say: images,
files, audio, and tools that run on OpenAI's side. (Fields: the API reference of `POST /v1/responses`.)
"""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.gateway.translate.conversation import Conversation, joined
from mooring.gateway.translate.reading import Members, Node, Request, check_stream, shown
from mooring.gateway.translate.responses_stream import Translator, ending_of, envelope
from mooring.gateway.translate.said import read_answer

__all__ = ["Translator", "from_chat", "to_chat"]

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_THOUGHTS = {"reasoning_text": "text", "summary_text": "text", "text": "text"}
_CHOICES = {"auto": "auto", "required": "required", "none": "none"}
_FORMATS = {"text": "text", "json_object": "json_object", "json_schema": "json_schema"}
_TRUNCATIONS = {"auto": None, "disabled": None}
_SCHEMA = ("name", "description", "schema", "strict")
# What refers to something that is kept between calls: each is refused with what to do instead.
_KEPT = {
    "previous_response_id": "Send the whole conversation in 'input'.",
    "conversation": "Send the whole conversation in 'input'.",
    "prompt": "Send the prompt's text in 'instructions' and 'input'.",
}
_LEFT_OUT = frozenset(
    {
        "access_programs",
        "background_options",
        "context_management",
        "image",
        "include",
        "max_tool_calls",
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "top_logprobs",
    }
)
_encode = msgspec.json.Encoder().encode


def to_chat(body: bytes) -> bytes:
    """Return the chat completion's body that says the same.

    Raises:
        Invalid, InvalidJson, Missing: a member is of the wrong kind, or can't be said in a chat; `param` names it.
    """
    request = Request(body)
    _refuse_kept(request)
    told: Members = {"messages": _messages(request)}
    check_stream(request)
    told |= _tools(request) | _format(request.take("text")) | _sampling(request)
    _check_kept_for_answer(request)
    request.drop(_LEFT_OUT)
    return request.with_members(told)


def from_chat(answer: bytes, asked: bytes, request_id: str) -> bytes:
    """Return the response that a whole chat completion is. `asked`: the caller's body, as `to_chat` took it.

    Raises:
        UpstreamFailed: the answer can't be read.
    """
    said = read_answer(answer, request_id)
    return _encode({**envelope(asked, request_id, said.model, said.created), **ending_of(said, request_id)})


def _refuse_kept(request: Request) -> None:
    for name, next_step in _KEPT.items():
        node = request.take(name)
        if not node.absent:
            node.refuse("refers to something that is kept, and nothing is kept here", next_step)
    background = request.take("background")
    if background.flag():
        background.refuse("is not offered", "Leave background out and wait for the answer, or set stream to true.")
    request.take("store").flag()  # accepted, and the answer says that nothing is stored


def _check_kept_for_answer(request: Request) -> None:
    """What the answer only says again must be what its schema says."""
    metadata = request.take("metadata")
    if not metadata.absent and not all(isinstance(value, str) for value in metadata.members().values()):
        metadata.refuse("must hold strings only")
    truncation = request.take("truncation")
    if not truncation.absent:
        truncation.one_of(_TRUNCATIONS)
    request.look("user").text_or("")


def _messages(request: Request) -> list[Members]:
    conversation = Conversation()
    instructions = request.take("instructions")
    if not instructions.absent:
        conversation.say("system", instructions.text())
    told = request.take("input")
    if isinstance(told.value, list):
        for item in told.entries():
            _item(conversation, item)
    else:
        conversation.say("user", told.text())
    return conversation.messages


def _item(conversation: Conversation, item: Node) -> None:
    role = item.member("role")
    kind = item.member("type").text_or("message" if not role.absent else "item_reference")
    if kind == "message":
        conversation.say(role.one_of(_ROLES), joined(item.member("content"), _TEXTS))
    elif kind == "function_call":
        name, arguments = item.member("name").text(), item.member("arguments").text()
        conversation.call(item.member("call_id").text(), name, arguments)
    elif kind == "function_call_output":
        conversation.answer(item.member("call_id").text(), joined(item.member("output"), _TEXTS))
    elif kind == "reasoning":
        _reasoning(conversation, item)
    elif kind == "item_reference":
        item.refuse("refers to an item that is kept, and nothing is kept here", "Send the item itself.")
    else:
        item.refuse(
            f"has the type '{shown(kind)}', which a chat can't say",
            "Send messages, function calls, their outputs and reasoning only.",
        )


def _reasoning(conversation: Conversation, item: Node) -> None:
    """What was thought, else its summary; what is only there encrypted nobody here can read."""
    for name in ("content", "summary"):
        thoughts = item.member(name)
        text = "" if thoughts.absent else joined(thoughts, _THOUGHTS)
        if text:
            conversation.think(text)
            return


def _tools(request: Request) -> Members:
    listed, choice = request.take("tools"), request.take("tool_choice")
    tools = [_tool(tool) for tool in ([] if listed.absent else listed.entries())]
    told: Members = {"tools": tools}
    if not choice.absent:
        told["tool_choice"] = _choice(choice)
    parallel = request.take("parallel_tool_calls")
    if not parallel.absent:
        told["parallel_tool_calls"] = parallel.flag()
    return told if tools else {}


def _tool(tool: Node) -> Members:
    kind = tool.member("type").text()
    if kind != "function":
        tool.refuse(
            f"has the type '{shown(kind)}', and only functions can be called through a chat",
            "Offer it as a function and run it yourself, or leave it out.",
        )
    parameters, strict = tool.member("parameters"), tool.member("strict")
    function: Members = {"name": tool.member("name").text()}
    description = tool.member("description").text_or("")
    if description:
        function["description"] = description
    function["parameters"] = {"type": "object", "properties": {}} if parameters.absent else parameters.members()
    if strict.flag():
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(choice: Node) -> Any:
    if isinstance(choice.value, str):
        return choice.one_of(_CHOICES)
    kind = choice.member("type").text()
    if kind != "function":
        choice.refuse(
            f"has the type '{shown(kind)}', and only functions can be chosen",
            "Name a function, or send only the tools that may be called.",
        )
    return {"type": "function", "function": {"name": choice.member("name").text()}}


def _format(text: Node) -> Members:
    wanted = Node("text.format", None) if text.absent else text.member("format")
    kind = "text" if wanted.absent else wanted.member("type").one_of(_FORMATS)
    if kind == "text":
        return {}
    told: Members = {"type": kind}
    if kind == "json_schema":
        wanted.member("name").text()
        wanted.member("schema").members()
        wanted.member("description").text_or("")
        wanted.member("strict").flag()
        given = wanted.members()
        told["json_schema"] = {name: given[name] for name in _SCHEMA if given.get(name) is not None}
    return {"response_format": told}


def _sampling(request: Request) -> Members:
    told: Members = {}
    limit = request.take("max_output_tokens")
    if not limit.absent:
        told["max_completion_tokens"] = limit.count()
    reasoning = request.take("reasoning")
    effort = Node("reasoning.effort", None) if reasoning.absent else reasoning.member("effort")
    if not effort.absent:
        told["reasoning_effort"] = effort.text()
    for name in ("temperature", "top_p"):
        request.look(name).number()
    return told
