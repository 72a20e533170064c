"""Names of weight files: which parts belong together, and which quantisation a GGUF file holds. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PART = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<format>gguf|safetensors)$", re.IGNORECASE)
_QUANTISATION = re.compile(
    r"(?<![a-z0-9])(?:iq[1-4]_(?:xxs|xs|s|m|nl)|q[2-8]_k(?:_(?:xxs|xs|xl|s|m|l))?|q[2-8]_[01]|tq[12]_0|mxfp4"
    r"|bf16|fp?16|fp?32)(?![a-z0-9])"
)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One set of weights: a file, or the parts of a split one in order. `missing` is how many parts are not there."""

    name: str  # without the part's number
    parts: tuple[str, ...]
    missing: int = 0


def weight_files(names: Iterable[str]) -> list[WeightFile]:
    """Return the sets of weights that `names` form, in the order of their names."""
    found: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for name in sorted(names):
        match = _PART.match(name)
        whole = f"{match['stem']}-of-{match['count']}.{match['format']}" if match else name
        found.setdefault(whole, {})[int(match["number"]) if match else 1] = name
        counts[whole] = int(match["count"]) if match else 1
    return [
        WeightFile(
            name,
            tuple(parts[number] for number in sorted(parts)),
            len(set(range(1, counts[name] + 1)) - set(parts)),
        )
        for name, parts in sorted(found.items())
    ]


def quantisation(path: str) -> str:
    """Return the quantisation that a GGUF file's name tells, such as `q4_k_m`; "" if it tells none.

    The file's own name counts before its folder's: parts often lie in a folder named after it.
    """
    for text in reversed(path.lower().removesuffix(".gguf").split("/")):
        if matches := _QUANTISATION.findall(text):
            return re.sub("^fp", "f", str(matches[-1]))
    return ""


def model_of(path: str) -> str:
    """Return a GGUF file's name without quantisation and part: files of one model in several sizes share it."""
    name = path.lower().rsplit("/", 1)[-1].removesuffix(".gguf")
    name = re.sub(r"-(?:\d{5}-)?of-\d{5}$", "", name)
    return re.sub(r"[-._]+", "-", _QUANTISATION.sub("", name)).strip("-")
