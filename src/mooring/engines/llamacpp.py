"""llama.cpp, embedded: the recipe for one engine process, how it is asked, and what it says when it fails.

The process itself is `llamacpp_server`; nothing here imports the engine, so that control stays small.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mooring.core.errors import Invalid
from mooring.core.replicas import AdapterFiles, LaunchPlan, LaunchRequest, MemoryNeed, Probe, ReplicaPlace
from mooring.engines.ask import NoAnswer, Target, get_json
from mooring.engines.flags import FlagError, next_step
from mooring.engines.gguf import read_model
from mooring.engines.llamacpp_flags import Member, read_flags
from mooring.engines.llamacpp_server import KEY_VARIABLE
from mooring.engines.memory import LlamacppSizes, cache_number_bytes, llamacpp_need

CAPABILITIES: frozenset[str] = frozenset({"chat", "completion", "embedding", "rerank"})

DEFAULT_SLOTS = 4
DEFAULT_CONTEXT = 8192  # tokens of all slots together: llama.cpp divides it by the slots
DEFAULT_CACHE_MIB = 256  # saved prompts of idle slots; the engine's own default is 8 GiB
# A connection holds a thread for its whole stream, and a probe that finds none takes a working engine for dead: the
# engine adds threads, but too late for a burst. The gateway hands over two requests for each slot
# (`gateway/waiting.py`), twice that while its workers are replaced. The others are for probes and for callers who left,
# which the engine notices only within a second: with 64 threads a probe waited that second, with 256 it did not.
HTTP_THREADS_PER_SLOT, MORE_HTTP_THREADS = 4, 32
LEAST_HTTP_THREADS, MOST_HTTP_THREADS = 256, 1024
_PACKAGE = Path(__file__).resolve().parents[1]
_BUILTIN_MODELS = _PACKAGE / "assets"
_EMBEDS = ("--embeddings", "--ubatch-size=2048")  # a text to embed must fit one batch
ENGINE_BATCH, ENGINE_BATCH_MOST = 512, 2048  # the engine's own --ubatch-size and --batch-size
_RANK = Member("llama_pooling_type", "LLAMA_POOLING_TYPE_RANK")
_NO_FLASH_ATTENTION = Member("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_DISABLED")
_ENVIRONMENT = re.compile(r"OMP_(NUM_THREADS|WAIT_POLICY|PROC_BIND|PLACES|DYNAMIC)|GOMP_SPINCOUNT|GGML_[A-Z0-9_]+")
# GGML_BACKEND_PATH and its like load a library of the caller's choice.
_LOADS_CODE = re.compile(r"PATH|BACKEND|FILE|DIR|LIB")
_MAX_VALUE_CHARACTERS = 256


def check_args(args: Sequence[str], env: Mapping[str, str], *, administrator: bool = True) -> None:
    """Refuse arguments and environment that a service may not give to this engine. None of its flags runs code.

    Raises:
        Invalid: names the fault; the next step lists what is allowed.
    """
    values = _read(args)
    slots, context = values.get("n_parallel", DEFAULT_SLOTS), values.get("n_ctx", DEFAULT_CONTEXT)
    if 0 < context < slots:
        raise Invalid(
            f"args: --ctx-size={context} is shared by {slots} slots, which leaves nothing for each.",
            next_step="Raise --ctx-size or lower --parallel.",
            param="args",
        )
    for name, value in env.items():
        _check_variable(name, value)


def _read(args: Sequence[str]) -> dict[str, Any]:
    try:
        return read_flags(args)
    except FlagError as error:
        raise Invalid(f"args: {error}.", next_step=next_step(error), param="args") from None


def _check_variable(name: str, value: str) -> None:
    if not _ENVIRONMENT.fullmatch(name) or (name.startswith("GGML_") and _LOADS_CODE.search(name)):
        raise Invalid(
            f"env: the variable '{name}' can't be set for this engine.",
            next_step="Allowed: OMP_NUM_THREADS, OMP_WAIT_POLICY, OMP_PROC_BIND, OMP_PLACES, OMP_DYNAMIC, "
            "GOMP_SPINCOUNT and GGML_* (but no paths, files or libraries).",
            param="env",
        )
    if len(value) > _MAX_VALUE_CHARACTERS or not value.isprintable():
        raise Invalid(f"env: the value of '{name}' is too long or not printable.", param="env")


def launch_plan(request: LaunchRequest, place: ReplicaPlace) -> LaunchPlan:
    """Return what to execute for one replica. The request's `env` becomes part of a clean environment.

    `--ctx-size` is llama-server's: tokens of all slots together, so that a request gets ctx-size / parallel. Adapters
    are loaded with scale 0; a request has number i of `request.adapters` by `"lora": [{"id": i, "scale": 1}]`.

    Raises:
        Invalid: as `capabilities`; the model is not in GGUF format, or an adapter is none of this model.
        Unavailable: a file that must be looked into can't be read.
    """
    capabilities(request)  # refuses what can't be
    _refuse_format(request)
    args = [*_arguments(request), f"--threads={place.threads}", *request.args, *_unshared(request)]
    argv = [sys.executable, "-P", "-m", "mooring.engines.llamacpp_server"]
    argv += ["--model", str(request.model.path.absolute()), "--alias", request.served_model]
    argv += ["--socket", str(place.socket)]
    argv += [f"--lora={path}" for path in _adapters(request)]
    clean = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(place.directory),
        "PYTHONPATH": str(_PACKAGE.parent),  # found also when the package is not installed
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep: spinning ones starve everybody else on few cores
    }
    return LaunchPlan(
        argv=(*argv, *args),
        env={**clean, **request.env, KEY_VARIABLE: place.key},
        address=f"unix:{place.socket}",
        served_model=request.served_model,
        slots=int(read_flags(args)["n_parallel"]),
    )


def _refuse_format(request: LaunchRequest) -> None:
    if request.model.format != "gguf":
        raise Invalid(
            f"llama.cpp runs models in GGUF format, and {request.model.path.name} is in {request.model.format} format.",
            next_step="Use engine 'vllm', name a GGUF of this model, or convert it (llama.cpp: convert_hf_to_gguf.py).",
            param="engine",
        )


def _arguments(request: LaunchRequest) -> list[str]:
    """Return what we ask of the engine before the service's own flags, which win."""
    args = [f"--parallel={DEFAULT_SLOTS}", f"--ctx-size={DEFAULT_CONTEXT}", f"--cache-ram={DEFAULT_CACHE_MIB}"]
    args.append(f"--threads-http={_http_threads(request)}")
    if request.model.path.absolute().parent == _BUILTIN_MODELS:
        return [*args, *_EMBEDS, "--pooling=mean"]
    if "rerank" in request.types:
        return [*args, *_EMBEDS, "--pooling=rank"]
    if "embedding" in request.types:
        own = read_model(request.model.path).number("pooling_type")
        return [*args, *_EMBEDS, *(() if own else ("--pooling=mean",))]
    return args


