from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mooring.engines.gguf import read_model
from mooring.engines.memory import Cells, cache_number_bytes, config_cells, config_context, gguf_cells
from mooring.testing.engines.files import write_gguf

LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}


@pytest.mark.parametrize(
    ("config", "bytes_per_token"),
    [
        (LLAMA, 131_072),  # Llama 3 8B: 128 KiB a token in 16 bits
        ({**LLAMA, "num_key_value_heads": None}, 524_288),  # every head has keys of its own
        ({"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}, 114_688),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, 36_864),  # GPT-2's names
        ({"n_layer": 2, "n_head": 4, "n_embd": 64, "multi_query": True}, 128),
        (
            {"num_hidden_layers": 61, "num_attention_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64},
            70_272,  # DeepSeek V3, MLA
        ),
        ({"num_hidden_layers": 4, "num_attention_heads": True, "hidden_size": "many"}, 0),
        ({}, 0),
    ],
)
def test_what_a_token_takes_follows_the_config(config: dict[str, Any], bytes_per_token: int) -> None:
    assert config_cells(config).size(1, 2, 2) == bytes_per_token


def test_what_a_token_takes_follows_the_gguf_header(tmp_path: Path) -> None:
    def cells(**members: Any) -> Cells:
        values = {f"a.{name.replace('__', '.')}": value for name, value in members.items()}
        return gguf_cells(read_model(write_gguf(tmp_path / "m.gguf", {"general.architecture": "a", **values})))

    base = {"block_count": 4, "embedding_length": 64, "attention__head_count": 8}
    assert cells(**base) == Cells(4 * 8 * 8, 4 * 8 * 8), "without more, every head has keys, as wide as width / heads"
    assert cells(**base, attention__head_count_kv=2) == Cells(64, 64)
    assert cells(**base, attention__head_count_kv=[2, 0, 0, 2]) == Cells(32, 32), "some layers have no attention"
    assert cells(**base, attention__head_count_kv=1, attention__key_length=576, attention__value_length=512) == Cells(
        2304, 2048
    )
    assert cells(block_count=4, embedding_length=64) == Cells(0, 0)


def test_a_quantised_cache_is_smaller_and_an_unknown_one_counts_as_sixteen_bits() -> None:
    assert [cache_number_bytes(name) for name in ("F32", "f16", "Q8_0", "q4_0", "new")] == [4, 2, 1.0625, 0.5625, 2]


def test_the_longest_context_is_found_under_its_names() -> None:
    assert config_context({"max_position_embeddings": 40960}) == 40960
    assert config_context({"n_positions": 1024}) == 1024
    assert config_context({}) == 0
