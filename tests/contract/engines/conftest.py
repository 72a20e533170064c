"""What each engine that we start needs for the suite: a request it can run, its refusals, and what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mooring.core.models import ModelFiles
from mooring.core.replicas import LaunchRequest, ReplicaPlace
from mooring.engines import REGISTRY, load_engine
from mooring.testing.engines.files import write_gguf, write_model_folder
from mooring.testing.engines.recorded import RecordedEngine, read_cases

RECORDED = Path(__file__).parent / "recorded"
KEY = "k3y"
CONFIG = {"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}


@dataclass(frozen=True)
class Subject:
    """One engine under test."""

    name: str
    module: Any
    request: LaunchRequest
    other_format: LaunchRequest  # one it can't run
    missing: LaunchRequest  # one whose files are not there
    bad_args: tuple[str, ...]
    good_args: tuple[str, ...]  # a longer context
    longer_args: tuple[str, ...]  # and a still longer one
    good_env: Mapping[str, str]
    context_length: int  # as recorded
    failure: str  # something it writes when it fails
    loading: str  # something it writes while it starts

    def recorded(self) -> RecordedEngine:
        """Return a server that answers as this engine did."""
        return RecordedEngine(read_cases(RECORDED / f"{self.name}.json"), KEY)


def _started() -> list[str]:
    return sorted(name for name in REGISTRY if hasattr(load_engine(name), "launch_plan"))


def _gguf(path: Path) -> ModelFiles:
    return ModelFiles("gguf", path, 1)


def _folder(path: Path) -> ModelFiles:
    return ModelFiles("safetensors", path, 1)


def _llamacpp(gguf: Path, folder: Path) -> Subject:
    return Subject(
        name="llamacpp",
        module=load_engine("llamacpp"),
        request=LaunchRequest(_gguf(gguf), "m"),
        other_format=LaunchRequest(_folder(folder), "m"),
        missing=LaunchRequest(_gguf(gguf.with_name("absent.gguf")), "m"),
        bad_args=("--host=0.0.0.0",),
        good_args=("--ctx-size=65536",),
        longer_args=("--ctx-size=131072",),
        good_env={"OMP_NUM_THREADS": "2"},
        context_length=1024,
        failure="error: the model file /m.gguf does not exist\n",
        loading="0.00.033.871 I load_tensors:   CPU_Mapped model buffer size = 3 MiB\n",
    )


def _vllm(gguf: Path, folder: Path) -> Subject:
    program = ("/bin/sh", "serve")
    return Subject(
        name="vllm",
        module=load_engine("vllm"),
        request=LaunchRequest(_folder(folder), "m", program=program),
        other_format=LaunchRequest(_gguf(gguf), "m", program=program),
        missing=LaunchRequest(_folder(folder.with_name("absent")), "m", program=program),
        bad_args=("--host", "0.0.0.0"),
        good_args=("--max-model-len=4M",),
        longer_args=("--max-model-len=8M",),
        good_env={"OMP_NUM_THREADS": "2"},
        context_length=1024,
        failure="ValueError: No available memory for the cache blocks.\n",
        loading="Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<?, ?it/s]\n",
    )


MAKERS = {"llamacpp": _llamacpp, "vllm": _vllm}


@pytest.fixture(params=_started())
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    """Each engine of the registry that we start. One without a maker above fails here."""
    facts = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, "context_length": 2048}
    header = {"general.architecture": "qwen3", **{f"qwen3.{name}": value for name, value in facts.items()}}
    gguf = write_gguf(tmp_path / "m.gguf", header, {"token_embd.weight": ((64, 8), bytes(2048))})
    return MAKERS[request.param](gguf, write_model_folder(tmp_path / "m", CONFIG))


@pytest.fixture
def place(tmp_path: Path) -> ReplicaPlace:
    """A place for a replica."""
    return ReplicaPlace("rpl-1", tmp_path / "rpl-1", tmp_path / "rpl-1" / "e.sock", KEY, threads=3)
