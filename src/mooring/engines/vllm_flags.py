"""The documented long flags of `vllm serve` that we take, and what their values may be.

An allow-list: none names a host, a port, a socket, a key, a certificate, a file or a module of Python, and none writes
prompts or answers into the log, so a service's `args` open no second door and load nobody's code. The few that run code
from the model's repository, or name code, are for administrators. What is read is written again as `--flag=value`:
vLLM would also take a shortened flag, and then what we judged would not be what it reads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mooring.engines.flags import FlagError, UnknownFlag, next_value

MAX_ARGS = 128
MAX_ARG_CHARACTERS = 4096

Reader = Callable[[str], str]


class NeedsAdministrator(FlagError):
    """A flag runs code and the caller is no administrator."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: the reader of its value (None: a switch, which may have a `--no-` form) and who may use it."""

    read: Reader | None = None
    negatable: bool = True
    runs_code: bool = False


def _integer(low: int, high: int = 1 << 31) -> Reader:
    def read(text: str) -> str:
        if not re.fullmatch(r"-?[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high} is needed")
        return str(int(text))

    return read


def _number(low: float, high: float) -> Reader:
    def read(text: str) -> str:
        value = float(text)
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g} is needed")
        return text

    return read


_SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def tokens(text: str) -> int:
    """Read a count as vLLM writes it: 4096, 32k (thousands), 32K (of 1,024), 25.6k; -1 and auto are -1.

    Raises:
        ValueError: it is none.
    """
    if text in ("auto", "-1"):
        return -1
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([kKmMgG]?)", text)
    if match is None:
        raise ValueError("a number such as 32768, 32k or auto is needed")
    return int(float(match[1]) * _SCALES[match[2]])


def _count(text: str) -> str:
    if tokens(text) == 0:
        raise ValueError("a number above 0 is needed")
    return text


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError("a single word is needed")
    return text


def _choice(words: str) -> Reader:
    known = words.split()

    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"one of {', '.join(known)} is needed")
        return text

    return read


def _object(*allowed: str) -> Reader:
    """A JSON object; with `allowed` its members may only be these, and their values plain."""

    def read(text: str) -> str:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ValueError("a JSON object is needed")
        if allowed and (extra := sorted(set(value) - set(allowed))):
            raise ValueError(f"only {', '.join(allowed)} are needed, not {', '.join(extra)}")
        if allowed and any(isinstance(inner, dict | list) for inner in value.values()):
            raise ValueError("plain values are needed in the JSON object")
        return json.dumps(value, separators=(",", ":"))

    return read


# A speculative "model" would be a path or a repository; these methods need none.
def _speculation(text: str) -> str:
    members = (
        "method",
        "num_speculative_tokens",
        "prompt_lookup_max",
        "prompt_lookup_min",
        "disable_padded_drafter_batch",
    )
    read = _object(*members)(text)
    method = json.loads(read).get("method")
    if method not in (
        "ngram",
        "ngram_gpu",
        "suffix",
        "mtp",
        "deepseek_mtp",
        "glm4_moe_mtp",
        "qwen3_next_mtp",
        "ernie_mtp",
    ):
        raise ValueError("a method that takes no second model is needed (ngram, suffix, mtp)")
    return read


