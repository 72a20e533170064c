from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from mooring.core.errors import Invalid, Unavailable
from mooring.engines.safetensors import INDEX, read_model, read_object
from mooring.testing.engines.files import safetensors_bytes, write_model_folder

CONFIG = {"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 2}


def test_the_weights_are_summed_by_type(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "m", CONFIG)
    (folder / "more.safetensors").write_bytes(safetensors_bytes({"a": ("F32", [2, 3]), "b": ("BF16", [5])}))
    model = read_model(folder)
    assert dict(model.bytes_by_type) == {"BF16": 2048 + 10, "F32": 24}
    assert model.data_bytes == 2082
    assert (model.architectures, model.sentence_embedder) == (("Qwen3ForCausalLM",), False)


def test_the_index_decides_which_files_belong_to_the_model(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "m", CONFIG)
    (folder / "consolidated.safetensors").write_bytes(safetensors_bytes({"same": ("BF16", [1024])}))
    (folder / INDEX).write_text(json.dumps({"weight_map": {"weight": "model.safetensors"}}))
    assert read_model(folder).data_bytes == 2048


def test_of_a_model_for_pictures_the_text_part_counts(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "m", {"text_config": {"num_hidden_layers": 7}, "num_hidden_layers": 2})
    assert read_model(folder).config["num_hidden_layers"] == 7


def test_a_sentence_embedder_is_known_by_its_modules(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "m", CONFIG)
    (folder / "modules.json").write_text("[]")
    assert read_model(folder).sentence_embedder


def _entry(begin: int, end: int) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [begin, end]}}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 6) + b"[1, 2]",
        struct.pack("<Q", 2) + b"\xff\xff",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        safetensors_bytes({"w": ("F32", [100])})[:-1],
        _entry(0, 1 << 50),
        _entry(4, 0),
        struct.pack("<Q", 7) + b'{"a":1}',
        struct.pack("<Q", 28) + b'{"a":{"data_offsets":["",2]}',
    ],
)
def test_a_broken_or_hostile_file_is_refused_with_a_next_step(tmp_path: Path, content: bytes) -> None:
    folder = write_model_folder(tmp_path / "m", CONFIG)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(Invalid, match="no usable model") as refusal:
        read_model(folder)
    assert refusal.value.next_step


@pytest.mark.parametrize("named", ["../other.safetensors", "/etc/passwd", ".hidden"])
def test_an_index_names_no_file_outside_of_its_folder(tmp_path: Path, named: str) -> None:
    folder = write_model_folder(tmp_path / "m", CONFIG)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"weight": named}}))
    with pytest.raises(Invalid, match="outside"):
        read_model(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, " " * (5 << 20)])
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_model_folder(tmp_path / "m", CONFIG)
    (folder / "config.json").write_text(content)
    with pytest.raises(Invalid, match=r"config\.json"):
        read_model(folder)
    with pytest.raises(Invalid):
        read_object(folder / "config.json")


def test_what_is_not_there_may_come_later(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        read_model(tmp_path)
    with pytest.raises(Unavailable):
        read_object(tmp_path / "adapter_config.json")


def test_a_folder_without_weights_and_a_pipe_among_them_are_refused(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "m", CONFIG)
    (folder / "model.safetensors").unlink()
    with pytest.raises(Invalid, match="0 "):
        read_model(folder)
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(Invalid, match="no regular file"):
        read_model(folder)
