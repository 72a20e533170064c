"""Floor 3: engines. One file per inference server: its recipe, its allowed arguments, how it is asked, what it can do.

An engine module offers `CAPABILITIES`, the kinds of call it knows, and `probe(address, key)`. If we start it, also:

    check_args(args, env, *, administrator=True)   refuse what a service may not give to this engine
    launch_plan(request, place) -> LaunchPlan      what to execute for one replica
    capabilities(request) -> frozenset[str]        the kinds of call such a replica answers
    memory_need(request) -> MemoryNeed             what it will take, estimated
    in_flight(address, key) -> int | None          requests under way, None when it does not tell (never raises)
    last_error(stderr) -> str                      why it ended, "" if it did not say
    progress(stderr) -> str                        how far its start is, "" if it did not say

`launch_plan`, `capabilities` and `memory_need` may read headers of the model's files: they are called in a thread, and
raise Invalid for what can't be and Unavailable for what is not there now. `tests/contract/engines/` holds every engine
to this. A module is imported when it is first used, so that nobody needs the libraries of an engine not chosen.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from mooring.core.errors import Invalid

REGISTRY: dict[str, str] = {
    "llamacpp": "mooring.engines.llamacpp",
    "vllm": "mooring.engines.vllm",
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
