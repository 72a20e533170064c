"""A model's files: what is to be fetched from a hub, how far that is, and what lies ready on this machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ModelFormat = Literal["gguf", "safetensors"]
Wanted = Literal["model", "gguf", "safetensors", "adapter"]
FetchState = Literal["absent", "waiting", "listing", "downloading", "verifying", "complete", "failed"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model that lies complete on this machine.

    `path` is the GGUF file (of a split one: the first part) or the folder that holds config.json and *.safetensors.
    """

    format: ModelFormat
    path: Path
    bytes: int  # of the weights
    revision: str = ""  # the hub's commit, "" for what did not come from one


@dataclass(frozen=True, slots=True)
class FetchOrder:
    """What is to be fetched. Bytes are shared by all orders; what may be had with a credential is its owner's alone."""

    source: str  # huggingface | modelscope
    name: str  # org/repo
    revision: str = ""  # branch, tag or commit; "" = the hub's default branch
    file: str = ""  # pattern of the weights' files, such as *q8_0.gguf; "" = what an engine needs
    mirror: str = ""  # base URL that stands for the hub's own
    want: Wanted = "model"  # model = whatever an engine here can run; adapter = a LoRA adapter
    owner: str = ""  # project/secret of the credential that is shown to the hub; "" = none is

    @property
    def key(self) -> str:
        """A name for the order that can name a folder: equal orders have equal keys."""
        text = "\0".join((self.source, self.name, self.revision, self.file, self.mirror, self.want, self.owner))
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class FetchReport:
    """How far a fetch is. Bytes are those that lie on the disk: they never shrink while the fetch goes on.

    `final` with `failed`: trying again can't help until the order, the secret or the machine changes.
    """

    state: FetchState
    reason: str = ""  # what happened and what to do about it, for people
    final: bool = False
    done_bytes: int = 0
    total_bytes: int = 0  # 0 = not known yet
    done_files: int = 0
    total_files: int = 0
    bytes_per_s: float = 0.0
    format: Literal["", "gguf", "safetensors"] = ""  # of the model, once its files are listed
    files: ModelFiles | None = None  # when complete


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One fetched (or half fetched) model in the cache. Files that several entries share count in each."""

    key: str  # of its order
    order: FetchOrder
    revision: str  # commit, "" while unknown
    state: FetchState
    bytes: int  # on the disk
    files: int
    fetched_at: float  # Unix seconds; 0 = not complete


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning removed, or would remove."""

    keys: tuple[str, ...]
    freed_bytes: int
