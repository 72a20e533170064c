"""The page about engines names what the code takes."""

from __future__ import annotations

import re
from pathlib import Path

from mooring.engines import REGISTRY, llamacpp_flags, vllm_flags

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "engines.md"


def _section(title: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    return re.split(r"^#{2,3} ", text.partition(f"### {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_every_flag_of_each_engine_is_on_the_page_and_no_other() -> None:
    for title, flags in (("llama.cpp", llamacpp_flags.FLAGS), ("vLLM", vllm_flags.FLAGS)):
        flat = re.sub(r"\s+", " ", _section(title))
        named = set(re.findall(r"`(--[a-z0-9-]+)`", flat))
        assert named == set(flags), title


def test_every_engine_that_we_start_has_its_column() -> None:
    first = PAGE.read_text(encoding="utf-8").partition("|---")[0]
    assert {name for name in REGISTRY if name != "external"} <= set(re.findall(r"`([a-z]+)`", first))