def _http_threads(request: LaunchRequest) -> int:
    slots = read_flags(request.args).get("n_parallel", DEFAULT_SLOTS)
    return min(MOST_HTTP_THREADS, max(LEAST_HTTP_THREADS, slots * HTTP_THREADS_PER_SLOT + MORE_HTTP_THREADS))


def _unshared(request: LaunchRequest) -> tuple[str, ...]:
    """Return what must hold where there are adapters: no request may go on from a prompt that another one computed.

    llama.cpp takes what one adapter left in a slot, or among the saved prompts, for the beginning of a request with
    another adapter or none, and the answer is then neither's (llama.cpp issue 26207; of 240 requests to the demo model
    with two adapters 85 were wrong, without this reuse none). A request could switch it on again by `cache_prompt`,
    which callers must not be let send. The price: every prompt is computed as a whole.
    """
    return ("--no-cache-prompt", "--cache-ram=0") if request.adapters else ()


def _adapters(request: LaunchRequest) -> list[Path]:
    """Return the adapters' files, once they have proved to be adapters of this model.

    Raises:
        Invalid: one is a folder in PEFT's format, no adapter, or one for another architecture.
        Unavailable: one can't be read.
    """
    if not request.adapters:
        return []
    architecture = read_model(request.model.path).architecture
    for adapter in request.adapters:
        if adapter.path.is_dir():
            raise _adapter_refusal(adapter, "is a folder in PEFT's format, and llama.cpp takes a GGUF file")
        header = read_model(adapter.path)
        if header.text("general.type") != "adapter" or header.text("adapter.type") != "lora":
            raise _adapter_refusal(adapter, "is no LoRA adapter")
        if header.architecture != architecture:
            raise _adapter_refusal(adapter, f"is for {header.architecture} models, and this model is {architecture}")
    return [adapter.path.absolute() for adapter in request.adapters]


