"""Throw broken streams at the normaliser: `python -m tools.fuzz_normaliser --seconds 60 --seed 1`.

Takes a healthy stream apart, breaks its JSON, its events and its bytes, and cuts it at random. Whatever comes: no
exception, whole events with JSON in them, the same bytes however they were cut, and little kept in memory.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

from mooring.core.repairs import USAGE_ABSENT
from mooring.gateway.streams.lines import MAX_LINE
from mooring.gateway.streams.normalise import NormalisingRelay
from mooring.gateway.streams.repairs import Shape
from mooring.gateway.streams.usage import Usage
from mooring.gateway.streams.whole import Joiner, begins_stream, read_answer, streamed

Change = Callable[[random.Random, bytes], bytes]
_VALUES: list[Any] = [
    None, True, 0, -1, 7, 1.5, 2**70, "", "x", "你好", "\ud83d", [], {}, [None], ["x"], [{}], {"x": 1}, float("nan"),
    {"error": "x"}, [{"index": 0, "function": {"arguments": {}}}], {"prompt_tokens": 1}, {"content": "x"},
]  # fmt: skip
_NAMES = [
    "id", "object", "created", "model", "choices", "usage", "index", "delta", "message", "text", "content", "role",
    "reasoning", "reasoning_content", "tool_calls", "function", "arguments", "name", "type", "finish_reason", "error",
]  # fmt: skip
_PIECES = [
    b"\n", b"\r", b"\r\n", b"\n\n", b"data:", b"data: ", b"data: [DONE]\n\n", b"[DONE]\n", b": x\n", b"event: error\n",
    b"id: 1\n", b"{", b"}", b'"', b"\\", b"[", b"]", b",", b"\xef\xbb\xbf", b"\xff", b"\xe4\xbd", b"\x00",
    b'{"error":{"message":"x"}}\n\n', b"<html>\n", b"data: {}\n\n", b"NaN", b"null",
]  # fmt: skip


def healthy_chunks(chance: random.Random) -> list[dict[str, Any]]:
    """Return the chunks of a stream as OpenAI sends it."""
    says: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    says += [{chance.choice(["content", "reasoning"]): chance.choice(["a", "你", "\n", 'q"'])} for _ in range(4)]
    says.append({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]})
    chunks: list[dict[str, Any]] = [
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": chance.randrange(2), "delta": delta, "finish_reason": None}],
        }
        for delta in says
    ]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return [*chunks, {**chunks[0], "choices": [], "usage": usage}]


def break_value(chance: random.Random, value: Any) -> Any:
    """Return a JSON value with one part of it replaced, renamed, added or taken away."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        broken: dict[str, Any] = dict(value)
        name = chance.choice(list(broken))
        ways = chance.random()
        if ways < 0.6:
            broken[name] = break_value(chance, broken[name])
        elif ways < 0.75:
            del broken[name]
        elif ways < 0.9:
            broken[chance.choice(_NAMES)] = broken.pop(name)
        else:
            broken[chance.choice(_NAMES)] = chance.choice(_VALUES)
        return broken
    if isinstance(value, list) and value and chance.random() < 0.85:
        place = chance.randrange(len(value))
        return [*value[:place], break_value(chance, value[place]), *value[place + 1 :]]
    return chance.choice(_VALUES)


def write(chance: random.Random, chunk: Any) -> bytes:
    """Return one chunk in one of the layouts that services use, or nearly."""
    indent = 1 if chance.random() < 0.1 else None
    text = json.dumps(chunk, ensure_ascii=chance.random() < 0.5, indent=indent).encode(errors="surrogatepass")
    mark = chance.choice([b"data: "] * 6 + [b"data:", b"", b"event: m\ndata: "])
    return mark + text + chance.choice([b"\n\n"] * 6 + [b"\n", b"\r\n\r\n", b"\r", b""])


