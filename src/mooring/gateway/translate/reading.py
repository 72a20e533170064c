"""Reads a caller's body member by member: a value of the wrong kind is refused under the name of its place in it.

What nobody takes is passed on as it came, so that parameters of single engines reach them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, cast

import msgspec

from mooring.core.errors import Invalid, InvalidJson, Missing

Members = dict[str, Any]
_LONGEST_SHOWN = 60  # characters of a caller's value in a message
_decode_any = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Node:
    """One value of a body and its place: `messages.0.content.1`. Null counts as absent.

    Every method raises Invalid when the value is of another kind, Missing when it must be there and is not.
    """

    __slots__ = ("path", "value")

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.value = value

    @property
    def absent(self) -> bool:
        return self.value is None

    def refuse(self, sentence: str, next_step: str | None = None) -> NoReturn:
        """Raise Invalid about this place; `sentence` goes on from its name."""
        raise Invalid(f"'{self.path}' {sentence}.", param=self.path, next_step=next_step)

    def members(self) -> Members:
        """Return an object's members."""
        self._must_be(dict, "an object")
        return cast("Members", self.value)

    def member(self, name: str) -> Node:
        """Return one member of an object, which may be absent."""
        return Node(f"{self.path}.{name}", self.members().get(name))

    def entries(self) -> list[Node]:
        """Return an array's values."""
        self._must_be(list, "an array")
        return [Node(f"{self.path}.{place}", value) for place, value in enumerate(cast("list[Any]", self.value))]

    def text(self) -> str:
        """Return a string."""
        self._must_be(str, "a string")
        return cast("str", self.value)

    def text_or(self, default: str) -> str:
        """Return a string, `default` when it is absent."""
        return default if self.absent else self.text()

    def flag(self) -> bool:
        """Return a truth value; absent counts as false."""
        if self.value is not None and not self._is_flag():
            self.refuse("must be true or false")
        return bool(self.value)

    def number(self) -> float | None:
        """Return a number, None when it is absent."""
        if not self.absent and (self._is_flag() or not isinstance(self.value, int | float)):
            self.refuse("must be a number")
        return cast("float | None", self.value)

    def count(self) -> int:
        """Return a whole number of at least one."""
        self._must_be(int, "a whole number")
        if self._is_flag() or self.value < 1:
            self.refuse("must be a whole number of at least 1")
        return cast("int", self.value)

    def one_of(self, allowed: Mapping[str, Any]) -> Any:
        """Return what a string stands for in `allowed`."""
        told = self.text()
        if told not in allowed:
            self.refuse(f"must be one of {', '.join(allowed)}, not '{shown(told)}'")
        return allowed[told]

    def _is_flag(self) -> bool:
        return isinstance(self.value, bool)

    def _must_be(self, kind: type, called: str) -> None:
        if self.value is None:
            raise Missing(f"'{self.path}' is missing.", param=self.path)
        if not isinstance(self.value, kind):
            self.refuse(f"must be {called}")


class Request:
    """A caller's body: members are taken out of it; `with_members` gives the rest, as it came, with others added."""

    def __init__(self, body: bytes) -> None:
        """Read a body.

        Raises:
            InvalidJson: it is no JSON object in UTF-8.
        """
        try:
            body.decode()
            self._rest = _decode_members(body)
        except UnicodeDecodeError:
            raise InvalidJson("The body is not valid UTF-8.") from None
        except msgspec.DecodeError as error:
            raise InvalidJson(f"The body is not a valid JSON object: {error}.") from None
        except RecursionError:
            raise InvalidJson("The body is nested too deeply.") from None

    def take(self, name: str) -> Node:
        """Take a member out, which may be absent.

        Raises:
            Invalid: it can't be read.
        """
        raw = self._rest.pop(name, None)
        return Node(name, None if raw is None else _value(name, raw))

    def look(self, name: str) -> Node:
        """Return a member, which may be absent, and leave it where it is.

        Raises:
            Invalid: it can't be read.
        """
        raw = self._rest.get(name)
        return Node(name, None if raw is None else _value(name, raw))

    def drop(self, names: frozenset[str]) -> None:
        """Take members out that have no meaning here."""
        for name in names:
            self._rest.pop(name, None)

    def with_members(self, members: Members) -> bytes:
        """Return what is left with `members` added, as JSON.

        Raises:
            Invalid: it is nested too deeply.
        """
        return written({**self._rest, **members})


def written(members: Members) -> bytes:
    """Return an object as JSON.

    Raises:
        Invalid: it is nested too deeply.
    """
    try:
        return _encode(members)
    except RecursionError:
        raise InvalidJson("The body is nested too deeply.") from None


def _value(name: str, raw: msgspec.Raw) -> Any:
    try:
        return _decode_any(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"'{name}' can't be read: {error}.", param=name) from None


def as_json(node: Node) -> str:
    """Return an object as JSON text.

    Raises:
        Invalid: it is none, or nested too deeply.
    """
    try:
        return _encode(node.members()).decode()
    except RecursionError:
        node.refuse("is nested too deeply")


def shown(text: str) -> str:
    """Return a caller's text as it may stand in a message."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def check_stream(request: Request) -> None:
    """Leave out `stream_options`: that a chat's stream tells its usage is asked for where it is sent.

    Raises:
        Invalid: `stream` is neither true nor false.
    """
    request.drop(frozenset({"stream_options"}))
    request.look("stream").flag()
