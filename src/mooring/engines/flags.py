"""What reading a service's `args` has in common for all engines: how a flag is refused, and how its value is found.

Each engine has a list of its own (`llamacpp_flags`, `vllm_flags`). Standard library only: an engine process reads
flags too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FlagError(ValueError):
    """A flag's value is missing or can't be used; the text names the flag."""


class UnknownFlag(FlagError):
    """A flag is not on the list.

    Attributes:
        next_step: the list; only here it helps.
    """

    def __init__(self, word: str, taken: Iterable[str]) -> None:
        names = sorted(taken)
        near = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
        meant = f" (did you mean {near[0]}?)" if near else ""
        super().__init__(f"the flag '{word}' is not among those taken here{meant}")
        self.next_step = f"Allowed flags: {', '.join(names)}."


def next_step(error: FlagError) -> str:
    """Return what to do about a refused flag."""
    return error.next_step if isinstance(error, UnknownFlag) else "Correct this argument and send it again."


def next_value(name: str, rest: list[str]) -> str:
    """Take the value of flag `name` from the words that follow it.

    Raises:
        FlagError: no value follows.
    """
    if not rest or rest[0].startswith("--"):
        raise FlagError(f"{name} needs a value")
    return rest.pop(0)
