"""Model files small enough to write in a test: GGUF, safetensors with config.json, LoRA adapters."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64 = 4, 6, 7, 8, 9, 10
_F32 = 0
_ALIGNMENT = 32
_SIZES = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1}

FloatTensor = tuple[Sequence[int], bytes]
"""The dimensions of a tensor, the innermost first, and its numbers as 32-bit floats."""


def gguf_bytes(
    values: Mapping[str, Any], tensors: Mapping[str, FloatTensor] | None = None, *, version: int = 3
) -> bytes:
    """Return a GGUF file. Whole numbers become uint32, lists arrays of one kind."""
    tensors = tensors or {}
    data, described = b"", b""
    for name, (shape, numbers) in tensors.items():
        described += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        described += struct.pack("<IQ", _F32, len(data))
        data += numbers + bytes(-len(numbers) % _ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    head += b"".join(_text(name) + _value(value) for name, value in values.items()) + described
    return head + bytes(-len(head) % _ALIGNMENT) + data


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Any) -> bytes:
    kind, data = _packed(value)
    return struct.pack("<I", kind) + data


def _packed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return _BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return (_UINT32, struct.pack("<I", value)) if value < 1 << 32 else (_UINT64, struct.pack("<Q", value))
    if isinstance(value, float):
        return _FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return _STRING, _text(value)
    entries = [_packed(entry) for entry in value]
    kind = entries[0][0] if entries else _UINT32
    return _ARRAY, struct.pack("<IQ", kind, len(entries)) + b"".join(data for _, data in entries)


def write_gguf(path: Path, values: Mapping[str, Any], tensors: Mapping[str, FloatTensor] | None = None) -> Path:
    """Write a GGUF file and return its path."""
    path.write_bytes(gguf_bytes(values, tensors))
    return path


def write_demo_adapter(path: Path, seed: int, rank: int = 4) -> Path:
    """Write a LoRA adapter for the demo model, strong enough to change every answer; another seed, another one."""
    chance = random.Random(seed)

    def numbers(count: int) -> bytes:
        return struct.pack(f"<{count}f", *(chance.gauss(0, 0.5) for _ in range(count)))

    header = {"general.type": "adapter", "general.architecture": "qwen3", "adapter.type": "lora"}
    tensors: dict[str, FloatTensor] = {}
    for block in range(4):
        for name, width in (("attn_q", 256), ("attn_v", 128)):
            tensors[f"blk.{block}.{name}.weight.lora_a"] = ((256, rank), numbers(256 * rank))
            tensors[f"blk.{block}.{name}.weight.lora_b"] = ((rank, width), numbers(rank * width))
    return write_gguf(path, header | {"adapter.lora.alpha": 8.0}, tensors)


def safetensors_bytes(shapes: Mapping[str, tuple[str, Sequence[int]]]) -> bytes:
    """Return a safetensors file of zeros: `{"name": ("BF16", [8, 8])}`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, (kind, shape) in shapes.items():
        size = _SIZES[kind]
        for length in shape:
            size *= length
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(begin)


def write_model_folder(folder: Path, config: Mapping[str, Any], kind: str = "BF16", numbers: int = 1024) -> Path:
    """Write a folder as the hubs keep a model: config.json and one weights file with so many numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"weight": (kind, [numbers])}))
    return folder


def write_peft_adapter(folder: Path, rank: int = 8, **members: Any) -> Path:
    """Write the folder of an adapter as PEFT does, with empty weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, **members}))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes({"lora": ("F32", [rank, 4])}))
    return folder
