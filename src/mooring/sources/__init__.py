"""Floor 3: sources. Where models come from: shipped with us, on this machine, or on a hub (one file per hub).

A hub's module offers `list_files(order, token)`. Its library is imported only when that is called, which is in the
fetch process alone: control and its loops never load it.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from mooring.core.errors import Invalid

REGISTRY: dict[str, str] = {
    "huggingface": "mooring.sources.huggingface",
    "modelscope": "mooring.sources.modelscope",
}


def load_source(name: str) -> ModuleType:
    """Return the module of a hub.

    Raises:
        Invalid: there is no hub of this name; the next step lists those there are.
    """
    path = REGISTRY.get(name)
    if path is None:
        raise Invalid(
            f"There is no hub '{name}'.", next_step=f"Use one of: {', '.join(sorted(REGISTRY))}.", param="source"
        )
    return importlib.import_module(path)
