"""May this caller have it now? The head gives the route and the key, the body gives the Ticket.

Order of refusal: path 404 → method 405 → key 401 → content type 415 → size 413 → JSON 400 → model 404 → stopped →
unsupported type → (limits: not yet) → moderation → routing.
"""

from __future__ import annotations

from mooring.core.errors import (
    MalformedAuthorization,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
    UnsupportedType,
)
from mooring.core.snapshot import KeyEntry
from mooring.gateway.answers.lessons import Lessons
from mooring.gateway.answers.moderation import moderated
from mooring.gateway.dialects.operations import NEEDS
from mooring.gateway.dialects.route import Route
from mooring.gateway.http1.request import Head
from mooring.gateway.outgoing import prepare, read_body
from mooring.gateway.quirks import Steps
from mooring.gateway.routing import Service, Target
from mooring.gateway.snapshot import Table
from mooring.gateway.translate import Translation

_UNLEARNT = Lessons()


class Ticket:
    """An admitted request: who asks what of which service, and the body to send."""

    stream = False
    wants_usage = False
    checked = False  # its texts are moderated
    steps: Steps | None = None  # takes several calls: how
    choices_per_prompt = 1
    translation: Translation | None = None  # the caller speaks another API: how the chat's answer is said in it
    asked = b""  # the caller's body, where it may have to be said again or its tokens counted
    original = b""  # of a translation: the body in the caller's API, which its answer quotes
    known: frozenset[str] = frozenset()  # repairs that the service's answers need
    body: list[bytes]

    def __init__(self, key: KeyEntry, route: Route, target: Target, service: Service, prompt_estimate: int) -> None:
        self.key = key
        self.route = route
        self.operation = route.operation  # what the service is asked for: a translation changes it
        self.target = target
        self.service = service
        self.prompt_estimate = prompt_estimate  # tokens, until the engine tells


def _show(text: bytes) -> str:
    return text[:200].decode("latin-1")


def authenticate(head: Head, table: Table, *, bare: bool = False) -> KeyEntry:
    """Return the caller's key. `bare`: it may also come in `x-api-key`.

    Raises:
        MalformedAuthorization: the header holds no bearer key.
        Unauthenticated: no key, or one that is not valid.
    """
    header = head.authorization or b""
    if header[:7] == b"Bearer " or header[:7].lower() == b"bearer ":
        bearer = header[7:].strip()
        if bearer:
            return table.authenticate(bearer)
    if not header and bare and head.api_key:
        return table.authenticate(head.api_key.strip())
    if not header:
        raise Unauthenticated("The API key is missing.")
    raise MalformedAuthorization


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


def admit(
    body: bytes, key: KeyEntry, route: Route, table: Table, lessons: Lessons = _UNLEARNT, *, checking: bool = False
) -> Ticket:
    """Read the body, find the service, prepare the body to send. `checking`: there is someone who moderates.

    Raises:
        InvalidJson, Invalid: the body can't be read; the message names the position or the member.
        ModelNotFound, AmbiguousModel, EndpointStopped, UnsupportedType, NotReady: see Table and Target.
    """
    read = read_body(body)
    target = route.dialect.find_target(table, key, route.address, bytes(read.model))
    service = target.choose_service()
    needed = NEEDS.get(route.operation)
    if needed is not None and needed not in service.entry.types:
        raise _unsupported(service, needed)
    ticket = Ticket(key, route, target, service, len(body) // 3)
    if service.entry.external:
        ticket.known = lessons.of(service.entry)
    if checking:
        ticket.checked = moderated(ticket)
    prepare(ticket, body, read)
    return ticket


def _unsupported(service: Service, needed: str) -> UnsupportedType:
    offered = ", ".join(service.entry.types) or "nothing"
    return UnsupportedType(
        f"The service {service.entry.name} does not offer '{needed}'; it offers: {offered}.",
        param="model",
        next_step=f"Choose a model of type '{needed}'.",
    )
