"""vLLM, a program of its own: the recipe for one replica, and how it is asked. It is never imported.

One replica is several processes (API server, engine core, a worker for each part of the model) that listen on one Unix
socket. While vLLM starts, nothing listens there. `VLLM_API_KEY` guards /v1 only: /health, /metrics and /tokenize are
open to whoever reaches the socket, so it lies in a folder that is ours alone.

With an open stream vLLM does not end at SIGTERM: the engine dies at once, the stream falls silent, and the server waits
for its client. Who stops it lets the requests end first (`in_flight`), cuts what is left, and only then sends SIGTERM.
What it writes is read in `vllm_log`; a generating run answers no embeddings, a pooling run nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from mooring.core.errors import Invalid, Unavailable
from mooring.core.replicas import AdapterFiles, LaunchPlan, LaunchRequest, MemoryNeed, Probe, ReplicaPlace
from mooring.engines.ask import NoAnswer, Target, get_json, get_text
from mooring.engines.flags import FlagError, next_step
from mooring.engines.memory import GIB, Cells, VllmSizes, config_cells, config_context, vllm_cpu_need, vllm_gpu_need
from mooring.engines.safetensors import SafetensorsModel, read_model, read_object
from mooring.engines.vllm_flags import NeedsAdministrator, read_flags, tokens, write_flags
from mooring.engines.vllm_log import last_error, progress

__all__ = [
    "CAPABILITIES",
    "capabilities",
    "check_args",
    "in_flight",
    "last_error",
    "launch_plan",
    "memory_need",
    "probe",
    "progress",
]

CAPABILITIES: frozenset[str] = frozenset({"chat", "completion", "embedding", "rerank"})
GENERATES, POOLS = frozenset({"chat", "completion"}), frozenset({"embedding", "rerank"})

PROGRAM = ("vllm", "serve")
DEFAULT_SLOTS_GPU, DEFAULT_SLOTS_CPU = 256, 32  # requests at once; vLLM's own default differs between machines
AUTO_CONTEXT = 8192  # tokens: what is reckoned with where vLLM itself finds the context that fits
MAX_ADAPTERS_AT_ONCE = 4  # in one batch; each takes memory of its own, further ones wait
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_KEY = "VLLM_API_KEY"
_CPU_CACHE = "VLLM_CPU_KVCACHE_SPACE"  # GiB, a whole number
_MAX_VALUE_CHARACTERS = 256
_ENVIRONMENT = frozenset(
    {
        _CPU_CACHE,
        "VLLM_CPU_OMP_THREADS_BIND",
        "VLLM_CPU_NUM_OF_RESERVED_CPU",
        "VLLM_CPU_SGL_KERNEL",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
        "VLLM_LOGGING_LEVEL",
        "VLLM_LOG_STATS_INTERVAL",
        "VLLM_SLEEP_WHEN_IDLE",
        "VLLM_ENGINE_READY_TIMEOUT_S",
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS",
        "VLLM_MM_INPUT_CACHE_GIB",
        "VLLM_DISABLE_COMPILE_CACHE",
        "VLLM_USE_DEEP_GEMM",
        "VLLM_USE_FLASHINFER_SAMPLER",
        "VLLM_USE_TRITON_FLASH_ATTN",
        "VLLM_FLASH_ATTN_VERSION",
        "VLLM_MARLIN_USE_ATOMIC_ADD",
        "VLLM_ENABLE_V1_MULTIPROCESSING",
        "VLLM_WORKER_MULTIPROC_METHOD",
        "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_ALLOC_CONF",
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "CUDA_LAUNCH_BLOCKING",
        "TOKENIZERS_PARALLELISM",
        "OMP_NUM_THREADS",
        "OMP_PROC_BIND",
        "OMP_PLACES",
        "OMP_DYNAMIC",
    }
)
# NCCL's variables tune it, but some name files and libraries.
_NCCL = re.compile(r"NCCL_(P2P|SHM|IB|NET|ALGO|PROTO|BUFFSIZE|NTHREADS|DEBUG|CUMEM|NVLS|MIN|MAX)[A-Z0-9_]*")
_NCCL_FILES = re.compile(r"FILE|PLUGIN|PATH|DIR|LIB")


def missing_program(program: tuple[str, ...]) -> str:
    """Return what to do where vLLM is not installed; "" where it is."""
    if shutil.which(program[0]) is not None:
        return ""
    return (
        f"This model needs vLLM, and there is no program '{program[0]}' on this machine."
        " Install vLLM (https://docs.vllm.ai) and name its command with --vllm-command (MOORING_VLLM_COMMAND),"
        " or deploy the model in GGUF format."
    )


def check_args(args: Sequence[str], env: Mapping[str, str], *, administrator: bool = True) -> None:
    """Refuse arguments and environment that a service may not give to this engine.

    Raises:
        Invalid: names the fault; the next step lists what is allowed, or says who may.
    """
    _read(args, administrator=administrator)
    for name, value in env.items():
        _check_variable(name, value)


def _read(args: Sequence[str], *, administrator: bool = True) -> dict[str, str | bool]:
    try:
        return read_flags(args, administrator=administrator)
    except NeedsAdministrator as error:
        raise Invalid(
            f"args: {error}.", next_step="Ask an administrator to deploy this, or leave the flag out.", param="args"
        ) from None
    except FlagError as error:
        raise Invalid(f"args: {error}.", next_step=next_step(error), param="args") from None


def _check_variable(name: str, value: str) -> None:
    tunes_nccl = _NCCL.fullmatch(name) and not _NCCL_FILES.search(name)
    if name not in _ENVIRONMENT and not tunes_nccl:
        raise Invalid(
            f"env: the variable '{name}' can't be set for this engine.",
            next_step=f"Allowed: {', '.join(sorted(_ENVIRONMENT))} and NCCL_* (but no files or libraries).",
            param="env",
        )
    if len(value) > _MAX_VALUE_CHARACTERS or not value.isprintable():
        raise Invalid(f"env: the value of '{name}' is too long or not printable.", param="env")
    if name == _CPU_CACHE and not re.fullmatch(r"[1-9][0-9]{0,4}", value):
        raise Invalid(f"env: {name} must be a whole number of GiB from 1.", param="env")


def launch_plan(request: LaunchRequest, place: ReplicaPlace) -> LaunchPlan:
    """Return what to execute for one replica. Reads the model's configuration: ask in a thread.

    Adapters are models beside the model: callers ask for `<served model>:<adapter>`.

    Raises:
        Invalid: as `capabilities`; the model is not in safetensors format, more GPUs would be used than the service
            has, or an adapter is no folder in PEFT's format.
        Unavailable: the program, or a file that must be looked into, is not there.
    """
    flags = _judged(request)
    model = read_model(request.model.path)
    kinds = capabilities(request)
    program = _program(request)
    serves = "serve" in program[1:]  # `python -m vllm.entrypoints.openai.api_server` takes the model by a flag
    argv = [*program, *(() if serves else ("--model",)), str(request.model.path.absolute())]
    argv += ["--uds", str(place.socket), "--served-model-name", request.served_model]
    argv += write_flags(_ours(request, kinds, flags) | _adapter_flags(request) | flags)
    argv += _adapter_arguments(request)
    return LaunchPlan(
        argv=tuple(argv),
        env=_environment(request, place, model, flags),
        address=f"unix:{place.socket}",
        served_model=request.served_model,
        slots=int(flags.get("--max-num-seqs", _default_slots(request))),
    )


def _judged(request: LaunchRequest) -> dict[str, str | bool]:
    """Return the service's flags, once they fit the model's format and the GPUs."""
    check_args(request.args, request.env)
    if request.model.format != "safetensors":
        raise Invalid(
            f"vLLM runs models in safetensors format; {request.model.path.name} is in {request.model.format} format.",
            next_step="Use engine 'llamacpp', or the model's repository with *.safetensors files.",
            param="engine",
        )
    flags = _read(request.args)
    wanted = _parts(request, flags) * int(flags.get("--data-parallel-size", 1))
    if request.gpus and wanted > request.gpus:
        raise Invalid(
            f"args: the parallel sizes need {wanted} GPUs, and the service has {request.gpus}.",
            next_step="Raise resources.gpus or lower the parallel sizes.",
            param="args",
        )
    return flags


def _parts(request: LaunchRequest, flags: Mapping[str, str | bool]) -> int:
    """Return among how many workers the model is split."""
    pipeline, data = int(flags.get("--pipeline-parallel-size", 1)), int(flags.get("--data-parallel-size", 1))
    usual = max(1, request.gpus // (pipeline * data))
    return int(flags.get("--tensor-parallel-size", usual)) * pipeline


def _default_slots(request: LaunchRequest) -> int:
    return DEFAULT_SLOTS_GPU if request.gpus else DEFAULT_SLOTS_CPU


def _ours(request: LaunchRequest, kinds: frozenset[str], flags: Mapping[str, str | bool]) -> dict[str, str | bool]:
    """Return the flags we set; the service's own win."""
    ours: dict[str, str | bool] = {"--max-num-seqs": str(_default_slots(request))}
    tensor = _parts(request, flags) // int(flags.get("--pipeline-parallel-size", 1))
    if tensor > 1:
        ours["--tensor-parallel-size"] = str(tensor)
    if kinds <= POOLS:
        ours["--runner"] = "pooling"
        if "embedding" in kinds:
            ours["--convert"] = "embed"
    return ours