def _adapter_refusal(adapter: AdapterFiles, why: str) -> Invalid:
    return Invalid(
        f"The adapter '{adapter.name}' ({adapter.path.name}) {why}.",
        next_step="Convert it with llama.cpp's convert_lora_to_gguf.py --base MODEL ADAPTER, or use engine 'vllm'.",
        param="adapters",
    )


def capabilities(request: LaunchRequest) -> frozenset[str]:
    """Return the kinds of call a replica answers: embeddings and reranking only where switched on or asked for.

    Raises:
        Invalid: as `check_args`, or a kind is asked for that this engine can't answer.
    """
    check_args(request.args, request.env)
    asked = frozenset(request.types)
    if asked - CAPABILITIES or ("rerank" in asked and len(asked) > 1):
        raise Invalid(
            f"llama.cpp can't answer these kinds of call in one replica: {', '.join(sorted(asked))}.",
            next_step="It answers chat, completion and embedding together, or rerank alone; deploy two services.",
            param="types",
        )
    values = read_flags([*_without_looking(request), *request.args])
    if values.get("pooling_type") == _RANK:
        offered = frozenset({"rerank"})
    elif values.get("embedding"):
        offered = CAPABILITIES - {"rerank"}
    else:
        offered = CAPABILITIES - {"rerank", "embedding"}
    return offered & asked if asked else offered


def _without_looking(request: LaunchRequest) -> list[str]:
    """Return the arguments that decide what is answered, without the one that depends on the model's header."""
    if "rerank" in request.types:
        return ["--embeddings", "--pooling=rank"]
    builtin = request.model.path.absolute().parent == _BUILTIN_MODELS
    return ["--embeddings"] if builtin or "embedding" in request.types else []


def memory_need(request: LaunchRequest) -> MemoryNeed:
    """Estimate what a replica takes, from the model's header and the flags. Reads files: ask in a thread.

    Raises:
        Invalid: as `launch_plan`.
        Unavailable: the model or an adapter can't be read.
    """
    check_args(request.args, request.env)
    _refuse_format(request)
    values = read_flags([*_arguments(request), *request.args, *_unshared(request)])
    sizes = LlamacppSizes(
        context=values["n_ctx"],
        slots=values["n_parallel"],
        batch=min(values.get("n_ubatch", ENGINE_BATCH), values.get("n_batch", ENGINE_BATCH_MOST)),
        key_bytes=_cache_bytes(values.get("cache_type_k")),
        value_bytes=_cache_bytes(values.get("cache_type_v")),
        flash_attention=values.get("flash_attn_type") != _NO_FLASH_ATTENTION,
        saved_bytes=values["cache_ram_mib"] << 20,
    )
    adapters = sum(path.stat().st_size for path in _adapters(request))
    return llamacpp_need(read_model(request.model.path), sizes, adapters)


def _cache_bytes(kind: Member | None) -> float:
    return cache_number_bytes(kind.name.removeprefix("GGML_TYPE_")) if kind else cache_number_bytes("f16")


