"""Every setting, with unit, default and reason. The only reader of the environment.

`load(**overrides)` builds the one frozen object; `environment(settings)` turns it back into MOORING_* variables
for the child processes, so that supervisor, control and gateways share one reading.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

PREFIX = "MOORING_"
# What a process that talks to the outside may need to know of the network; nothing else reaches it.
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_LOOPBACK = "127.0.0.1,localhost,::1"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one installation. Every field is also `MOORING_<FIELD>` (upper case)."""

    # --- starting
    data_dir: Path = Path(".mooring")  # everything that must survive lives here
    host: str = "127.0.0.1"  # public address; loopback until the operator decides otherwise
    port: int = 8080
    public_url: str = ""  # what callers outside use, where a proxy stands before us; empty: made of host and port
    internal_url: str = ""  # what callers inside the network or cluster use; empty: made of host and port
    gateway_workers: int = 1  # one core carries ~20k small requests/s; more only where cores are
    database_url: str = ""  # empty: SQLite in data_dir; postgresql://… otherwise
    tls: str = ""  # "" | "self-signed"
    tls_cert: str = ""
    tls_key: str = ""
    demo: bool = True  # create the demo service and endpoint at the first start
    model_roots: tuple[str, ...] = ()  # folders that `source: local` may read, separated by ':' in the environment
    model_cache: str = ""  # folder of the models from hubs; empty: models in data_dir. Installations may share it
    keys_per_account: int = 30  # API keys one user may hold; more are hard to keep track of
    log_level: str = "info"
    # --- the gateway's limits
    max_head_bytes: int = 65536  # request line and headers; nginx allows 32 KiB, keys and cookies fit
    max_body_bytes: int = 64 << 20  # long prompts with images as data URLs
    body_budget_bytes: int = 512 << 20  # all buffered request bodies of one worker together
    head_timeout_s: float = 10.0
    body_timeout_s: float = 60.0  # longest pause between two reads of a body
    idle_timeout_s: float = 300.0  # keep-alive without a request
    send_timeout_s: float = 60.0  # a client that reads nothing is aborted
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 590.0  # below the 600 s of the SDKs
    between_bytes_timeout_s: float = 300.0
    drain_s: float = 30.0  # how long running answers may take at a stop
    max_stale_s: float = 0.0  # refuse calls when control has been silent for longer; 0 = serve the last table on
    # --- usage
    segment_bytes: int = 4 << 20  # one preallocated journal segment
    slots: int = 16384  # in-flight requests a worker can account for
    # --- engines
    orphan_grace_s: float = 600.0  # engines end by themselves this long after the last supervisor
    engine_start_timeout_s: float = 600.0
    vllm_command: str = "vllm serve"  # how vLLM is started here; it is a program of its own, installed beside Mooring
    usage_retention_days: int = 90

    # --- set by the supervisor for its children, not by people
    supervisor_pid: int = 0
    listen_fd: int = -1  # the listening socket of this gateway worker
    worker_slot: int = 0  # cell of this gateway worker in the beat file: 0 … 2 × gateway_workers - 1

    @property
    def run_dir(self) -> Path:
        """Sockets live here. A Unix socket path may be 107 bytes long, so a deep data_dir uses the temp folder."""
        inside = self.data_dir.absolute() / "run"
        if len(os.fsencode(inside)) <= 60:
            return inside
        name = hashlib.blake2b(os.fsencode(self.data_dir.absolute()), digest_size=6).hexdigest()
        return Path(tempfile.gettempdir()) / f"mooring-{os.getuid()}-{name}"

    @property
    def vllm_program(self) -> tuple[str, ...]:
        """How vLLM is started, word by word; never empty. Raises ValueError where quotes do not match: see `load`."""
        return tuple(shlex.split(self.vllm_command)) or ("vllm", "serve")

    @property
    def journal_dir(self) -> Path:
        """Where the gateway workers journal usage."""
        return self.data_dir / "journal"

    @property
    def model_cache_dir(self) -> Path:
        """Where models from hubs lie."""
        return Path(self.model_cache) if self.model_cache else self.data_dir / "models"

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "https" if self.tls or self.tls_cert else "http"

    @property
    def base_url(self) -> str:
        """The URL a caller on this machine uses."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def api_url(self) -> str:
        """The URL that callers elsewhere are told."""
        return self.public_url.rstrip("/") or self.base_url

    @property
    def internal_api_url(self) -> str:
        """The URL that callers in the same network or cluster are told."""
        return self.internal_url.rstrip("/") or self.base_url


class SettingError(ValueError):
    """A setting has a value that can't be read; the text names the variable and what it takes."""


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Build the settings from MOORING_* and `overrides` (None = not given).

    Raises:
        SettingError: a value can't be read as its type.
    """
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for field in fields(Settings):
        text = source.get(PREFIX + field.name.upper())
        if text is not None and text != "":
            values[field.name] = _parse(field.name, str(field.type), text)
        given = overrides.pop(field.name, None)
        if given is not None:
            values[field.name] = given
    if overrides:
        raise SettingError(f"unknown settings: {', '.join(sorted(overrides))}")
    if "data_dir" in values:
        values["data_dir"] = Path(values["data_dir"])
    for name in ("public_url", "internal_url"):
        if not values.get(name, "http://").startswith(("http://", "https://")):
            raise SettingError(
                f"{PREFIX}{name.upper()}={values[name]!r}: expected a URL such as https://models.example.com"
            )
    settings = Settings(**values)
    try:
        _ = settings.vllm_program
    except ValueError as error:
        command = settings.vllm_command
        raise SettingError(f"--vllm-command ({PREFIX}VLLM_COMMAND)={command!r}: {error}") from None
    return settings


def environment(settings: Settings) -> dict[str, str]:
    """Return the MOORING_* variables from which `load` rebuilds `settings`."""
    result: dict[str, str] = {}
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if isinstance(value, bool):
            text = "1" if value else "0"
        elif isinstance(value, tuple):
            text = ":".join(value)
        else:
            text = str(value)
        result[PREFIX + field.name.upper()] = text
    return result


def network_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process that fetches: proxies and certificates, and none of our secrets.

    Loopback never goes through a proxy.
    """
    source = os.environ if environ is None else environ
    kept = {name: source[name] for name in source if name.upper() in _NETWORK and source[name]}
    direct = ",".join(filter(None, (kept.pop("no_proxy", ""), kept.pop("NO_PROXY", ""), _LOOPBACK)))
    return {"PATH": os.defpath, "LANG": "C.UTF-8", **kept, "NO_PROXY": direct, "no_proxy": direct}


def _parse(name: str, kind: str, text: str) -> Any:
    try:
        if kind == "bool":
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except (KeyError, ValueError):
        raise SettingError(f"{PREFIX}{name.upper()}={text!r}: expected a value of type {kind}") from None
    if kind.startswith("tuple"):
        return tuple(part for part in text.split(":") if part)
    return Path(text) if kind == "Path" else text
