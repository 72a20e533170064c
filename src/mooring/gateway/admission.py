"""May this caller have it now? The head gives the route and the key, the body gives the Ticket.

Order of refusal: path 404 → method 405 → key 401 → content type 415 → size 413 → JSON 400 → model 404 → stopped →
unsupported type → (limits, moderation: not yet) → routing.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mooring.core.errors import (
    Invalid,
    InvalidJson,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
    UnsupportedType,
)
from mooring.core.snapshot import KeyEntry
from mooring.gateway.dialects.operations import METERED, STREAMED
from mooring.gateway.dialects.route import Address, Route
from mooring.gateway.http1.body import Edit, add_member, find_value, replace_value, splice
from mooring.gateway.http1.request import Head
from mooring.gateway.quirks import Steps
from mooring.gateway.routing import Service, Target
from mooring.gateway.snapshot import Table

_NO_RAW = msgspec.Raw()
_INCLUDE_USAGE = b'"stream_options":{"include_usage":true}'
_EMPTY = re.compile(rb"\s*\{\s*\}")


class Body(msgspec.Struct):
    """The members the gateway itself reads; everything else passes unseen."""

    model: msgspec.Raw = _NO_RAW
    stream: msgspec.Raw = _NO_RAW
    stream_options: msgspec.Raw = _NO_RAW


_decode_body = msgspec.json.Decoder(Body).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder().decode


class Ticket:
    """An admitted request: who asks what of which service, and the body to send."""

    stream = False
    wants_usage = False
    steps: Steps | None = None  # takes several calls: how
    choices_per_prompt = 1
    body: list[bytes]

    def __init__(self, key: KeyEntry, route: Route, target: Target, service: Service, prompt_estimate: int) -> None:
        self.key = key
        self.route = route
        self.operation = route.operation
        self.target = target
        self.service = service
        self.prompt_estimate = prompt_estimate  # tokens, until the engine tells


def _show(text: bytes) -> str:
    return text[:200].decode("latin-1")


def authenticate(head: Head, table: Table) -> KeyEntry:
    """Return the caller's key.

    Raises:
        Unauthenticated: no key, another scheme, or a key that is not valid.
    """
    header = head.authorization or b""
    if header[:7] == b"Bearer " or header[:7].lower() == b"bearer ":
        bearer = header[7:].strip()
        if bearer:
            return table.authenticate(bearer)
    if not header:
        raise Unauthenticated("The API key is missing.")
    raise Unauthenticated("The Authorization header does not hold a bearer key.")


def check_body_head(head: Head, max_body_bytes: int) -> None:
    """Judge what the head says about the body.

    Raises:
        UnsupportedMediaType: a content type other than JSON.
        TooLarge: the announced length is above the limit.
    """
    kind = head.content_type
    if kind and kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaType(f"The body must be JSON, not {_show(kind)}.", param="Content-Type")
    if head.content_length > max_body_bytes:
        raise too_large(max_body_bytes)


def too_large(max_body_bytes: int) -> TooLarge:
    """Return the refusal of a body above the limit."""
    return TooLarge(f"The body is larger than {max_body_bytes} bytes.")


def admit(body: bytes, key: KeyEntry, route: Route, table: Table) -> Ticket:
    """Read the body, find the service, prepare the body to send.

    Raises:
        InvalidJson, Invalid: the body can't be read; the message names the position or the member.
        ModelNotFound, AmbiguousModel, EndpointStopped, UnsupportedType, NotReady: see Table.resolve and Target.
    """
    try:
        read = _decode_body(body)
    except msgspec.DecodeError as error:
        raise InvalidJson(f"The body is not a valid JSON object: {error}.") from None
    except RecursionError:
        raise InvalidJson("The body is nested too deeply.") from None
    model = bytes(read.model)
    address = route.address
    target = table.resolve(key, _text(model)) if address is None else _addressed(key, address, model, table)
    service = target.choose_service()
    operation = route.operation
    if operation in METERED and operation not in service.entry.types:
        raise _unsupported(service, operation)
    ticket = Ticket(key, route, target, service, len(body) // 3)
    if operation in STREAMED and _flag(read.stream, "stream"):
        ticket.stream = True
    edits: list[Edit] = []
    if ticket.stream:
        ticket.wants_usage = _include_usage(body, read.stream_options, edits)
    quirks = service.quirks
    served = service.served_model_json if quirks is None else quirks.fit(ticket, body, edits)
    ticket.body = _with_model(body, model, served, edits)
    return ticket


def _addressed(key: KeyEntry, address: Address, model: bytes, table: Table) -> Target:
    """Return the service that the path names. Of `model` only the adapter is read, if it ends in one."""
    target = table.resolve_address(key, address)
    if model[:1] == b'"' and b":" in model:
        adapter = _text(model).rpartition(":")[2]
        if adapter in target.choose_service().entry.adapters:
            return target.with_adapter(adapter)
    return target


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


def _text(value: bytes) -> str:
    if not value or value == b"null":
        raise Invalid("'model' is missing.", param="model", next_step="Name an endpoint id or a model.")
    if value[0] != 0x22:
        raise Invalid("'model' must be a string.", param="model", next_step="Name an endpoint id or a model.")
    if b"\\" not in value:
        try:
            return value[1:-1].decode()
        except UnicodeDecodeError:
            raise InvalidJson("The body is not valid UTF-8.", param="model") from None
    return _decode_text(value)


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


def _unsupported(service: Service, needed: str) -> UnsupportedType:
    offered = ", ".join(service.entry.types) or "nothing"
    return UnsupportedType(
        f"The service {service.entry.name} does not offer '{needed}'; it offers: {offered}.",
        param="model",
        next_step=f"Choose a model of type '{needed}'.",
    )
