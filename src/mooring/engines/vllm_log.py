"""What vLLM writes on its standard error, read for people: why it failed, and how far its start is.

Several processes write there; each line of the log begins with its process, and a failure is told several times: first
its cause, by the process it happened in, last that the engine could not be started.
"""

from __future__ import annotations

import re

_SPEAKER = re.compile(r"^(?:\x1b\[[0-9;]*m)?\([\w-]+ pid=\d+\)(?:\x1b\[[0-9;]*m)? ")
_STAMP = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?")
_FAILURE = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Exit|NotFound))(?:: (.*)|$)")
_REFUSAL = re.compile(r"^(?:[\w.-]+: )?error: (.*)")
_NO_CAUSE = re.compile(
    r"Engine core initialization failed|See root cause|EngineDeadError|WorkerProc initialization failed"
    r"|EngineCore encountered|cancelled|^CancelledError|^SystemExit"
)
_PLAIN_NAMES = frozenset({"ValueError", "RuntimeError", "ValidationError"})
_MOST_CHARACTERS = 400


def last_error(stderr: str) -> str:
    """Return the last cause vLLM told, in one line of at most 400 characters.

    Empty if it said nothing (as when the system killed it for want of memory).
    """
    lines = [_plain(line) for line in stderr.splitlines()]
    for index in range(len(lines) - 1, -1, -1):
        told = _told(lines, index)
        if told and not _NO_CAUSE.search(told):
            return told if len(told) <= _MOST_CHARACTERS else told[: _MOST_CHARACTERS - 1] + "…"
    return ""


def _plain(line: str) -> str:
    return _STAMP.sub("", _SPEAKER.sub("", line)).rstrip()


def _told(lines: list[str], index: int) -> str:
    """Return the failure that stands in a line, "" if none does."""
    refused = _REFUSAL.match(lines[index])
    if refused:
        return refused[1]
    failure = _FAILURE.match(lines[index])
    if failure is None:
        return ""
    name, text = failure[1], failure[2] or ""
    if name == "ValidationError" and index + 1 < len(lines):  # pydantic: the sentence is in the next line
        text = lines[index + 1].strip().removeprefix("Value error, ").partition(" [type=")[0]
    return text if name in _PLAIN_NAMES and text else f"{name}: {text}".removesuffix(": ")


_STEPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(Loading \S+ checkpoint shards):.*?\| *(\d+/\d+)"), r"\1 \2"),
    (re.compile(r"(Capturing CUDA graphs)[^:]*: +(\d+)%"), r"\1 \2 %"),
    (re.compile(r"Warming up model for the compilation|Dynamo bytecode|Compiling a graph|AOT compiled"), "Compiling"),
    (re.compile(r"Starting vLLM server|Application startup complete"), "Loaded"),
    (re.compile(r"KV cache size|init engine|Warming up done|Graph capturing finished"), "Setting up the KV cache"),
    (re.compile(r"Loading weights took|Model loading took"), "Weights loaded"),
    (re.compile(r"Starting to load model"), "Loading the weights"),
    (re.compile(r"Initializing a V1 LLM engine"), "Starting the engine"),
    (re.compile(r"non-default args|Resolved architecture"), "Reading the configuration"),
)


def progress(stderr: str) -> str:
    """Return the last thing vLLM wrote about its start, for people; "" if it wrote nothing about it."""
    for line in reversed(re.split(r"[\r\n]+", stderr)):
        for pattern, told in _STEPS:
            match = pattern.search(line)
            if match:
                return match.expand(told)
    return ""