def _program(request: LaunchRequest) -> tuple[str, ...]:
    name, *rest = request.program or PROGRAM
    found = shutil.which(name)
    if found is None:
        raise Unavailable(
            f"The engine vllm is a program of its own, and there is no '{name}' on this machine.",
            next_step="Install vLLM and name its command in MOORING_VLLM_COMMAND.",
        )
    return (os.path.abspath(found), *rest)


def _environment(
    request: LaunchRequest, place: ReplicaPlace, model: SafetensorsModel, flags: Mapping[str, str | bool]
) -> dict[str, str]:
    """Return the whole environment: nothing of ours, no network beyond this machine, no reports to anybody."""
    home = request.cache or place.directory  # what torch.compile makes costs a minute at each start that lacks it
    folder = os.path.dirname(_program(request)[0])  # its neighbours (ninja) serve the compiler
    clean = {
        "PATH": f"{folder}:/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "USER": "mooring",  # torch asks for a name, and a container's user may have none
        "TORCHINDUCTOR_CACHE_DIR": str(home / ".cache" / "torchinductor"),  # else a folder in /tmp that others may own
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",  # its processes talk to each other on loopback
        "OMP_NUM_THREADS": str(place.threads),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in place.gpus),
    }
    if not request.gpus:
        clean["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # bound ones of several replicas would sit on the same cores
        clean[_CPU_CACHE] = str(_cpu_cache_gib(model, flags))
    return {**clean, **request.env, _KEY: place.key}


def _adapter_flags(request: LaunchRequest) -> dict[str, str | bool]:
    if not request.adapters:
        return {}
    rank = max(_rank(adapter) for adapter in request.adapters)
    at_once = min(len(request.adapters), MAX_ADAPTERS_AT_ONCE)
    return {"--enable-lora": True, "--max-lora-rank": str(rank), "--max-loras": str(at_once)}


def _rank(adapter: AdapterFiles) -> int:
    """Return the smallest rank vLLM can be set to that holds this adapter."""
    if not adapter.path.is_dir():
        raise _adapter_refusal(adapter, "is no folder as PEFT writes it, with adapter_config.json")
    config = read_object(adapter.path / "adapter_config.json")
    pattern = config.get("rank_pattern")
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    if not all(isinstance(rank, int) and 0 < rank <= _RANKS[-1] for rank in ranks):
        raise _adapter_refusal(adapter, f"has a rank that is not from 1 to {_RANKS[-1]}")
    return next(rank for rank in _RANKS if rank >= max(ranks))


def _adapter_refusal(adapter: AdapterFiles, why: str) -> Invalid:
    return Invalid(
        f"The adapter '{adapter.name}' ({adapter.path.name}) {why}.",
        next_step="Name the folder that PEFT wrote; adapters in GGUF format run on engine 'llamacpp'.",
        param="adapters",
    )


def _adapter_arguments(request: LaunchRequest) -> list[str]:
    if not request.adapters:
        return []
    named = [
        {"name": f"{request.served_model}:{adapter.name}", "path": str(adapter.path.absolute())}
        for adapter in request.adapters
    ]
    return ["--lora-modules", *(json.dumps(entry) for entry in named)]


def capabilities(request: LaunchRequest) -> frozenset[str]:
    """Return the kinds of call a replica answers: what is asked for, else what the model was made for.

    Raises:
        Invalid: as `check_args`; or kinds are asked for that no single run of vLLM answers.
        Unavailable: the model's configuration can't be read.
    """
    runner = _read(request.args).get("--runner", "auto")
    asked = frozenset(request.types)
    if not asked:
        return _usual(request, str(runner))
    pools = runner == "pooling" or (runner == "auto" and bool(asked & POOLS))
    if not asked <= (POOLS if pools else GENERATES):
        raise Invalid(
            f"vLLM can't answer these kinds of call in one replica: {', '.join(sorted(asked))}.",
            next_step="It answers chat and completion in one run, embedding and rerank in another: use two services.",
            param="types",
        )
    return asked


def _usual(request: LaunchRequest, runner: str) -> frozenset[str]:
    """Judge by config.json, as vLLM itself does."""
    if runner == "generate":
        return GENERATES
    model = read_model(request.model.path)
    if any(name.endswith("ForSequenceClassification") for name in model.architectures):
        return frozenset({"rerank"})
    encodes = any(name.endswith(("Model", "ForMaskedLM", "EmbeddingModel")) for name in model.architectures)
    return POOLS if runner == "pooling" or model.sentence_embedder or encodes else GENERATES


def memory_need(request: LaunchRequest) -> MemoryNeed:
    """Estimate what a replica takes: of the machine's memory, or of each of its GPUs. Reads files: ask in a thread.

    Raises:
        Invalid: as `launch_plan`.
        Unavailable: the model can't be read.
    """
    flags = _judged(request)
    model = read_model(request.model.path)
    sizes = VllmSizes(
        context=_context(model, flags),
        parts=_parts(request, flags),
        cache_number_bytes=_cache_number_bytes(flags),
        weights_factor=_weights_factor(model, flags),
    )
    adapters = sum(_adapter_bytes(adapter) for adapter in request.adapters)
    if request.gpus:
        return vllm_gpu_need(config_cells(model.config), model.data_bytes, sizes, adapters)
    gib = int(request.env.get(_CPU_CACHE, _cpu_cache_gib(model, flags)))
    return vllm_cpu_need(model.data_bytes, sizes, gib * GIB, adapters)


def _context(model: SafetensorsModel, flags: Mapping[str, str | bool]) -> int:
    longest = config_context(model.config)
    given = tokens(str(flags["--max-model-len"])) if "--max-model-len" in flags else longest
    return given if given > 0 else min(AUTO_CONTEXT, longest or AUTO_CONTEXT)


def _cache_number_bytes(flags: Mapping[str, str | bool]) -> float:
    kind = str(flags.get("--kv-cache-dtype", "auto"))
    if kind == "auto":
        return 4.0 if _serves_32_bits(flags) else 2.0
    return 2.0 if kind in ("bfloat16", "float16") else 1.0


def _serves_32_bits(flags: Mapping[str, str | bool]) -> bool:
    return flags.get("--dtype") in ("float", "float32")


def _weights_factor(model: SafetensorsModel, flags: Mapping[str, str | bool]) -> float:
    halves = sum(size for kind, size in model.bytes_by_type.items() if kind in ("BF16", "F16"))
    return 1.0 + halves / model.data_bytes if _serves_32_bits(flags) and model.data_bytes else 1.0


def _cpu_cache_gib(model: SafetensorsModel, flags: Mapping[str, str | bool]) -> int:
    """Return the GiB of cache that hold one request of full length: vLLM refuses to start with less."""
    cells: Cells = config_cells(model.config)
    number_bytes = _cache_number_bytes(flags)
    return max(1, -(-cells.size(_context(model, flags), number_bytes, number_bytes) // GIB))


def _adapter_bytes(adapter: AdapterFiles) -> int:
    return sum(path.stat().st_size for path in adapter.path.glob("*.safetensors"))


async def probe(address: str, key: str, *, timeout_s: float = 3.0) -> Probe:
    """Ask an engine at `unix:<path>` whether it serves, is ours (it knows `key`) and how long a request may be."""
    target = Target("engine", unix=address.removeprefix("unix:"))
    try:
        status, _ = await get_text(target, "/health", timeout_s=timeout_s)
        if status != 200:
            return Probe("unreachable", f"The engine's /health answered HTTP {status}.")
        status, body = await get_json(target, "/v1/models", key=key, timeout_s=timeout_s)
    except NoAnswer as error:
        if error.nobody:  # vLLM listens when all else is done; whether its process lives, the placement knows
            return Probe("starting", "The engine does not listen yet.")
        return Probe("unreachable", f"The engine does not answer: {str(error).rstrip('.')}.")
    if status == 401:
        return Probe("stranger", "Something answers on the replica's socket that does not know its key.")
    if status != 200 or not isinstance(body, dict):
        return Probe("unreachable", f"The engine's /v1/models answered HTTP {status}.")
    return Probe("ready", context_length=_longest(body))


def _longest(body: dict[str, Any]) -> int:
    data = body.get("data")
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    lengths = [length for entry in entries if isinstance(length := entry.get("max_model_len"), int)]
    return max(lengths, default=0)


_GAUGE = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? +([0-9.eE+-]+)", re.MULTILINE)


async def in_flight(address: str, key: str, *, timeout_s: float = 3.0) -> int | None:
    """Return how many requests the engine works on or keeps waiting, None when it does not tell."""
    target = Target("engine", unix=address.removeprefix("unix:"))
    try:
        status, text = await get_text(target, "/metrics", key=key, timeout_s=timeout_s)
    except NoAnswer:
        return None
    return read_in_flight(text) if status == 200 else None


def read_in_flight(metrics: str) -> int | None:
    """Return the sum of running and waiting requests over all engines, None if the metrics name neither."""
    found = _GAUGE.findall(metrics)
    try:
        return sum(int(float(number)) for number in found) if found else None
    except (ValueError, OverflowError):
        return None
