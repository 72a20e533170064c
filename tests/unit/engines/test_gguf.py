from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mooring
from mooring.core.errors import Invalid, Unavailable
from mooring.engines import gguf
from mooring.engines.gguf import read_model
from mooring.testing.engines.files import gguf_bytes, write_gguf

DEMO = Path(mooring.__file__).parent / "assets" / "mooring-demo.gguf"
HEADER = {
    "general.architecture": "qwen3",
    "qwen3.block_count": 3,
    "qwen3.attention.head_count_kv": [2, 0, 2],
    "qwen3.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": ["a", "b"],
    "tokenizer.chat_template": "x" * 5000,
    "general.big": 1 << 40,
}
TENSORS = {"token_embd.weight": ((4, 2), bytes(32)), "output_norm.weight": ((4,), bytes(16))}


def test_the_demo_models_header_says_what_it_is() -> None:
    model = read_model(DEMO)
    assert (model.architecture, model.number("block_count"), model.number("context_length")) == ("qwen3", 4, 2048)
    assert model.shape("token_embd.weight") == (256, 3072)
    assert 0 < DEMO.stat().st_size - model.data_bytes < 200_000, "all but the header is weights"


def test_facts_are_kept_and_vocabularies_and_long_texts_are_not(tmp_path: Path) -> None:
    model = read_model(write_gguf(tmp_path / "m.gguf", HEADER, TENSORS))
    assert model.values["general.big"] == 1 << 40
    assert model.values["qwen3.rope.freq_base"] == 10000.0
    assert model.per_layer("attention.head_count_kv", 3) == [2, 0, 2]
    assert model.number("attention.head_count_kv") == 2
    assert model.per_layer("absent", 3, 7) == [7, 7, 7]
    assert model.text("general.absent") == ""
    assert "tokenizer.ggml.tokens" not in model.values
    assert "tokenizer.chat_template" not in model.values
    assert model.data_bytes == 64, "a tensor begins at a multiple of 32"


def test_a_split_model_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        values = HEADER | {"split.count": 3, "split.no": number - 1}
        write_gguf(tmp_path / f"m-{number:05d}-of-00003.gguf", values, {f"part{number}": ((8,), bytes(32))})
    model = read_model(tmp_path / "m-00001-of-00003.gguf")
    assert [tensor.name for tensor in model.tensors] == ["part1", "part2", "part3"]
    assert model.data_bytes == 3 * 32
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(Unavailable, match="m-00002-of-00003"):
        read_model(tmp_path / "m-00001-of-00003.gguf")


@pytest.mark.parametrize("name", ["m.gguf", "m-00002-of-00003.gguf", "m-00001-of-00002.gguf"])
def test_a_part_whose_name_does_not_say_which_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match="one of 3 parts"):
        read_model(write_gguf(tmp_path / name, HEADER | {"split.count": 3}))


def _header(tensors: int, pairs: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest


_LIST = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "incomplete"),
        (b"lQ?]" + bytes(40), r"is no usable GGUF file: it begins with other bytes than such a file\."),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), "version is 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "little-endian"),
        (_header(0, 1 << 60), "claims to hold"),
        (_header(1 << 60, 0), "claims to hold"),
        (_header(0, 1, struct.pack("<Q", 1 << 62)), "a name in it"),
        (_header(0, 1, struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99)), "unknown kind 99"),
        (_header(0, 1, _LIST + struct.pack("<IQ", 9, 1)), "unknown kind 9"),
        (_header(0, 1, _LIST + struct.pack("<IQ", 8, 1 << 62)), "lists are too long"),
        (_header(0, 1, _LIST + struct.pack("<IQ", 8, 4_000_000) + bytes(800)), "incomplete"),
        (_header(0, 1, _LIST + struct.pack("<IQ", 4, 1 << 60)), "incomplete"),
        (_header(0, 1, _LIST + struct.pack("<IQQ", 8, 1, 1 << 63)), "incomplete"),
        (_header(1, 0, struct.pack("<Q", 1) + b"t" + struct.pack("<I", 4_000_000_000)), "dimensions"),
        (gguf_bytes({"general.alignment": 0}), "alignment"),
        (gguf_bytes(HEADER, TENSORS)[:-60], "before its last tensor"),
    ],
)
def test_a_broken_or_hostile_file_is_refused_with_a_next_step(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(Invalid, match=said) as refusal:
        read_model(path)
    assert refusal.value.next_step
    assert refusal.value.param == "model"


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 400), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_no_damage_ends_in_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, byte: int
) -> None:
    data = bytearray(gguf_bytes({name: value for name, value in HEADER.items() if "template" not in name}, TENSORS))
    data[min(at, len(data) - 1)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(data[: len(data) - min(cut, len(data))])
    try:
        read_model(path)
    except (Invalid, Unavailable):
        pass


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(Invalid, match="no regular file"):
        read_model(tmp_path / "m.gguf")


def test_a_header_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "m.gguf", HEADER, TENSORS)
    monkeypatch.setattr(gguf, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(Invalid, match="too large"):
        read_model(path)


def test_a_file_that_is_not_there_may_come_later(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        read_model(tmp_path / "absent.gguf")
