"""Models that ship with the platform."""

from __future__ import annotations

from pathlib import Path

import mooring
from mooring.core.errors import Unprocessable
from mooring.core.models import ModelFiles

MODELS = ("mooring-demo",)


def find_builtin(name: str) -> ModelFiles:
    """Return the files of a built-in model.

    Raises:
        Unprocessable: there is none of this name; the next step lists those there are.
    """
    if name not in MODELS:
        raise Unprocessable(
            f"There is no built-in model '{name}'.",
            next_step=f"Built in: {', '.join(MODELS)}.",
            param="spec.model.name",
        )
    path = Path(mooring.__file__).parent / "assets" / f"{name}.gguf"
    return ModelFiles("gguf", path, path.stat().st_size)
