"""What the user means by a model: one that ships with the platform, a file here, or a repository of a hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mooring.cli.problems import UsageError

Json = dict[str, Any]
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class Hub(StrEnum):
    """Where a model named org/repo comes from."""

    huggingface = "huggingface"
    modelscope = "modelscope"


_HUB_FIELDS = ("file", "revision", "mirror")
TOKEN_VARIABLES = {Hub.huggingface: "HF_TOKEN", Hub.modelscope: "MODELSCOPE_API_TOKEN"}


@dataclass(frozen=True)
class HubOptions:
    """How models are taken from a hub; "" where the hub's own way is meant."""

    hub: Hub = Hub.huggingface
    revision: str = ""
    file: str = ""
    mirror: str = ""
    token_secret: str = ""


def plan_model(model: str, options: HubOptions, *, elsewhere: bool = False) -> Json:
    """Return `spec.model` for what the user named.

    Args:
        elsewhere: the platform runs on another machine: an absolute path is one there, and not looked for here.

    Raises:
        UsageError: `model` looks like a file that isn't there or can't be deployed, or options don't fit it.
    """
    path = Path(model).expanduser()
    if path.exists() or _looks_like_path(model):
        _refuse_hub_options(model, options)
        return _local(model, path, elsewhere=elsewhere)
    if REPOSITORY.fullmatch(model):
        return _from_hub(model, options)
    _refuse_hub_options(model, options)
    return {"source": "builtin", "name": model}


def plan_adapter(text: str, options: HubOptions, *, elsewhere: bool = False) -> Json:
    """Return an entry of `spec.adapters` for NAME=PATH_OR_REPO.

    Raises:
        UsageError: it is not of that form, or names nothing that can be an adapter.
    """
    name, _, where = text.partition("=")
    if not name or not where:
        raise UsageError(f"--lora {text}: not of the form NAME=PATH_OR_REPO.", "Write --lora poems=./poems-lora.")
    chosen = HubOptions(hub=options.hub, mirror=options.mirror, token_secret=options.token_secret)
    path = Path(where).expanduser()
    if path.exists() or _looks_like_path(where):
        if not path.exists() and not (elsewhere and path.is_absolute()):
            raise UsageError(f"--lora {text}: there is no {where}.", "Give a GGUF adapter, a PEFT folder or org/repo.")
        return {"name": name, "model": {"source": "local", "path": str(path.resolve())}}
    if not REPOSITORY.fullmatch(where):
        raise UsageError(f"--lora {text}: {where} is neither a path nor org/repo.", "Write --lora poems=./poems-lora.")
    return {"name": name, "model": _from_hub(where, chosen)}


def is_hub(model: Json) -> bool:
    """Whether a `spec.model` comes from a hub."""
    return model["source"] in tuple(Hub)


def same_model(first: Json, second: Json) -> bool:
    """Whether two `spec.model` are the same files; the credential does not count."""
    return {**first, "tokenSecret": None} == {**second, "tokenSecret": None}


def same_source(first: Json, second: Json) -> bool:
    """Whether two `spec.model` name the same model, of whatever revision and files."""
    return (first["source"], told(first)) == (second["source"], told(second))


def difference(before: Json, wanted: Json) -> str:
    """Return what is other in `before` than in `wanted`, in words: the model, or its file, revision or mirror."""
    if not same_source(before, wanted):
        return f"another model ({told(before)})"
    others = [
        f"another {field} ({before.get(field) or 'none named'})"
        for field in _HUB_FIELDS
        if before.get(field) != wanted.get(field)
    ]
    return f"{told(before)} with {' and '.join(others)}"


def find_token(given: str, hub: Hub, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the hub's token and where it was found: on the command line, or in the hub's own variable."""
    if given:
        return given, "--token"
    variable = TOKEN_VARIABLES[hub]
    found = environ.get(variable, "").strip()
    return (found, variable) if found else ("", "")


def told(model: Json) -> str:
    """Return what a `spec.model` is called in a sentence."""
    return str(model.get("path") or model.get("name"))


def stem(model: Json) -> str:
    """Return the last part of a model's name, to name a service after it."""
    if model["source"] == "local":
        path = Path(model["path"])
        return path.stem if path.suffix == ".gguf" else path.name
    return str(model["name"]).rpartition("/")[2]


def _looks_like_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or model.endswith(".gguf") or model.count("/") > 1


def _local(model: str, path: Path, *, elsewhere: bool) -> Json:
    if elsewhere and path.is_absolute():
        return {"source": "local", "path": str(path)}
    if not path.exists():
        raise UsageError(
            f"There is no file {model}.", "Give a .gguf file or a model folder, org/repo of a hub, or mooring-demo."
        )
    if path.is_file() and path.suffix != ".gguf":
        raise UsageError(
            f"{model} is not a .gguf file.", "Give a .gguf file, or the folder with config.json and *.safetensors."
        )
    return {"source": "local", "path": str(path.resolve())}


def _from_hub(name: str, options: HubOptions) -> Json:
    fields = {
        "revision": options.revision,
        "file": options.file,
        "mirror": options.mirror,
        "tokenSecret": options.token_secret,
    }
    return {"source": str(options.hub), "name": name} | {field: value for field, value in fields.items() if value}


def _refuse_hub_options(model: str, options: HubOptions) -> None:
    given = [flag for flag in ("revision", "file", "mirror") if getattr(options, flag)]
    if given:
        raise UsageError(
            f"--{given[0]} is for models from a hub, and {model} is none.", "Name a model on a hub as org/repo."
        )
