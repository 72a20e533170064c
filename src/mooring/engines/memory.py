"""What a replica will take in memory, estimated from the model's header before anything is started.

    KV cache = layers × KV heads × (key size + value size) × bytes per number × tokens

as llama.cpp (src/llama-kv-cache.cpp: `n_embd_k_gqa` and `n_embd_v_gqa` numbers per layer and cell) and vLLM
(vllm/v1/kv_cache_interface.py: `FullAttentionSpec.page_size_bytes`) allocate it. Grouped heads (GQA) and sizes of heads
that differ from width / heads are followed, and in config.json the compressed cache of DeepSeek (MLA). Layers with a
sliding window or a recurrent state count like full ones, so such models take less than is said here; the recurrent
state itself (some MiB for a request) is not counted. The rest are constants, with the measurements they come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mooring.core.replicas import MemoryNeed
from mooring.engines.gguf import GgufModel

MIB, GIB = 1 << 20, 1 << 30

# llama.cpp. Measured with the demo model (x86-64, one thread, resident memory when ready): 64 MiB with 8,192 tokens in
# 4 slots, 114 MiB with 32,768, 310 MiB with 131,072 and 190 MiB with these in q8_0; the estimates below are, without
# the saved prompts and the buffers that only long prompts fill, 84, 132, 324 and 204 MiB. Without weights and cache
# 44 MiB remain: interpreter, library and the stacks of connections' threads (1,024 then). The cache grows as the
# formula says and 3 % beyond.
LLAMACPP_ITSELF_BYTES = 64 * MIB
LLAMACPP_CELLS = 256  # a slot's context is rounded up to a multiple of this

# vLLM on a CPU, measured with 0.32 and the demo model: see docs/reference/engines.md.
VLLM_PROCESS_BYTES = 640 * MIB  # API server, engine core, and one worker for each part of the model
# On a GPU: CUDA's context, activations of a profiling run, captured graphs. vLLM's documentation gives no formula; it
# measures at its start. Not measured by us: no GPU was at hand.
VLLM_GPU_ITSELF_BYTES = 2 * GIB

_CACHE_BYTES = {  # of one number; the quantised ones are blocks of 32 with a scale
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}


@dataclass(frozen=True, slots=True)
class Cells:
    """How many numbers the KV cache keeps for one token, in all layers together."""

    keys: int
    values: int

    def size(self, tokens: int, key_bytes: float, value_bytes: float) -> int:
        """Bytes for so many tokens."""
        return math.ceil(tokens * (self.keys * key_bytes + self.values * value_bytes))


def cache_number_bytes(name: str) -> float:
    """Bytes of one number in llama.cpp's cache of type `name` (`q8_0`); an unknown type counts as 16 bits."""
    return _CACHE_BYTES.get(name.lower(), 2.0)


def gguf_cells(model: GgufModel) -> Cells:
    """Read from a GGUF header what a token takes."""
    layers = model.number("block_count")
    heads = model.number("attention.head_count")
    if heads == 0:  # no attention, no cache
        return Cells(0, 0)
    usual = model.number("embedding_length") // heads
    kv_heads = sum(model.per_layer("attention.head_count_kv", layers, heads))
    return Cells(
        kv_heads * model.number("attention.key_length", usual), kv_heads * model.number("attention.value_length", usual)
    )


