"""A model as the hubs keep it: a folder with config.json and *.safetensors. Facts and sizes; the weights are not read.

The layout of a file is that of https://huggingface.co/docs/safetensors: eight bytes with the header's length, a JSON
header, then the data. What is read is bounded, because a folder may come from anywhere. Ask in a thread.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mooring.core.errors import Invalid, Unavailable

MAX_CONFIG_BYTES = 4 << 20
MAX_HEADER_BYTES = 32 << 20  # the format allows 100 MB; the largest seen have 10 MB for a shard
MAX_INDEX_BYTES = 64 << 20
MAX_FILES = 4096
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class SafetensorsModel:
    """What a model's folder says. `config` is the part of config.json about the text model, if it has several."""

    config: dict[str, Any]
    architectures: tuple[str, ...]
    bytes_by_type: Mapping[str, int]  # of the weights: {"BF16": 1192099840}
    sentence_embedder: bool  # modules.json lies there: made to embed texts

    @property
    def data_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.bytes_by_type.values())


class _Broken(Exception):
    """A file is not what it should be; the text says which and why."""


def read_model(folder: Path) -> SafetensorsModel:
    """Read config.json and the header of every weights file that belongs to the model.

    Raises:
        Invalid: a file is not what it should be, or not whole.
        Unavailable: a file is not there or can't be read now.
    """
    try:
        config = _read_json(folder / "config.json", MAX_CONFIG_BYTES)
        sizes: Counter[str] = Counter()
        for path in _weights(folder):
            sizes.update(_read_header(path))
        names = config.get("architectures")
        return SafetensorsModel(
            config=_text_part(config),
            architectures=tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else (),
            bytes_by_type=sizes,
            sentence_embedder=(folder / "modules.json").is_file(),
        )
    except _Broken as broken:
        raise refusal(folder, str(broken)) from None
    except OSError as error:
        raise Unavailable(
            f"The model {folder} can't be read: {error.filename or ''} {error.strerror or error}.",
            next_step="A folder with config.json and *.safetensors is needed.",
            param="model",
        ) from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a small JSON object, such as an adapter's configuration.

    Raises:
        Invalid: it is none.
        Unavailable: it can't be read now.
    """
    try:
        return _read_json(path, MAX_CONFIG_BYTES)
    except _Broken as broken:
        raise refusal(path.parent, str(broken)) from None
    except OSError as error:
        raise Unavailable(f"{path} can't be read: {error.strerror or error}.", next_step="Put it there.") from None


def refusal(folder: Path, why: str) -> Invalid:
    """Return the refusal of a model's folder."""
    return Invalid(
        f"{folder.name} is no usable model: {why}.",
        next_step="Fetch the model again; config.json and every *.safetensors file must be whole.",
        param="model",
    )


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """Of a model for pictures and text, the part that has the KV cache."""
    inner = config.get("text_config") or config.get("llm_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _weights(folder: Path) -> list[Path]:
    """The index decides what belongs to the model: some folders hold the same weights in a second form."""
    if (folder / INDEX).is_file():
        placed = _read_json(folder / INDEX, MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(placed, dict):
            raise _Broken(f"{INDEX} has no weight_map")
        names = {str(name) for name in placed.values()}
        if any(os.sep in name or name.startswith(".") for name in names):
            raise _Broken(f"{INDEX} names files outside of the folder")
        found = sorted(folder / name for name in names)
    else:
        found = sorted(folder.glob("*.safetensors"))
    if not found or len(found) > MAX_FILES:
        raise _Broken(f"it has {len(found)} *.safetensors files")
    return found


def _read_json(path: Path, limit: int) -> dict[str, Any]:
    with _open(path) as file:
        data = file.read(limit + 1)
    return _object(path, data, limit)


def _object(path: Path, data: bytes, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise _Broken(f"{path.name} is larger than {limit >> 20} MiB")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise _Broken(f"{path.name} holds no JSON") from None
    if not isinstance(found, dict):
        raise _Broken(f"{path.name} holds no JSON object")
    return found


def _read_header(path: Path) -> Counter[str]:
    """Return the bytes of each type of number in one file."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        begin = file.read(8)
        length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise _Broken(f"{path.name} is no safetensors file or ends within its header")
        header = _object(path, file.read(length), MAX_HEADER_BYTES)
    header.pop("__metadata__", None)
    sizes: Counter[str] = Counter()
    for entry in header.values():
        kind, tensor_bytes, end = _tensor(path, entry)
        if end > size - 8 - length:
            raise _Broken(f"{path.name} ends before its last tensor, so it is incomplete")
        sizes[kind] += tensor_bytes
    return sizes


def _tensor(path: Path, entry: Any) -> tuple[str, int, int]:
    """Return type, bytes and the end of the data of one entry of a header."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(offsets, list) and len(offsets) == 2 and all(isinstance(number, int) for number in offsets):
        begin, end = offsets
        if 0 <= begin <= end:
            return str(entry.get("dtype")), end - begin, end
    raise _Broken(f"{path.name} has a tensor without sensible offsets")


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb", opener=_opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _Broken(f"{path.name} is no regular file")
        yield file


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait for its writer