def broken_stream(chance: random.Random) -> bytes:
    """Return a stream with a few things wrong."""
    chunks: list[Any] = healthy_chunks(chance)
    for _ in range(chance.choice([0, 1, 1, 2, 4, 8])):
        place = chance.randrange(len(chunks))
        chunks[place] = break_value(chance, chunks[place])
    plain = chance.random() < 0.4
    pieces = [b"data: %b\n\n" % json.dumps(one).encode() if plain else write(chance, one) for one in chunks]
    data = bytearray(b"".join(pieces) + chance.choice([b"data: [DONE]\n\n", b""]))
    for _ in range(chance.choice([0, 0, 1, 2, 6])):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.choice([0, 0, 1, 30])] = chance.choice(_PIECES)
    return bytes(data)


def check(data: bytes, chance: random.Random) -> None:
    """Raise AssertionError, or whatever the code raises, if a stream is not handled as it must be."""
    operation = chance.choice(["chat", "chat", "completion"])
    known = frozenset({USAGE_ABSENT}) if chance.random() < 0.3 else frozenset[str]()
    shape = Shape(operation, chance.random() < 0.5, "m", "r", 1, 3, known)
    clean = chance.random() < 0.5
    cuts = sorted(chance.choices(range(len(data) + 1), k=chance.choice([1, 5, 50])))
    whole, cut = relayed(data, [], shape, clean), relayed(data, cuts, shape, clean)
    assert whole == cut, "other bytes when cut"
    events = whole.split(b"\n\n")
    assert events.pop() == b"", "half an event"
    for event in events:
        if not event.startswith(b":"):
            assert event.startswith(b"data: {") or event == b"data: [DONE]", event
            assert b"\n" not in event, event
            assert b"\r" not in event, event
            if event != b"data: [DONE]":
                json.loads(event[6:].decode())
    assert whole.count(b"data: [DONE]\n\n") <= 1, "two ends"
    Joiner(shape).join(data)
    begins_stream(data)


def relayed(data: bytes, cuts: list[int], shape: Shape, clean: bool) -> bytes:
    """Return what leaves of a stream that comes in these pieces."""
    relay = NormalisingRelay(shape)
    out = [relay.feed(data[start:end]) for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    out.append(relay.end(clean))
    assert sum(map(len, out)) <= 8 * len(data) + MAX_LINE, "growth"
    if not relay.broken and relay.failed is None:
        told = relay.usage if relay.usage is not None else Usage(3, relay.events)
        out.append(relay.tail(told, estimated=relay.usage is None))
    return b"".join(out)


def check_whole(chance: random.Random) -> None:
    """Break a whole answer: what is read of it can be streamed."""
    answer: Any = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 1}}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "x", "reasoning": "y", "tool_calls": [call]}
    answer["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}, {"text": "x"}]
    for _ in range(chance.choice([0, 1, 2, 4, 8])):
        answer = break_value(chance, answer)
    shape = Shape(chance.choice(["chat", "completion"]), True, "m", "r", 1)
    whole = read_answer(json.dumps(answer).encode(), shape)
    if whole is not None and whole.failed is None and json.loads(whole.body)["choices"]:
        assert relayed(streamed(whole, shape).body, [], shape, True).endswith(b"data: [DONE]\n\n")


def fuzz(seconds: float, seed: int) -> int:
    """Check for that long; return how many streams. The seed of the one that fails is noted on its exception."""
    ends, count = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        chance = random.Random(f"{seed}/{count}")
        try:
            check(broken_stream(chance), chance)
            check_whole(chance)
        except Exception as error:
            error.add_note(f"stream {count} of seed {seed}: {broken_stream(random.Random(f'{seed}/{count}'))!r}")
            raise
        count += 1
    return count


def main() -> None:
    """Read the command line, fuzz, tell how far it came."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    print(f"{fuzz(told.seconds, told.seed)} streams, none mishandled.")


if __name__ == "__main__":
    main()
