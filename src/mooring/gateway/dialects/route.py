"""What a request line stands for: an operation, in a dialect, at times of a service that the path names."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from mooring.core.errors import MooringError


class Address(NamedTuple):
    """A service as a path names it. `service`: its name, dots written as dashes, or its id."""

    project: str
    service: str


class Dialect(Protocol):
    """What a dialect's module offers. `NAME` stands in usage records."""

    NAME: str

    def parse(self, path: bytes) -> tuple[str, Address | None] | None:
        """Return the operation at a path (without query) and the service it names; None where there is nothing."""
        ...

    def error_body(self, error: MooringError) -> bytes:
        """Return the JSON body of a refusal."""
        ...

    def error_event(self, error: MooringError) -> bytes:
        """Return the event that ends a stream which can't go on."""
        ...


class Route(NamedTuple):
    """`keyed`: the caller must show a key. `refusal`: what is wrong with the request line, if something is."""

    operation: str
    dialect: Dialect
    address: Address | None = None
    keyed: bool = True
    refusal: MooringError | None = None
