"""The header of a GGUF file: facts about the model and the list of its tensors. The weights are not read.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. A
file may come from anywhere, so every count and length is bounded, nothing is mapped (a file cut off while it is
mapped would kill us), and what is not needed (vocabularies, templates) is passed over. A large vocabulary takes up to
half a second: ask in a thread.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mooring.core.errors import Invalid, Unavailable

Value = bool | int | float | str | tuple[bool | int | float, ...]

MAX_PAIRS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_PARTS = 1024
MAX_KEY_BYTES = 65535
MAX_TEXT_BYTES = 4096  # a longer text is passed over
MAX_NUMBERS = 1024  # a longer list is passed over
MAX_HEADER_BYTES = 256 << 20
MAX_TEXTS = 4_000_000  # in all lists of texts together; vocabulary and merges have some 700,000 at most
_MAX_DIMENSIONS = 8  # the format allows 4 so far
_TEXT, _LIST = 8, 9
_NUMBERS: dict[int, struct.Struct] = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_COUNT, _KIND = _NUMBERS[10], _NUMBERS[4]
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its name, its dimensions (the innermost first) and where its data begin, from the first data byte."""

    name: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What the header of a file, or the headers of all parts of a split one, say."""

    values: dict[str, Value]
    tensors: tuple[Tensor, ...]
    data_bytes: int  # of the tensors, in all parts

    @property
    def architecture(self) -> str:
        """Name of the model's architecture (`qwen3`), "" if it has none."""
        return self.text("general.architecture")

    def text(self, key: str) -> str:
        """Return a text, "" if there is none."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str, default: int = 0) -> int:
        """Return a whole number of the architecture (`block_count`); of a list with one for each layer the largest."""
        value = self.values.get(f"{self.architecture}.{key}")
        found = max(value, default=default) if isinstance(value, tuple) else value
        return found if isinstance(found, int) else default

    def per_layer(self, key: str, layers: int, default: int = 0) -> list[int]:
        """Return a whole number of the architecture for each layer."""
        value = self.values.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple) and len(value) == layers:
            return [int(number) for number in value]
        return [self.number(key, default)] * layers

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return a tensor's dimensions, () if there is no such tensor."""
        return next((found.shape for found in self.tensors if found.name == tensor), ())


class _Broken(Exception):
    """The file is no GGUF we can read; the text says why."""


def read_model(path: Path) -> GgufModel:
    """Read the header of a GGUF file; of a split model (`…-00001-of-00003.gguf`), of all its parts.

    Raises:
        Invalid: no GGUF file, or one that is not whole.
        Unavailable: it, or a part of it, is not there or can't be read now.
    """
    first = _read_file(path)
    parts = first.values.get("split.count", 1)
    if not isinstance(parts, int) or parts <= 1:
        return first
    models = [first] + [_read_file(part) for part in _other_parts(path, parts)]
    tensors = tuple(tensor for model in models for tensor in model.tensors)
    return GgufModel(first.values, tensors, sum(model.data_bytes for model in models))


def _other_parts(path: Path, parts: int) -> list[Path]:
    named = _PART.fullmatch(path.name)
    if named is None or int(named[2]) != 1 or int(named[3]) != parts or parts > MAX_PARTS:
        raise _refusal(path, f"it is one of {parts} parts, and its name does not say which")
    return [path.with_name(f"{named[1]}-{number:05d}-of-{parts:05d}.gguf") for number in range(2, parts + 1)]


def _read_file(path: Path) -> GgufModel:
    try:
        with open(path, "rb", opener=_opener) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _Broken("it is no regular file")
            return _Reader(file, status.st_size).model()
    except _Broken as broken:
        raise _refusal(path, str(broken)) from None
    except OSError as error:
        raise Unavailable(
            f"The model file {path} can't be read: {error.strerror or error}.",
            next_step="Put the file there, or name another one.",
            param="model",
        ) from None


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait for its writer


def _refusal(path: Path, why: str) -> Invalid:
    return Invalid(
        f"{path.name} is no usable GGUF file: {why}.",
        next_step="Fetch the file again; if it was converted, convert it with a current llama.cpp.",
        param="model",
    )


