"""The documented long flags of llama-server that we take, and what each sets in the embedded engine.

An allow-list: no flag names a file, a host, a port or a key, so nobody can read files of the machine or open a second
door through a service's `args`. Standard library only: the engine process imports this too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mooring.engines.flags import FlagError, UnknownFlag, next_value

MAX_ARGS = 64
MAX_ARG_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A value of one of the engine's enumerations, by name."""

    enumeration: str
    name: str


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: the attribute it sets (dotted) and either a reader of its value or the constant it stands for."""

    attribute: str
    read: Callable[[str], Any] | None = None
    constant: Any = None


def _integer(low: int, high: int = 1 << 31) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high} is needed")
        return value

    return read


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g} is needed")
        return value

    return read


def _choice(enumeration: str, prefix: str, words: str) -> Callable[[str], Member]:
    known = words.split()

    def read(text: str) -> Member:
        if text not in known:
            raise ValueError(f"one of {', '.join(known)} is needed")
        return Member(enumeration, prefix + text.upper().replace("-", "_"))

    return read


def _flash_attention(text: str) -> Member:
    names = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
    if text not in names:
        raise ValueError("one of on, off, auto is needed")
    return Member("llama_flash_attn_type", f"LLAMA_FLASH_ATTN_TYPE_{names[text]}")


def _reasoning(text: str) -> int:
    values = {"on": 1, "off": 0, "auto": -1}
    if text not in values:
        raise ValueError("one of on, off, auto is needed")
    return values[text]


def _template_name(text: str) -> str:
    if text != "chatml":  # the engine takes any other word for the text of a template
        raise ValueError("the name chatml is needed; else the model's own template is used")
    return text


def _template_arguments(text: str) -> dict[str, str]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("a JSON object is needed")
    return {str(name): json.dumps(entry) for name, entry in value.items()}


_CACHE_TYPE = _choice("ggml_type", "GGML_TYPE_", "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1")
_SWITCHES: dict[str, Flag] = {
    "--mlock": Flag("load_mode", constant=Member("llama_load_mode", "LLAMA_LOAD_MODE_MMAP_MLOCK")),
    "--no-mmap": Flag("load_mode", constant=Member("llama_load_mode", "LLAMA_LOAD_MODE_NONE")),
    "--embeddings": Flag("embedding", constant=True),
    "--jinja": Flag("use_jinja", constant=True),
    "--no-jinja": Flag("use_jinja", constant=False),
    "--cache-prompt": Flag("cache_prompt", constant=True),
    "--no-cache-prompt": Flag("cache_prompt", constant=False),
    "--context-shift": Flag("ctx_shift", constant=True),
    "--no-context-shift": Flag("ctx_shift", constant=False),
    "--kv-unified": Flag("kv_unified", constant=True),
    "--no-kv-unified": Flag("kv_unified", constant=False),
    "--no-kv-offload": Flag("no_kv_offload", constant=True),
    "--swa-full": Flag("swa_full", constant=True),
    "--check-tensors": Flag("check_tensors", constant=True),
    "--warmup": Flag("warmup", constant=True),
    "--no-warmup": Flag("warmup", constant=False),
}
_VALUED: dict[str, Flag] = {
    "--ctx-size": Flag("n_ctx", _integer(0)),  # of all slots together; 0 = what the model was trained for
    "--parallel": Flag("n_parallel", _integer(1, 256)),
    "--threads": Flag("cpuparams.n_threads", _integer(1, 1024)),
    "--threads-batch": Flag("cpuparams_batch.n_threads", _integer(1, 1024)),
    "--threads-http": Flag("n_threads_http", _integer(1, 1024)),
    "--poll": Flag("cpuparams.poll", _integer(0, 100)),
    "--batch-size": Flag("n_batch", _integer(1)),
    "--ubatch-size": Flag("n_ubatch", _integer(1)),
    "--n-predict": Flag("n_predict", _integer(-1)),
    "--keep": Flag("n_keep", _integer(-1)),
    "--flash-attn": Flag("flash_attn_type", _flash_attention),
    "--n-gpu-layers": Flag("n_gpu_layers", _integer(-1)),
    "--split-mode": Flag("split_mode", _choice("llama_split_mode", "LLAMA_SPLIT_MODE_", "none layer row")),
    "--main-gpu": Flag("main_gpu", _integer(0, 255)),
    "--numa": Flag("numa", _choice("ggml_numa_strategy", "GGML_NUMA_STRATEGY_", "distribute isolate numactl")),
    "--cache-type-k": Flag("cache_type_k", _CACHE_TYPE),
    "--cache-type-v": Flag("cache_type_v", _CACHE_TYPE),
    "--cache-reuse": Flag("n_cache_reuse", _integer(0)),
    "--cache-ram": Flag("cache_ram_mib", _integer(0, 1 << 20)),
    "--slot-prompt-similarity": Flag("slot_prompt_similarity", _number(0, 1)),
    "--sleep-idle-seconds": Flag("sleep_idle_seconds", _integer(-1)),
    "--rope-scaling": Flag(
        "rope_scaling_type", _choice("llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_", "none linear yarn")
    ),
    "--rope-freq-base": Flag("rope_freq_base", _number(0, 1e9)),
    "--rope-freq-scale": Flag("rope_freq_scale", _number(0, 1e3)),
    "--yarn-orig-ctx": Flag("yarn_orig_ctx", _integer(0)),
    "--yarn-ext-factor": Flag("yarn_ext_factor", _number(-1, 1e3)),
    "--yarn-attn-factor": Flag("yarn_attn_factor", _number(-1, 1e3)),
    "--yarn-beta-fast": Flag("yarn_beta_fast", _number(-1, 1e3)),
    "--yarn-beta-slow": Flag("yarn_beta_slow", _number(-1, 1e3)),
    "--pooling": Flag("pooling_type", _choice("llama_pooling_type", "LLAMA_POOLING_TYPE_", "none mean cls last rank")),
    "--chat-template": Flag("chat_template", _template_name),
    "--chat-template-kwargs": Flag("default_template_kwargs", _template_arguments),
    "--reasoning": Flag("enable_reasoning", _reasoning),
    "--reasoning-format": Flag(
        "reasoning_format",
        _choice("common_reasoning_format", "COMMON_REASONING_FORMAT_", "none auto deepseek deepseek-legacy"),
    ),
    "--reasoning-budget": Flag("sampling.reasoning_budget_tokens", _integer(-1)),
    "--seed": Flag("sampling.seed", _integer(0, 0xFFFFFFFF)),
    "--temp": Flag("sampling.temp", _number(0, 100)),
    "--top-k": Flag("sampling.top_k", _integer(-1)),
    "--top-p": Flag("sampling.top_p", _number(0, 1)),
    "--min-p": Flag("sampling.min_p", _number(0, 1)),
    "--repeat-penalty": Flag("sampling.penalty_repeat", _number(0, 100)),
}
FLAGS: dict[str, Flag] = _SWITCHES | _VALUED
ALIASES: dict[str, str] = {
    "-c": "--ctx-size",
    "-np": "--parallel",
    "-t": "--threads",
    "-tb": "--threads-batch",
    "-b": "--batch-size",
    "-ub": "--ubatch-size",
    "-n": "--n-predict",
    "--predict": "--n-predict",
    "-fa": "--flash-attn",
    "-ngl": "--n-gpu-layers",
    "--gpu-layers": "--n-gpu-layers",
    "-sm": "--split-mode",
    "-mg": "--main-gpu",
    "-ctk": "--cache-type-k",
    "-ctv": "--cache-type-v",
    "-cram": "--cache-ram",
    "-sps": "--slot-prompt-similarity",
    "-kvu": "--kv-unified",
    "-nkvo": "--no-kv-offload",
    "-s": "--seed",
    "--temperature": "--temp",
    "--embedding": "--embeddings",
    "-rea": "--reasoning",
}


def read_flags(args: Sequence[str]) -> dict[str, Any]:
    """Return `{attribute: value}` for `--flag value` and `--flag=value`; the last of two equal flags wins.

    Raises:
        UnknownFlag: it is none of `FLAGS`.
        FlagError: a missing value or one out of range.
    """
    if len(args) > MAX_ARGS or any(len(arg) > MAX_ARG_CHARACTERS for arg in args):
        raise FlagError(f"at most {MAX_ARGS} arguments of at most {MAX_ARG_CHARACTERS} characters are taken")
    values: dict[str, Any] = {}
    rest = list(args)
    while rest:
        word, equals, inline = rest.pop(0).partition("=")
        name = ALIASES.get(word, word)
        flag = FLAGS.get(name)
        if flag is None:
            raise UnknownFlag(word, FLAGS)
        if flag.read is None:
            if equals:
                raise FlagError(f"{name} takes no value")
            values[flag.attribute] = flag.constant
        else:
            values[flag.attribute] = _value(name, flag.read, inline if equals else next_value(name, rest))
    return values


def _value(name: str, read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError as error:
        known = "needed" in str(error)
        raise FlagError(f"{name}={text}: {error if known else 'the value can not be read'}") from None
