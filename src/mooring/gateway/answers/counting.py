"""Tokens of an answer that a service did not count: asked of its own tokenizer, if it has one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.core.errors import MooringError
from mooring.core.repairs import NO_TOKENIZER
from mooring.gateway.admission import Ticket
from mooring.gateway.answers.calls import call
from mooring.gateway.routing import Replica
from mooring.gateway.streams.usage import Usage

if TYPE_CHECKING:
    from mooring.gateway.parts import Parts

_ABSENT = frozenset({404, 405})
_TIMEOUT_S = 2.0  # the caller waits for the end of its answer


class _Asked(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()


class _Counted(msgspec.Struct):
    count: int


async def count_tokens(parts: Parts, ticket: Ticket, replica: Replica, said: str) -> Usage | None:
    """Return the tokens of the caller's prompt and of what was `said`; None when the service can't count.

    Speaks vLLM's `POST /tokenize`: `{"model", "messages" | "prompt"}` → `{"count", …}`.
    """
    asked = msgspec.json.decode(ticket.asked, type=_Asked)
    told = {"messages": asked.messages} if bytes(asked.messages) else {"prompt": asked.prompt}
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            prompt = await _count(parts, ticket, replica, told)
            completion = await _count(parts, ticket, replica, {"prompt": said, "add_special_tokens": False})
    except MooringError as error:
        if error.status in _ABSENT:
            parts.lessons.learn(ticket.service.entry, [NO_TOKENIZER])
        return None
    except TimeoutError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        parts.lessons.learn(ticket.service.entry, [NO_TOKENIZER])
        return None
    return Usage(prompt, completion)


async def _count(parts: Parts, ticket: Ticket, replica: Replica, told: dict[str, Any]) -> int:
    body = msgspec.json.encode({"model": ticket.service.entry.served_model, **told})
    answer = await call(parts, ticket, replica, b"/tokenize", True, body)
    return msgspec.json.decode(answer, type=_Counted).count