_SWITCHES = (
    "enforce-eager",
    "enable-prefix-caching",
    "enable-chunked-prefill",
    "enable-auto-tool-choice",
    "async-scheduling",
    "exclude-tools-when-tool-choice-none",
    "enable-prompt-tokens-details",
    "enable-force-include-usage",
    "enable-server-load-tracking",
    "log-error-stack",
    "return-tokens-as-token-ids",
    "disable-sliding-window",
    "disable-cascade-attn",
    "enable-expert-parallel",
    "enable-eplb",
    "enable-dbo",
    "disable-custom-all-reduce",
    "enable-batch-sharded-sampling",
    "disable-hybrid-kv-cache-manager",
    "kv-sharing-fast-prefill",
    "disable-chunked-mm-input",
    "enable-sleep-mode",
    "language-model-only",
    "interleave-mm-strings",
    "skip-mm-profiling",
    "mm-encoder-only",
    "enable-mm-embeds",
    "fully-sharded-loras",
    "enable-tower-connector-lora",
    "use-tqdm-on-load",
    "kv-cache-metrics",
    "cudagraph-metrics",
    "enable-mfu-metrics",
    "enable-flashinfer-autotune",
    "numa-bind",
    "enable-per-request-metrics",
    "scheduler-reserve-full-isl",
    "long-prefill-token-threshold-adaptive",
    "disable-uvicorn-access-log",
)
_COUNTS = ("max-model-len", "max-num-batched-tokens", "max-num-scheduled-tokens", "kv-cache-memory-bytes")
_VALUED: dict[str, Reader] = {
    # what is served, and in which numbers
    "dtype": _choice("auto bfloat16 float float16 float32 half"),
    "quantization": _word,
    "kv-cache-dtype": _word,
    "load-format": _choice("auto safetensors dummy fastsafetensors runai_streamer bitsandbytes"),
    "safetensors-load-strategy": _choice("eager lazy prefetch"),
    "tokenizer-mode": _choice("auto hf slow mistral deepseek_v32 deepseek_v4"),
    "config-format": _choice("auto hf mistral"),
    "model-impl": _choice("auto vllm transformers"),
    "runner": _choice("auto generate pooling"),
    "convert": _choice("auto none embed classify"),
    "pooler-config": _object(
        "pooling_type",
        "seq_pooling_type",
        "tok_pooling_type",
        "use_activation",
        "normalize",
        "dimensions",
        "softmax",
        "activation",
        "enable_chunked_processing",
        "max_embed_len",
    ),
    "generation-config": _choice("auto vllm"),
    "override-generation-config": _object(),
    "seed": _integer(0),
    "max-logprobs": _integer(-1, 1 << 20),
    "logprobs-mode": _choice("processed_logits processed_logprobs raw_logits raw_logprobs"),
    # answers
    "reasoning-parser": _word,
    "tool-call-parser": _word,
    "tool-strict-level": _choice("auto function parameter"),
    "chat-template-content-format": _choice("auto string openai"),
    "default-chat-template-kwargs": _object(),
    "response-role": _word,
    "structured-outputs-config": _object(
        "backend", "disable_any_whitespace", "disable_additional_properties", "enable_in_reasoning"
    ),
    "stream-interval": _integer(1, 1000),
    "sse-keep-alive-interval": _integer(0, 3600),
    # memory
    "gpu-memory-utilization": _number(0.01, 1),
    "block-size": _integer(1, 4096),
    "num-gpu-blocks-override": _integer(1),
    "cpu-offload-gb": _number(0, 1e5),
    "kv-offloading-size": _number(0, 1e5),
    "kv-offloading-backend": _choice("native"),
    "mamba-cache-dtype": _choice("auto bfloat16 float16 float32"),
    "mamba-ssm-cache-dtype": _choice("auto bfloat16 float16 float32"),
    "mamba-block-size": _integer(1),
    "prefix-caching-hash-algo": _choice("sha256 sha256_cbor xxhash xxhash_cbor"),
    # scheduling
    "max-num-seqs": _integer(1, 1 << 16),
    "max-num-active-seqs": _integer(1, 1 << 16),
    "long-prefill-token-threshold": _integer(0),
    "scheduling-policy": _choice("fcfs priority"),
    "prefill-schedule-interval": _integer(1, 1000),
    # several GPUs
    "tensor-parallel-size": _integer(1, 1024),
    "pipeline-parallel-size": _integer(1, 1024),
    "data-parallel-size": _integer(1, 1024),
    "decode-context-parallel-size": _integer(1, 1024),
    "prefill-context-parallel-size": _integer(1, 1024),
    "distributed-executor-backend": _choice("mp uni"),
    "max-parallel-loading-workers": _integer(1, 1024),
    "all2all-backend": _word,
    "expert-placement-strategy": _choice("linear round_robin"),
    # kernels
    "attention-backend": _word,
    "moe-backend": _word,
    "linear-backend": _word,
    "performance-mode": _choice("balanced interactivity throughput"),
    "optimization-level": _choice("0 1 2 3"),
    "max-cudagraph-capture-size": _integer(0, 1 << 16),
    "speculative-config": _speculation,
    # pictures, sound
    "limit-mm-per-prompt": _object(),
    "mm-processor-kwargs": _object(),
    "mm-processor-cache-gb": _number(0, 1e4),
    "mm-processor-cache-type": _choice("lru shm"),
    "mm-encoder-tp-mode": _choice("weights data"),
    "mm-encoder-attn-backend": _word,
    "video-pruning-rate": _number(0, 1),
    # LoRA: the adapters themselves are given by the service
    "max-loras": _integer(1, 256),
    "max-lora-rank": _choice("1 8 16 32 64 128 256 320 512"),
    "max-cpu-loras": _integer(1, 4096),
    "lora-dtype": _choice("auto bfloat16 float16"),
    # what is told
    "uvicorn-log-level": _choice("critical error warning info debug"),
    "shutdown-timeout": _integer(0, 3600),
    "renderer-num-workers": _integer(1, 64),
}
_STORE_TRUE = ("disable-log-stats", "aggregate-engine-logging")
FLAGS: dict[str, Flag] = {
    **{f"--{name}": Flag() for name in _SWITCHES},
    **{f"--{name}": Flag(negatable=False) for name in _STORE_TRUE},
    **{f"--{name}": Flag(_count) for name in _COUNTS},
    **{f"--{name}": Flag(read) for name, read in _VALUED.items()},
    # A model's own Python files; a class, a module or a type of layer named in JSON.
    "--trust-remote-code": Flag(runs_code=True),
    "--hf-overrides": Flag(_object(), runs_code=True),
    "--compilation-config": Flag(_object(), runs_code=True),
}
ALIASES = {
    "-q": "--quantization",
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
    "-ep": "--enable-expert-parallel",
    "-sc": "--speculative-config",
    "-cc": "--compilation-config",
    "--device-memory-utilization": "--gpu-memory-utilization",
}