class _Reader:
    """Reads one header from front to back and never past its bounds."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._left = min(size, MAX_HEADER_BYTES)
        self._texts = MAX_TEXTS

    def model(self) -> GgufModel:
        """Read everything before the data."""
        if self._take(4) != b"GGUF":
            raise _Broken("it begins with other bytes than such a file")
        version = self._number(_KIND)
        if version not in (2, 3):
            raise _Broken(f"its version is {version}; 2 and 3 can be read here (little-endian)")
        tensors, pairs = self._count("tensors", MAX_TENSORS), self._count("facts", MAX_PAIRS)
        values: dict[str, Value] = {}
        for _ in range(pairs):
            self._pair(values)
        found = tuple(self._tensor() for _ in range(tensors))
        return GgufModel(values, found, self._data_bytes(values, found))

    def _data_bytes(self, values: dict[str, Value], tensors: tuple[Tensor, ...]) -> int:
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise _Broken("its alignment is no sensible number")
        begin = -(-self._file.tell() // alignment) * alignment
        size = max(0, self._size - begin)
        if any(tensor.offset >= size for tensor in tensors):
            raise _Broken("it ends before its last tensor, so it is incomplete")
        return size

    def _pair(self, values: dict[str, Value]) -> None:
        key = self._text(MAX_KEY_BYTES) or ""
        value = self._value(self._number(_KIND))
        if value is not None:
            values[key] = value

    def _value(self, kind: int) -> Value | None:
        """Read one value; None if it is one that is passed over."""
        if kind == _TEXT:
            return self._text(MAX_TEXT_BYTES, keep=False)
        if kind == _LIST:
            return self._list(self._number(_KIND), self._number(_COUNT))
        return self._number(self._number_kind(kind))

    def _list(self, kind: int, count: int) -> Value | None:
        if kind == _TEXT:
            self._pass_texts(count)
            return None
        packed = self._number_kind(kind)
        if count > MAX_NUMBERS:
            self._pass(count * packed.size)
            return None
        data = self._take(count * packed.size)
        return tuple(value for (value,) in packed.iter_unpack(data))

    def _pass_texts(self, count: int) -> None:
        self._texts -= count
        if self._texts < 0:
            raise _Broken("its lists are too long")
        for _ in range(count):
            self._pass(self._number(_COUNT))

    def _tensor(self) -> Tensor:
        name = self._text(MAX_KEY_BYTES) or ""
        dimensions = self._number(_KIND)
        if dimensions > _MAX_DIMENSIONS:
            raise _Broken(f"a tensor has {dimensions} dimensions")
        shape = tuple(self._number(_COUNT) for _ in range(dimensions))
        self._number(_KIND)  # how its numbers are packed
        return Tensor(name, shape, self._number(_COUNT))

    def _text(self, limit: int, *, keep: bool = True) -> str | None:
        """Read a text; one longer than `limit` is refused, or with `keep=False` passed over."""
        length = self._number(_COUNT)
        if length <= limit:
            return self._take(length).decode("utf-8", "replace")
        if keep:
            raise _Broken(f"a name in it has {length} bytes")
        self._pass(length)
        return None

    def _number_kind(self, kind: int) -> struct.Struct:
        found = _NUMBERS.get(kind)
        if found is None:
            raise _Broken(f"a fact in it is of the unknown kind {kind}")
        return found

    def _count(self, what: str, limit: int) -> int:
        count = self._number(_COUNT)
        if count > limit:
            raise _Broken(f"it claims to hold {count} {what}")
        return count

    def _number(self, packed: struct.Struct) -> Any:
        return packed.unpack(self._take(packed.size))[0]

    def _take(self, size: int) -> bytes:
        self._spend(size)
        data = self._file.read(size)
        if len(data) < size:
            raise _Broken("it ends within its header, so it is incomplete")
        return data

    def _pass(self, size: int) -> None:
        self._spend(size)
        self._file.seek(size, os.SEEK_CUR)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _Broken(
                "it ends within its header, so it is incomplete"
                if self._size < MAX_HEADER_BYTES
                else "its header is too large"
            )
