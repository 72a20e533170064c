"""Floor 3: engines. One file per inference server: its recipe, its allowed arguments, how it is asked, what it can do.

An engine module offers `CAPABILITIES`, `probe(address, key)`, and, if we start it, `check_args`, `launch_plan` and
`last_error`. It is imported when it is first used, so that nobody needs the libraries of an engine not chosen.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from mooring.core.errors import Invalid

REGISTRY: dict[str, str] = {
    "llamacpp": "mooring.engines.llamacpp",
    "external": "mooring.engines.external",
}


def load_engine(name: str) -> ModuleType:
    """Return the module of an engine.

    Raises:
        Invalid: there is no engine of this name; the next step lists those there are.
    """
    path = REGISTRY.get(name)
    if path is None:
        raise Invalid(
            f"There is no engine '{name}'.", next_step=f"Use one of: {', '.join(sorted(REGISTRY))}.", param="engine"
        )
    return importlib.import_module(path)
