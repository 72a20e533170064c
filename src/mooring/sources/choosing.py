"""Which files of a repository an order means. Pure.

A pattern (`file`) picks among the weights. Without one: safetensors with config.json if the repository has them (a
llama.cpp engine wants GGUF all the same), else GGUF in the first quantisation of PREFERRED that is there, else the
smallest. Several different models at once are never guessed among: the refusal lists them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mooring.core.models import FetchOrder, ModelFormat
from mooring.sources.hub import FetchFailed, HubFile, Listing, no_match
from mooring.sources.weights import WeightFile, model_of, quantisation, weight_files

# Good quality for its size first; then near lossless; then what else is in common use.
PREFERRED = ("q4_k_m", "q8_0", "q5_k_m", "q6_k", "q4_k_s", "q5_k_s", "q4_0", "f16", "bf16")
_SUPPLEMENTS = re.compile(r"(^|[/._-])(mmproj|imatrix)([/._-]|$)", re.IGNORECASE)  # GGUF, but no model
_DUPLICATES = re.compile(r"^(consolidated|adapter_model|model\.(fp16|bf16|fp32|non_ema))\b", re.IGNORECASE)
_COMPANION = re.compile(r"(\.(json|txt|model|jinja|tiktoken|py)|^tokenizer[^/]*)$", re.IGNORECASE)
_MODULE = re.compile(r"^\d+_[A-Za-z]+/[^/]+\.(json|txt|safetensors)$")  # sentence-transformers: 1_Pooling/config.json
_TEMPLATES = re.compile(r"^(additional_)?chat_templates/[^/]+\.jinja$")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is fetched. `main`: the GGUF file (the first part), or the folder of the config, "" for the top one."""

    format: ModelFormat
    files: tuple[HubFile, ...]
    main: str

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights alone."""
        return sum(file.size for file in self.files if file.path.lower().endswith((".gguf", ".safetensors")))


def choose_files(listing: Listing, order: FetchOrder) -> Choice:
    """Return the files that an order of a model means.

    Raises:
        FetchFailed: none fits, parts are missing, or several models fit; the message lists what there is.
    """
    if order.want == "adapter":
        return choose_adapter_files(listing, order)
    files = {file.path: file for file in listing.files}
    gguf = [name for name in files if name.lower().endswith(".gguf")]
    tensors = [name for name in files if name.lower().endswith(".safetensors") and "/" not in name]
    if order.file:
        gguf, tensors = _matching(gguf, order.file), _matching(tensors, order.file)
        if not gguf and not tensors:
            raise no_match(order, f"No weights match '{order.file}'", _weights(listing))
    gguf = _models_only(gguf)
    transformers = bool(tensors) and "config.json" in files
    if order.want == "gguf" or not transformers:
        if gguf:
            return _choose_gguf(files, gguf, order)
        if not (transformers and order.want != "gguf"):
            raise _nothing(listing, order)
    return _choose_safetensors(files, tensors, order)


def _matching(names: Sequence[str], pattern: str) -> list[str]:
    """Return the names that fit a pattern, as a path or by their last part; capitals do not count."""
    wanted = pattern.lower()
    return [
        name
        for name in names
        if fnmatchcase(name.lower(), wanted) or fnmatchcase(name.lower().rsplit("/", 1)[-1], wanted)
    ]


def _models_only(names: list[str]) -> list[str]:
    models = [name for name in names if not _SUPPLEMENTS.search(name)]
    return models or names


def _nothing(listing: Listing, order: FetchOrder) -> FetchFailed:
    if order.want == "gguf":
        return no_match(order, "The engine llamacpp needs a GGUF file, and there is none", _weights(listing))
    return no_match(order, "There is neither a GGUF file nor config.json with *.safetensors", _weights(listing))


def _weights(listing: Listing) -> list[str]:
    endings = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".onnx", ".ckpt", ".msgpack")
    return sorted(file.path for file in listing.files if file.path.lower().endswith(endings))


# --- GGUF -------------------------------------------------------------------------------------------------


def _choose_gguf(files: dict[str, HubFile], names: list[str], order: FetchOrder) -> Choice:
    models = weight_files(_with_parts(files, names))
    chosen = _only(models, order) if order.file else _preferred(models, files, order)
    _refuse_missing(chosen, order)
    return Choice("gguf", tuple(files[part] for part in chosen.parts), chosen.parts[0])


def _with_parts(files: dict[str, HubFile], names: list[str]) -> list[str]:
    """Add the other parts of split files: a pattern may have met only one of them."""
    picked = set(names)
    every = weight_files(name for name in files if name.lower().endswith(".gguf"))
    return [part for model in every if picked.intersection(model.parts) for part in model.parts]


def _only(models: list[WeightFile], order: FetchOrder) -> WeightFile:
    if len(models) > 1:
        names = [model.parts[0] for model in models]
        raise no_match(order, f"'{order.file}' matches {len(models)} different GGUF models", names)
    return models[0]


def _preferred(models: list[WeightFile], files: dict[str, HubFile], order: FetchOrder) -> WeightFile:
    if len({model_of(model.name) for model in models}) > 1:
        names = [model.parts[0] for model in models]
        raise no_match(order, "There are several different GGUF models", names)
    for wanted in PREFERRED:
        found = [model for model in models if quantisation(model.parts[0]) == wanted]
        if len(found) > 1:
            names = [model.parts[0] for model in found]
            raise no_match(order, f"There are {len(found)} GGUF models in {wanted.upper()}", names)
        if found:
            return found[0]
    return min(models, key=lambda model: (sum(files[part].size for part in model.parts), model.name))


def _refuse_missing(model: WeightFile, order: FetchOrder) -> None:
    if model.missing:
        raise no_match(order, f"{model.missing} part(s) of '{model.name}' are missing", list(model.parts))


# --- safetensors ------------------------------------------------------------------------------------------


def _choose_safetensors(files: dict[str, HubFile], names: list[str], order: FetchOrder) -> Choice:
    weights = names if order.file else [name for name in names if not _DUPLICATES.match(name)] or names
    for model in weight_files(weights):
        _refuse_missing(model, order)
    picked = {*weights, *(name for name in files if _is_companion(name))}
    return Choice("safetensors", tuple(files[name] for name in sorted(picked)), "")


def _is_companion(name: str) -> bool:
    """Return whether an engine needs a file beside the weights: configuration, tokenizer, templates, model code."""
    if "/" in name:
        return bool(_MODULE.match(name) or _TEMPLATES.match(name))
    return bool(_COMPANION.search(name))


# --- adapters ---------------------------------------------------------------------------------------------


def choose_adapter_files(listing: Listing, order: FetchOrder) -> Choice:
    """Return the files of a LoRA adapter: adapter_config.json with adapter_model.safetensors, or one GGUF file.

    Raises:
        FetchFailed: there is none, or several; the message lists what there is.
    """
    files = {file.path: file for file in listing.files}
    gguf = [name for name in files if name.lower().endswith(".gguf")]
    peft = [name for name in files if name.rsplit("/", 1)[-1] == "adapter_model.safetensors" and _config(name) in files]
    if order.file:
        gguf, peft = _matching(gguf, order.file), _matching(peft, order.file)
    if peft and not gguf:
        found = [name for name in peft if "/" not in name] or peft
        if len(found) == 1:
            config = files[_config(found[0])]
            return Choice("safetensors", (config, files[found[0]]), found[0].rpartition("/")[0])
        raise no_match(order, f"There are {len(found)} adapters", found)
    if len(gguf) == 1 and weight_files(gguf)[0].parts == (gguf[0],) and not weight_files(gguf)[0].missing:
        return Choice("gguf", (files[gguf[0]],), gguf[0])
    if gguf:
        raise no_match(order, f"There is not one whole GGUF file, but {len(gguf)} where an adapter is wanted", gguf)
    why = "There is neither one GGUF file nor adapter_config.json with adapter_model.safetensors"
    raise no_match(order, why, _weights(listing))


def _config(adapter: str) -> str:
    return adapter.removesuffix("adapter_model.safetensors") + "adapter_config.json"