def read_flags(args: Sequence[str], *, administrator: bool = True) -> dict[str, str | bool]:
    """Return `{"--flag": value}` for `--flag value` and `--flag=value`, True or False for switches; the last one wins.

    Raises:
        UnknownFlag: it is none of `FLAGS`.
        FlagError: a missing value or one that can't be used.
        NeedsAdministrator: it runs code.
    """
    if len(args) > MAX_ARGS or any(len(arg) > MAX_ARG_CHARACTERS for arg in args):
        raise FlagError(f"at most {MAX_ARGS} arguments of at most {MAX_ARG_CHARACTERS} characters are taken")
    values: dict[str, str | bool] = {}
    rest = list(args)
    while rest:
        word, equals, inline = rest.pop(0).partition("=")
        name, on = _find(word)
        flag = FLAGS[name]
        if flag.runs_code and not administrator:
            raise NeedsAdministrator(f"{name} runs code, which only an administrator may allow")
        if flag.read is None:
            if equals:
                raise FlagError(f"{name} takes no value")
            values[name] = on
        else:
            values[name] = _value(name, flag.read, inline if equals else next_value(name, rest))
    return values


def write_flags(values: dict[str, str | bool]) -> list[str]:
    """Return the arguments that say the same to vLLM."""
    written: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            written.append(name if value else "--no-" + name.removeprefix("--"))
        else:
            written.append(f"{name}={value}")
    return written


def _find(word: str) -> tuple[str, bool]:
    """Return the flag's full name and, for a switch, whether it is on."""
    name = ALIASES.get(word, word)
    if name.startswith("--"):
        name = "--" + name[2:].replace("_", "-")
    if name in FLAGS:
        return name, True
    positive = "--" + name.removeprefix("--no-")
    if name.startswith("--no-") and positive in FLAGS and FLAGS[positive].read is None and FLAGS[positive].negatable:
        return positive, False
    raise UnknownFlag(word, FLAGS)


def _value(name: str, read: Reader, text: str) -> str:
    try:
        if not text.isprintable():
            raise ValueError("printable characters are needed")
        return read(text)
    except ValueError as error:
        known = "needed" in str(error)
        raise FlagError(f"{name}={text}: {error if known else 'the value can not be read'}") from None
