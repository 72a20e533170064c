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
from mooring.core.replicas import LaunchPlan, Probe, ReplicaPlace
from mooring.engines.ask import NoAnswer, Target, get_json
from mooring.engines.llamacpp_flags import FLAGS, FlagError, read_flags
from mooring.engines.llamacpp_server import KEY_VARIABLE

CAPABILITIES: frozenset[str] = frozenset({"chat", "completion", "embedding"})

DEFAULT_SLOTS = 4
DEFAULT_CONTEXT = 8192  # tokens of all slots together: llama.cpp divides it by the slots
DEFAULT_CACHE_MIB = 256  # saved prompts of idle slots; the engine's own default is 8 GiB
# A connection holds a thread for its whole stream; its own pool grows too late for a burst, and a probe behind 200
# waiting streams then takes a working engine for dead. 1024 sleeping threads cost 8 MiB.
DEFAULT_HTTP_THREADS = 1024
_PACKAGE = Path(__file__).resolve().parents[1]
_BUILTIN_MODELS = _PACKAGE / "assets"
_BUILTIN_ARGS = ("--embeddings", "--pooling=mean", "--ubatch-size=2048")  # a text to embed must fit one batch
_ENVIRONMENT = re.compile(r"OMP_(NUM_THREADS|WAIT_POLICY|PROC_BIND|PLACES|DYNAMIC)|GOMP_SPINCOUNT|GGML_[A-Z0-9_]+")
# GGML_BACKEND_PATH and its like load a library of the caller's choice.
_LOADS_CODE = re.compile(r"PATH|BACKEND|FILE|DIR|LIB")
_MAX_VALUE_CHARACTERS = 256


def check_args(args: Sequence[str], env: Mapping[str, str]) -> None:
    """Refuse arguments and environment that a service may not give to this engine.

    Raises:
        Invalid: names the fault; the next step lists what is allowed.
    """
    try:
        values = read_flags(args)
    except FlagError as error:
        raise Invalid(
            f"args: {error}.", next_step=f"Allowed flags: {', '.join(sorted(FLAGS))}.", param="args"
        ) from None
    slots, context = values.get("n_parallel", DEFAULT_SLOTS), values.get("n_ctx", DEFAULT_CONTEXT)
    if 0 < context < slots:
        raise Invalid(
            f"args: --ctx-size={context} is shared by {slots} slots, which leaves nothing for each.",
            next_step="Raise --ctx-size or lower --parallel.",
            param="args",
        )
    for name, value in env.items():
        _check_variable(name, value)


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


def launch_plan(
    spec_args: Sequence[str], env: Mapping[str, str], model_path: Path, model_name: str, place: ReplicaPlace
) -> LaunchPlan:
    """Return what to execute for one replica of `model_name`. `env` becomes part of a clean environment.

    Raises:
        Invalid: as `check_args`.
    """
    check_args(spec_args, env)
    args = [f"--parallel={DEFAULT_SLOTS}", f"--ctx-size={DEFAULT_CONTEXT}", f"--cache-ram={DEFAULT_CACHE_MIB}"]
    args += [f"--threads={place.threads}", f"--threads-http={DEFAULT_HTTP_THREADS}"]
    args += [*_builtin_args(model_path), *spec_args]
    argv = (sys.executable, "-P", "-m", "mooring.engines.llamacpp_server")
    argv += ("--model", str(model_path.absolute()), "--alias", model_name, "--socket", str(place.socket), *args)
    clean = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(place.directory),
        "PYTHONPATH": str(_PACKAGE.parent),  # found also when the package is not installed
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep: spinning ones starve everybody else on few cores
    }
    return LaunchPlan(
        argv=argv,
        env={**clean, **env, KEY_VARIABLE: place.key},
        address=f"unix:{place.socket}",
        served_model=model_name,
        slots=int(read_flags(args)["n_parallel"]),
    )


def _builtin_args(model_path: Path) -> tuple[str, ...]:
    return _BUILTIN_ARGS if model_path.absolute().parent == _BUILTIN_MODELS else ()


def capabilities(spec_args: Sequence[str], model_path: Path) -> frozenset[str]:
    """Return the kinds of call a replica with these arguments answers: embeddings only where they are switched on.

    Raises:
        Invalid: as `check_args`.
    """
    check_args(spec_args, {})
    embeds = read_flags([*_builtin_args(model_path), *spec_args]).get("embedding", False)
    return CAPABILITIES if embeds else CAPABILITIES - {"embedding"}


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


_STAMP = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} ([A-Z]) +")
_SPEAKER = re.compile(r"^(error: (?!the )|(cmn|srv) +\w+: |\w+: )")
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
        causes = [line for line in lines if not _STAMP.match(line)][-1:]  # a stamped one is news, not a cause
    return "; ".join(list(dict.fromkeys(causes))[:_CAUSES])


def _is_error(line: str) -> bool:
    stamp = _STAMP.match(line)
    if stamp:
        return stamp[1] == "E"
    return line.startswith(("error:", "what():", "GGML_ASSERT", "terminate")) or bool(re.match(r"\w*Error\b", line))


def _plain(line: str) -> str:
    text = _STAMP.sub("", line)
    shorter = _SPEAKER.sub("", text)
    return shorter.removeprefix("what():").strip()