def config_cells(config: dict[str, Any]) -> Cells:
    """Read from a config.json what a token takes."""
    layers = _whole(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = _whole(config, "num_attention_heads", "n_head", "n_heads")
    if heads == 0:
        return Cells(0, 0)
    latent = _whole(config, "kv_lora_rank")
    if latent:  # MLA keeps one compressed vector for keys and values, and the rotated part of the keys
        return Cells(layers * (latent + _whole(config, "qk_rope_head_dim")), 0)
    kv_heads = _whole(config, "num_key_value_heads", "num_kv_heads", "n_head_kv") or heads
    if config.get("multi_query") is True:
        kv_heads = 1
    size = _whole(config, "head_dim") or _whole(config, "hidden_size", "n_embd", "d_model") // heads
    return Cells(layers * kv_heads * size, layers * kv_heads * size)


def config_context(config: dict[str, Any]) -> int:
    """Return the longest context a config.json names, 0 if it names none."""
    return _whole(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")


def _whole(config: dict[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return 0


@dataclass(frozen=True, slots=True)
class LlamacppSizes:
    """What of llama.cpp's flags decides about memory."""

    context: int  # tokens of all slots together; 0 = what the model was trained for
    slots: int
    batch: int  # tokens computed at once (--ubatch-size)
    key_bytes: float
    value_bytes: float
    flash_attention: bool
    saved_bytes: int  # of prompts kept aside (--cache-ram)


def llamacpp_need(model: GgufModel, sizes: LlamacppSizes, adapters_bytes: int) -> MemoryNeed:
    """Estimate a replica on llama.cpp. The weights count once: mapped or read, they must be resident to be quick."""
    context = sizes.context or model.number("context_length")
    cells = -(-context // sizes.slots // LLAMACPP_CELLS) * LLAMACPP_CELLS
    parts = [("weights", model.data_bytes)]
    if adapters_bytes:
        parts.append(("adapters", adapters_bytes))
    cache = gguf_cells(model).size(cells * sizes.slots, sizes.key_bytes, sizes.value_bytes)
    parts += [("KV cache", cache), ("compute buffers", _compute_bytes(model, sizes, cells))]
    if sizes.saved_bytes:
        parts.append(("saved prompts", sizes.saved_bytes))
    return MemoryNeed((*parts, ("the engine itself", LLAMACPP_ITSELF_BYTES)))


def _compute_bytes(model: GgufModel, sizes: LlamacppSizes, cells: int) -> int:
    """Bound the graph's intermediate results for one batch.

    Logits for each token (32 bits), some vectors as wide as the model and its feed-forward part, and the attention
    mask (16 bits, counted twice); without flash attention the scores of all heads besides. llama.cpp reports 8.3, 38.3
    and 153 MiB for the demo model with 512 × 2,048, 512 × 32,768 and 2,048 × 32,768 tokens.
    """
    width, inner = model.number("embedding_length"), model.number("feed_forward_length")
    vocabulary = (*model.shape("token_embd.weight"), 0, 0)[1]
    per_token = 4 * (vocabulary + 4 * width + 2 * inner) + 4 * cells
    if not sizes.flash_attention:
        per_token += 4 * cells * model.number("attention.head_count")
    return min(sizes.batch, cells) * per_token


@dataclass(frozen=True, slots=True)
class VllmSizes:
    """What of vLLM's flags decides about memory."""

    context: int  # tokens of the longest request
    parts: int  # tensor × pipeline parallel size: the model is split among so many workers
    cache_number_bytes: float
    weights_factor: float  # 2 if 16-bit weights are served in 32 bits


def vllm_cpu_need(weights_bytes: int, sizes: VllmSizes, cache_bytes: int, adapters_bytes: int) -> MemoryNeed:
    """Estimate a replica of vLLM on CPUs; `cache_bytes` is what VLLM_CPU_KVCACHE_SPACE sets aside in each worker."""
    return _need(
        [
            ("weights", math.ceil(weights_bytes * sizes.weights_factor)),
            ("adapters", adapters_bytes),
            ("KV cache", cache_bytes * sizes.parts),
            ("the engine itself", VLLM_PROCESS_BYTES * (2 + sizes.parts)),
        ]
    )


def vllm_gpu_need(cells: Cells, weights_bytes: int, sizes: VllmSizes, adapters_bytes: int) -> MemoryNeed:
    """Estimate the least that each GPU must have: its part of the weights, and the cache of one full-length request.

    vLLM then takes `--gpu-memory-utilization` of the whole GPU and uses what is left as cache.
    """
    cache = cells.size(sizes.context, sizes.cache_number_bytes, sizes.cache_number_bytes)
    parts = _need(
        [
            ("weights", math.ceil(weights_bytes * sizes.weights_factor / sizes.parts)),
            ("adapters", adapters_bytes),
            ("KV cache of one request", math.ceil(cache / sizes.parts)),
            ("the engine itself", VLLM_GPU_ITSELF_BYTES),
        ]
    ).parts
    return MemoryNeed(parts, "GPU memory")


def _need(parts: list[tuple[str, int]]) -> MemoryNeed:
    return MemoryNeed(tuple((what, size) for what, size in parts if size))
