"""Floor 3: placements. Where replicas run: `local` starts them as processes of this machine."""

from __future__ import annotations

import importlib
from types import ModuleType

from mooring.core.errors import Invalid

REGISTRY: dict[str, str] = {"local": "mooring.placements.local"}


def load_placement(name: str) -> ModuleType:
    """Return the module of a placement.

    Raises:
        Invalid: there is no placement of this name; the next step lists those there are.
    """
    path = REGISTRY.get(name)
    if path is None:
        raise Invalid(f"There is no placement '{name}'.", next_step=f"Use one of: {', '.join(sorted(REGISTRY))}.")
    return importlib.import_module(path)
