"""Write the trained model as one GGUF file, with q8_0 weights.

    python export.py build/hf mooring-demo.gguf

Needs only gguf, numpy and safetensors.  The file is written aside and then moved into place, because a
running engine may have the old file mapped.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from chat import CHAT_TEMPLATE, END_OF_TEXT, MODEL_NAME, TURN_END
from safetensors.numpy import load_file

DESCRIPTION = "The tiny bilingual (English, Chinese) demo model of Mooring. For trying the platform, not for real use."
TIED_OUTPUT = "lm_head.weight"  # the same numbers as the embedding


def add_description(writer: gguf.GGUFWriter) -> None:
    """Say what the model is."""
    writer.add_name(MODEL_NAME)
    writer.add_author("The Mooring authors")
    writer.add_organization("Mooring")
    writer.add_description(DESCRIPTION)
    writer.add_license("apache-2.0")
    writer.add_size_label("3.5M")
    writer.add_languages(["en", "zh"])
    writer.add_tags(["demo", "text-generation"])


def add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Copy the architecture's numbers."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], size: int) -> None:
    """Copy the vocabulary, the merges and the chat template."""
    vocabulary: dict[str, int] = dict(tokenizer["model"]["vocab"])
    kinds: dict[int, gguf.TokenType] = {}
    for token in tokenizer["added_tokens"]:
        vocabulary[token["content"]] = token["id"]
        kinds[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if len(tokens) != size:
        raise ValueError(f"the tokenizer has {len(tokens)} tokens, the model {size}")
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(index, gguf.TokenType.NORMAL) for index in range(len(tokens))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(vocabulary[TURN_END])
    writer.add_pad_token_id(vocabulary[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_weights(writer: gguf.GGUFWriter, weights: dict[str, np.ndarray], blocks: int) -> None:
    """Norms stay float32, matrices become q8_0."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, blocks)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for key in sorted(weights):
        if key == TIED_OUTPUT:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"no GGUF name for {key}")
        values = weights[key].astype(np.float32)
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, q8_0), raw_dtype=q8_0)


def export(source: Path, target: Path) -> None:
    """Convert the Hugging Face directory `source` into the file `target`."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    writer = gguf.GGUFWriter(temporary, "qwen3")
    add_description(writer)
    add_shape(writer, config)
    add_tokenizer(writer, tokenizer, config["vocab_size"])
    add_weights(writer, load_file(source / "model.safetensors"), config["num_hidden_layers"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(target)


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description="Write the trained model as a GGUF file.")
    parser.add_argument("source", type=Path, help="directory with config.json, tokenizer.json, model.safetensors")
    parser.add_argument("target", type=Path, help="the GGUF file to write")
    options = parser.parse_args()
    export(options.source, options.target)
    print(f"{options.target}: {options.target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
