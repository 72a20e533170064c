"""Several choices from llama.cpp: one call per choice, so that usage is exact; and the one answer made of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from mooring.gateway.quirks.checks import is_list_of_prompts


def split_request(body: bytes) -> Iterator[bytes]:
    """Yield one request body per prompt and choice (n = 1 each), in the order of the choices' indexes."""
    members: dict[str, Any] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    count: int = msgspec.json.decode(members.pop("n", b"1")) or 1
    prompt: Any = msgspec.json.decode(members["prompt"]) if "prompt" in members else None
    prompts: list[Any] = prompt if is_list_of_prompts(prompt) else [prompt]
    seed: Any = msgspec.json.decode(members["seed"]) if "seed" in members else None
    for one in prompts:
        for index in range(count):
            own = dict(members)
            if one is not None:
                own["prompt"] = one
            if isinstance(seed, int) and seed >= 0:
                own["seed"] = seed + index  # else all choices would be the same
            yield msgspec.json.encode(own)


def join_answers(answers: list[bytes], choices_per_prompt: int) -> bytes:
    """Return one answer that holds the choices of all, with usage summed; a prompt counts once for its choices."""
    read: list[dict[str, Any]] = [msgspec.json.decode(answer) for answer in answers]
    whole = read[0]
    usage: dict[str, Any] = {**whole["usage"], "prompt_tokens": 0, "completion_tokens": 0}
    choices: list[dict[str, Any]] = []
    for number, answer in enumerate(read):
        choices += [{**choice, "index": number} for choice in answer["choices"]]
        usage["completion_tokens"] += answer["usage"]["completion_tokens"]
        if number % choices_per_prompt == 0:
            usage["prompt_tokens"] += answer["usage"]["prompt_tokens"]
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    whole["choices"], whole["usage"] = choices, usage
    return msgspec.json.encode(whole)