async def probe(address: str, key: str, *, timeout_s: float = 3.0) -> Probe:
    """Ask an engine at `unix:<path>` whether it is loaded, ours (it knows `key`) and how large its slots are."""
    target = Target("engine", unix=address.removeprefix("unix:"))
    try:
        status, _ = await get_json(target, "/health", timeout_s=timeout_s)
        if status == 503:
            return Probe("starting", "The engine is loading the model.")
        if status != 200:
            return Probe("unreachable", f"The engine's /health answered HTTP {status}.")
        status, body = await get_json(target, "/props", key=key, timeout_s=timeout_s)
    except NoAnswer as error:
        return Probe("unreachable", f"The engine does not answer: {str(error).rstrip('.')}.")
    if status == 401:
        return Probe("stranger", "Something answers on the replica's socket that does not know its key.")
    if status != 200 or not isinstance(body, dict):
        return Probe("unreachable", f"The engine's /props answered HTTP {status}.")
    return _read_properties(body)


async def in_flight(address: str, key: str, *, timeout_s: float = 3.0) -> int | None:
    """Return how many requests the engine works on, None when it does not tell.

    Waiting ones need no count: they exist only while every slot works.
    """
    try:
        status, body = await get_json(
            Target("engine", unix=address.removeprefix("unix:")), "/slots", key=key, timeout_s=timeout_s
        )
    except NoAnswer:
        return None
    if status != 200 or not isinstance(body, list):
        return None
    return sum(1 for slot in body if isinstance(slot, dict) and slot.get("is_processing"))


def _read_properties(body: dict[str, Any]) -> Probe:
    generation = body.get("default_generation_settings")
    context = generation.get("n_ctx") if isinstance(generation, dict) else 0
    slots = body.get("total_slots")
    return Probe(
        "ready",
        context_length=context if isinstance(context, int) else 0,
        slots=slots if isinstance(slots, int) else 0,
    )


_STEPS = (
    (re.compile(r"load_model: loading model"), "Reading the model"),
    (re.compile(r"load_tensors|loading tensors"), "Loading the weights"),
    (re.compile(r"llama_init|llama_context|llama_kv_cache"), "Setting up the KV cache"),
    (re.compile(r"warming up|cmn +init: "), "Warming up"),
    (re.compile(r"init: model loaded|listening on "), "Loaded"),
)


def progress(stderr: str) -> str:
    """Return the last thing the engine said about its loading, for people; "" if it said nothing about it."""
    for line in reversed(stderr.splitlines()):
        for pattern, told in _STEPS:
            if pattern.search(line):
                return told
    return ""


_STAMP = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} ([A-Z]) +")
_SPEAKER = re.compile(r"^(error: (?!the )|(cmn|srv) +\w+: |\w+: )")
_OUR_NEWS = "listening on "  # the server's own line, once it serves
_NO_CAUSE = re.compile(
    r"failed to load model( '|, '|$)|failed to create.context|exiting due to model loading|could not load the model"
    r"|failed to load model from|Invalid API Key|terminate called|failed to allocate CPU buffer"
)
_CAUSES = 3


def last_error(stderr: str) -> str:
    """Return what the engine said about its failure: at most three lines, causes first, without time stamps.

    Empty if it said nothing (as when the system killed it for want of memory).
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    causes = [_plain(line) for line in lines if _is_error(line) and not _NO_CAUSE.search(line)]
    if not causes:
        causes = [_plain(line) for line in lines if _is_error(line)]
    if not causes:
        causes = [line for line in lines if not _is_news(line)][-1:]
    return "; ".join(list(dict.fromkeys(causes))[:_CAUSES])


def _is_news(line: str) -> bool:
    return bool(_STAMP.match(line)) or line.startswith(_OUR_NEWS)


def _is_error(line: str) -> bool:
    stamp = _STAMP.match(line)
    if stamp:
        return stamp[1] == "E"
    return line.startswith(("error:", "what():", "GGML_ASSERT", "terminate")) or bool(re.match(r"\w*Error\b", line))


def _plain(line: str) -> str:
    text = _STAMP.sub("", line)
    shorter = _SPEAKER.sub("", text)
    return shorter.removeprefix("what():").strip()
