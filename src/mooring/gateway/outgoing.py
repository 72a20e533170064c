"""What is sent to the service: the caller's body with the few edits that are ours to make.

Bodies are spliced, not re-serialised: what the gateway does not know passes as it came.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.core.errors import Invalid, InvalidJson
from mooring.core.repairs import MESSAGES_TRANSLATED, RESPONSES_TRANSLATED, USAGE_ABSENT, USAGE_REFUSED
from mooring.gateway.dialects.operations import STREAMED, TRANSLATED
from mooring.gateway.http1.body import Edit, add_member, find_value, replace_value, splice
from mooring.gateway.translate import TRANSLATIONS, messages

if TYPE_CHECKING:
    from mooring.gateway.admission import Ticket

# What a service is learnt to need that has no such path.
API_REPAIRS = {
    "responses": RESPONSES_TRANSLATED,
    "messages": MESSAGES_TRANSLATED,
    "count_tokens": MESSAGES_TRANSLATED,
}
_NO_RAW = msgspec.Raw()
_INCLUDE_USAGE = b'"stream_options":{"include_usage":true}'
_EMPTY = re.compile(rb"\s*\{\s*\}")


class Body(msgspec.Struct):
    """The members the gateway itself reads; everything else passes unseen."""

    model: msgspec.Raw = _NO_RAW
    stream: msgspec.Raw = _NO_RAW
    stream_options: msgspec.Raw = _NO_RAW


_decode_body = msgspec.json.Decoder(Body).decode
_decode_any = msgspec.json.Decoder().decode


def read_body(body: bytes) -> Body:
    """Read what the gateway needs of a body.

    Raises:
        InvalidJson: it is no JSON object; the message names the position.
    """
    try:
        return _decode_body(body)
    except msgspec.DecodeError as error:
        raise InvalidJson(f"The body is not a valid JSON object: {error}.") from None
    except RecursionError:
        raise InvalidJson("The body is nested too deeply.") from None


def prepare(ticket: Ticket, body: bytes, read: Body) -> None:
    """Put into the ticket what is sent, and what the answer's way back needs.

    Raises:
        Invalid, InvalidJson: a member can't be read; also what this service's engine can't do.
    """
    operation, service = ticket.operation, ticket.service
    if operation in TRANSLATED and not _spoken(ticket):
        translate(ticket, body)
        return
    edits: list[Edit] = []
    if (operation in STREAMED or operation in TRANSLATED) and _flag(read.stream, "stream"):
        ticket.stream = True
        if operation in STREAMED and USAGE_REFUSED not in ticket.known:
            ticket.wants_usage = _include_usage(body, read.stream_options, edits)
        if ticket.translation is not None:
            ticket.wants_usage = True  # their last event always tells it
    if service.entry.external and (ticket.stream or operation in TRANSLATED or USAGE_ABSENT in ticket.known):
        ticket.asked = body  # it may have to be said otherwise, or its tokens counted
    quirks = service.quirks
    served = service.served_model_json if quirks is None else quirks.fit(ticket, body, edits)
    ticket.body = _with_model(body, bytes(read.model), served, edits)


def _spoken(ticket: Ticket) -> bool:
    """Return whether a call in another API goes on as it is. What runs elsewhere is asked, until it has said no.

    The engines that we deploy are not: llama.cpp's own leave out what the SDKs need, vLLM's take no cache_salt. Texts
    that are moderated are read in one shape only.
    """
    return ticket.service.entry.external and not ticket.checked and API_REPAIRS[ticket.operation] not in ticket.known


def translate(ticket: Ticket, body: bytes) -> None:
    """Say the request as a chat, or as a text whose tokens are counted.

    Raises:
        Invalid: it asks for something that a chat can't do; `param` names it.
    """
    if ticket.operation == "count_tokens":
        said, ticket.operation = messages.count_body(body), "tokenize"
    else:
        ticket.translation = TRANSLATIONS[ticket.operation]
        said, ticket.operation = ticket.translation.to_chat(body), "chat"
    prepare(ticket, said, read_body(said))
    ticket.original = body


def ask_without_usage(ticket: Ticket) -> None:
    """Say a stream's request again without our `include_usage`: the service refused it."""
    ticket.known = ticket.known | {USAGE_REFUSED}
    prepare(ticket, ticket.asked, read_body(ticket.asked))  # of a translation: the chat that it became


def _with_model(body: bytes, model: bytes, served: bytes, edits: list[Edit]) -> list[bytes]:
    """Return the body in pieces with the served model's name and the other edits in it."""
    if model == served:
        return splice(body, edits)
    if not model:  # allowed where the path names the service
        start = body.index(b"{") + 1
        comma = b"" if _EMPTY.match(body) else b","
        return splice(body, [*edits, Edit(start, start, b'"model":%b%b' % (served, comma))])
    span = find_value(body, b"model", model)
    if span is not None and not edits:
        return [body[: span[0]], served, body[span[1] :]]
    edits += [Edit(span[0], span[1], served)] if span is not None else replace_value(body, "model", None, served)
    return splice(body, edits)


def _flag(raw: msgspec.Raw, name: str) -> bool:
    value = bytes(raw)
    if not value or value == b"false" or value == b"null":
        return False
    if value == b"true":
        return True
    raise Invalid(f"'{name}' must be true or false.", param=name)


def _include_usage(body: bytes, raw: msgspec.Raw, edits: list[Edit]) -> bool:
    """Make the engine report usage at the end of the stream; return whether the caller asked for it."""
    value = bytes(raw)
    if not value:
        edits.append(add_member(body, _INCLUDE_USAGE))
        return False
    try:
        options: Any = _decode_any(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("'stream_options' can't be read.", param="stream_options") from None
    if options is None:
        edits += replace_value(body, "stream_options", value, b'{"include_usage":true}')
        return False
    if not isinstance(options, dict):
        raise Invalid("'stream_options' must be an object.", param="stream_options")
    asked: Any = options.get("include_usage")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if asked is True:
        return True
    if asked is not None and asked is not False:
        raise Invalid("'stream_options.include_usage' must be true or false.", param="stream_options.include_usage")
    options["include_usage"] = True
    edits += replace_value(body, "stream_options", value, msgspec.json.encode(options))
    return False
