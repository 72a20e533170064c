"""The engine process: llama.cpp's own HTTP server on one Unix socket, one process per replica.

Run as `python -m mooring.engines.llamacpp_server --model FILE --alias NAME --socket PATH [--lora FILE]… [flags…]`: the
flags are llama-server's (`llamacpp_flags`), and each adapter waits with scale 0 for a request that names it. The
replica's key is in MOORING_ENGINE_KEY, because arguments are visible to every user of the machine. The only module
that imports xllamacpp. It ends at SIGTERM at once: who stops it has drained it before.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mooring.core.machine import NO_AVX2, has_avx2
from mooring.engines.flags import FlagError
from mooring.engines.llamacpp_flags import Member, read_flags

KEY_VARIABLE = "MOORING_ENGINE_KEY"
EX_USAGE, EX_UNAVAILABLE = 64, 69  # as in sysexits.h


def configure(target: Any, values: dict[str, Any], enumerations: Any) -> None:
    """Set each dotted attribute of `target`; a `Member` is looked up in `enumerations`."""
    for dotted, value in values.items():
        *path, last = dotted.split(".")
        owner = target
        for name in path:
            owner = getattr(owner, name)
        if isinstance(value, Member):
            value = getattr(getattr(enumerations, value.enumeration), value.name)
        setattr(owner, last, value)


def _read_command(argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(prog="mooring-engine", allow_abbrev=False)
    for name in ("--model", "--alias", "--socket"):
        parser.add_argument(name, required=True)
    parser.add_argument("--lora", action="append", default=[])
    known, rest = parser.parse_known_args(argv)
    return known, read_flags(rest)


def _parameters(engine: Any, known: argparse.Namespace, values: dict[str, Any], key: str) -> Any:
    parameters = engine.CommonParams()
    parameters.model.path = known.model
    parameters.hostnames = [known.socket]
    parameters.model_alias = {known.alias}
    parameters.api_keys = [key]
    parameters.cors_origins = ""  # the default lets every web page in
    parameters.ui = False
    parameters.fit_params = False  # what was asked for is done or fails; it also loads every model twice
    parameters.offline = True  # never downloads
    parameters.endpoint_metrics = True
    parameters.sse_ping_interval = 1  # an abandoned stream is noticed at the next ping
    parameters.lora_adapters = [engine.CommonAdapterLoraInfo(path, 0.0) for path in known.lora]
    configure(parameters, values, engine)
    return parameters


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT. Return 64 for wrong arguments, 69 if the CPU or the model can't be used."""
    try:
        known, values = _read_command(argv)
    except FlagError as error:
        print(f"error: {error}", file=sys.stderr)
        return EX_USAGE
    key = os.environ.pop(KEY_VARIABLE, "")
    if not key:
        print(f"error: {KEY_VARIABLE} is not set", file=sys.stderr)
        return EX_USAGE
    if not has_avx2():  # without this question the import below would end in SIGILL
        print(f"error: {NO_AVX2}", file=sys.stderr)
        return EX_UNAVAILABLE
    if not Path(known.model).is_file():
        print(f"error: the model file {known.model} does not exist", file=sys.stderr)
        return EX_UNAVAILABLE
    Path(known.socket).unlink(missing_ok=True)
    os.umask(0o077)
    return _serve(known, values, key)


def _serve(known: argparse.Namespace, values: dict[str, Any], key: str) -> int:
    import xllamacpp

    engine: Any = xllamacpp  # a compiled module without types
    try:
        server = engine.Server(_parameters(engine, known, values, key))
    except RuntimeError as error:  # every load error is this one line; llama.cpp has written the cause above it
        print(f"error: the engine could not load the model: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
