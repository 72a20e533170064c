"""What a request line stands for: an operation, in a dialect, at times of a service that the path names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import msgspec

from mooring.core.errors import Invalid, InvalidJson, Missing, MooringError
from mooring.core.snapshot import KeyEntry

if TYPE_CHECKING:
    from mooring.gateway.routing import Target
    from mooring.gateway.snapshot import Table

_NEXT = "Name an endpoint id or a model."
_decode_text = msgspec.json.Decoder(str).decode


class Address(NamedTuple):
    """What a path names: a service of a project, a service by its id, or a model on a chip. The rest is empty."""

    project: str = ""
    service: str = ""  # name with dots written as dashes, or id
    model: str = ""
    chip: str = ""


class Dialect(Protocol):
    """What a dialect's module offers. `NAME` stands in usage records."""

    NAME: str

    def parse(self, path: bytes) -> tuple[str, Address | None] | None:
        """Return the operation at a path (without query) and what it names; None where there is nothing."""
        ...

    def find_target(self, table: Table, key: KeyEntry, address: Address | None, model: bytes) -> Target:
        """Return what a call is for. `model`: the body's member as raw JSON, b"" when it is missing.

        Raises:
            Missing, Invalid, InvalidJson: the dialect goes by `model`, and it can't be read.
            ModelNotFound, AmbiguousModel: see Table.
        """
        ...

    def status(self, error: MooringError) -> int:
        """Return the HTTP status of a refusal."""
        ...

    def error_body(self, error: MooringError, request_id: str) -> bytes:
        """Return the JSON body of a refusal."""
        ...

    def error_event(self, error: MooringError, request_id: str) -> bytes:
        """Return the event that ends a stream which can't go on."""
        ...


class Route(NamedTuple):
    """`keyed`: the caller must show a key. `refusal`: what is wrong with the request line, if something is."""

    operation: str
    dialect: Dialect
    address: Address | None = None
    keyed: bool = True
    refusal: MooringError | None = None


def path_text(part: bytes) -> str:
    """Return a part of a path as text, its percent-encoding undone; what is no UTF-8 becomes U+FFFD."""
    return unquote_to_bytes(part).decode(errors="replace")


def model_text(value: bytes) -> str:
    """Return the text of the body's `model`, given as raw JSON.

    Raises:
        Missing: it is not there, or null.
        Invalid, InvalidJson: it is no string, or no UTF-8.
    """
    if not value or value == b"null":
        raise Missing("'model' is missing.", param="model", next_step=_NEXT)
    if value[0] != 0x22:
        raise Invalid("'model' must be a string.", param="model", next_step=_NEXT)
    if b"\\" not in value:
        try:
            return value[1:-1].decode()
        except UnicodeDecodeError:
            raise InvalidJson("The body is not valid UTF-8.", param="model") from None
    return _decode_text(value)


def adapter_text(model: bytes) -> str:
    """Return what stands after the last colon of `model` (raw JSON); "" where nothing does.

    Where the path names the service, no more of `model` is read.
    """
    if model[:1] != b'"' or b":" not in model:
        return ""
    return model_text(model).rpartition(":")[2]
