"""Models that lie on this machine, under the folders that the operator opened for it (model roots).

A path is followed to its end before it is compared, and so is every file that an engine will read: a link out of the
roots is refused. A folder is a GGUF model if it holds exactly one (the parts of a split one count as one), else a
model in safetensors if it holds config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mooring.core.errors import Unprocessable
from mooring.core.models import ModelFiles
from mooring.sources.weights import WeightFile, weight_files

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def find_local(path: str, model_roots: Sequence[str]) -> ModelFiles:
    """Return the model at `path`: a GGUF file (any part of a split one), or a folder with one model.

    Raises:
        Unprocessable: there is none, it is not whole, or it lies outside of the model roots.
    """
    search = _Search(path, model_roots, "spec.model.path")
    try:
        return _model_in(search)
    except (OSError, ValueError, RuntimeError):  # a NUL in it, a loop of links, no permission
        raise search.refusal(f"'{path}' can't be read.") from None


def find_local_adapter(path: str, model_roots: Sequence[str]) -> Path:
    """Return the LoRA adapter at `path`: a GGUF file, or a folder with adapter_config.json and its weights.

    Raises:
        Unprocessable: there is none, or it lies outside of the model roots.
    """
    search = _Search(path, model_roots, "spec.adapters")
    try:
        return _adapter_in(search)
    except (OSError, ValueError, RuntimeError):
        raise search.refusal(f"'{path}' can't be read.") from None


class _Search:
    """One path, the roots it must lie under, and how a refusal tells it."""

    def __init__(self, path: str, model_roots: Sequence[str], param: str) -> None:
        self._path = path
        self._param = param
        self._model_roots = model_roots
        self._roots: list[Path] = []

    def start(self) -> Path:
        """Return the file or folder that the path leads to.

        Raises:
            Unprocessable: it is none, or lies outside of the roots.
        """
        self._roots = [Path(root).resolve() for root in self._model_roots]
        if not self._roots:
            raise Unprocessable(
                "This platform reads no model files: no model roots are set.",
                next_step="Restart it with --model-roots DIR (MOORING_MODEL_ROOTS): the folder of your models.",
                param=self._param,
            )
        if not Path(self._path).is_absolute():
            raise self.refusal(f"'{self._path}' is not an absolute path.")
        real = Path(self._path).resolve()
        if not self._is_inside(real):
            raise self.refusal(f"'{self._path}' lies outside of the model roots ({self._told()}).")
        if not real.exists():
            raise self.refusal(f"'{self._path}' does not exist on the machine where the platform runs.")
        return real

    def file(self, path: Path) -> Path:
        """Return the file that `path` leads to.

        Raises:
            Unprocessable: it is none, or lies outside of the roots.
        """
        target = self.followed(path)
        if not target.is_file():
            raise self.refusal(f"'{path}' leads to no file.")
        return target

    def followed(self, path: Path) -> Path:
        """Return the file or folder that `path` leads to.

        Raises:
            Unprocessable: it lies outside of the roots.
        """
        target = path.resolve()
        if not self._is_inside(target):
            raise self.refusal(f"'{self._path}' leads out of the model roots ({self._told()}).")
        return target

    def refusal(self, message: str) -> Unprocessable:
        """Return the refusal; its next step tells how to open another folder."""
        return Unprocessable(
            message,
            next_step="Name a file under a model root, or restart with its folder in --model-roots"
            " (MOORING_MODEL_ROOTS).",
            param=self._param,
        )

    def _is_inside(self, real: Path) -> bool:
        return any(real.is_relative_to(root) for root in self._roots)

    def _told(self) -> str:
        return ", ".join(str(root) for root in self._roots)


def _model_in(search: _Search) -> ModelFiles:
    real = search.start()
    if real.is_file():
        return _gguf_file(search, real)
    models = weight_files(path.name for path in real.glob("*.gguf"))
    if len(models) == 1:
        return _gguf(search, real, models[0])
    if not models and (real / "config.json").exists():
        return _safetensors(search, real)
    raise search.refusal(
        f"'{real}' must be a .gguf file, a folder with exactly one, or a folder with config.json and *.safetensors;"
        f" it holds {len(models)} GGUF models" + (f": {', '.join(m.parts[0] for m in models)}." if models else ".")
    )


def _gguf_file(search: _Search, real: Path) -> ModelFiles:
    if real.suffix != ".gguf":
        raise search.refusal(f"'{real}' must be a .gguf file or a folder with exactly one; it holds 0.")
    beside = weight_files(path.name for path in real.parent.glob("*.gguf"))
    return _gguf(search, real.parent, next(model for model in beside if real.name in model.parts))


def _gguf(search: _Search, folder: Path, model: WeightFile) -> ModelFiles:
    _refuse_missing(search, model)
    targets = [search.file(folder / part) for part in model.parts]
    # The parts of a split model find each other by their names, which their targets need not have.
    path = targets[0] if len(targets) == 1 else folder / model.parts[0]
    return ModelFiles("gguf", path, _size(targets))


def _safetensors(search: _Search, folder: Path) -> ModelFiles:
    weights = weight_files(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        raise search.refusal(f"'{folder}' holds config.json, but no *.safetensors.")
    for model in weights:
        _refuse_missing(search, model)
    search.file(folder / "config.json")
    for path in (*folder.glob("*"), *folder.glob("*/*")):  # whatever an engine may read here
        search.followed(path)
    return ModelFiles("safetensors", folder, _size([folder / part for model in weights for part in model.parts]))


def _refuse_missing(search: _Search, model: WeightFile) -> None:
    if model.missing:
        raise search.refusal(f"{model.missing} part(s) of '{model.name}' are missing beside '{model.parts[0]}'.")


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _adapter_in(search: _Search) -> Path:
    real = search.start()
    if real.is_file():
        if real.suffix != ".gguf":
            raise search.refusal(f"'{real}' must be a .gguf file or a folder with {' and '.join(_ADAPTER)}.")
        return real
    if all((real / name).exists() for name in _ADAPTER):
        for name in _ADAPTER:
            search.file(real / name)
        return real
    found = sorted(real.glob("*.gguf"))
    if len(found) != 1:
        raise search.refusal(
            f"'{real}' must hold {' and '.join(_ADAPTER)}, or exactly one .gguf file; it holds {len(found)}."
        )
    return search.file(found[0])
