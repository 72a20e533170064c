"""Names of weight files."""

from __future__ import annotations

import pytest

from mooring.sources.weights import WeightFile, model_of, quantisation, weight_files


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("Llama-3-8B-Instruct.Q4_K_M.gguf", "q4_k_m"),
        ("qwen2.5-7b-instruct-q8_0-00001-of-00003.gguf", "q8_0"),
        ("Q5_K_S/model-00001-of-00002.gguf", "q5_k_s"),
        ("m-UD-Q4_K_XL.gguf", "q4_k_xl"),
        ("m.i1-IQ3_XXS.gguf", "iq3_xxs"),
        ("m-fp16.gguf", "f16"),
        ("m-BF16.gguf", "bf16"),
        ("gpt-oss-20b-mxfp4.gguf", "mxfp4"),
        ("m-Q6_K.gguf", "q6_k"),
        ("model.gguf", ""),
        ("q8_0sharp.gguf", ""),
    ],
)
def test_a_name_tells_its_quantisation(path: str, told: str) -> None:
    assert quantisation(path) == told


def test_sizes_of_one_model_share_a_name() -> None:
    assert model_of("x/M-7B.Q4_K_M.gguf") == model_of("M-7B-q8_0-00001-of-00002.gguf") == model_of("M-7B.gguf")
    assert model_of("M-7B.Q4_K_M.gguf") != model_of("M-13B.Q4_K_M.gguf")


def test_parts_are_put_in_order_and_counted() -> None:
    names = ["b-00002-of-00002.gguf", "a.gguf", "b-00001-of-00002.gguf", "c-00002-of-00003.safetensors"]
    assert weight_files(names) == [
        WeightFile("a.gguf", ("a.gguf",)),
        WeightFile("b-of-00002.gguf", ("b-00001-of-00002.gguf", "b-00002-of-00002.gguf")),
        WeightFile("c-of-00003.safetensors", ("c-00002-of-00003.safetensors",), 2),
    ]
