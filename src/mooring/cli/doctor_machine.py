"""What `mooring doctor` looks at on this machine: processor, memory, disk, files and their rights, programs, hub."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shlex
import shutil
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mooring.cli.checks import Check, check
from mooring.cli.output import size

if TYPE_CHECKING:
    from mooring.settings import Settings

DISK_MIB = 512  # below this the journal and the database are in danger
MEMORY_MIB = 1024
OPEN_FILES = 4096
HUB_TIMEOUT_S = 3.0
PROGRAM_TIMEOUT_S = 10.0
STALE_S = 7 * 86400.0
PRIVATE = ("admin.json", "secret.key")


def check_machine(settings: Settings) -> Iterator[Check]:
    """Yield what this machine offers, and how the data directory stands."""
    fine = sys.version_info >= (3, 11)
    yield check("Python", fine, platform.python_version(), "Mooring needs Python 3.11 or newer.")
    yield check_processor(Path("/proc/cpuinfo"))
    yield check_memory(Path("/proc/meminfo"))
    yield from check_open_files()
    yield from check_data_dir(settings.data_dir)
    yield from check_disks(settings.data_dir, settings.model_cache_dir)
    yield from check_model_roots(settings.model_roots)
    yield from check_leftovers(settings.model_cache_dir, time.time())
    yield check_vllm(settings.vllm_command)
    yield check_gpus()


def check_processor(cpuinfo: Path) -> Check:
    """Return whether the embedded engine can run here: on x86-64 it is built for AVX2."""
    machine = platform.machine()
    cores = f"{os.cpu_count() or 1} cores"
    if machine not in ("x86_64", "AMD64"):
        return Check("Processor", "ok", f"{machine}, {cores}")
    try:
        flags = cpuinfo.read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return Check("Processor", "ok", f"{machine}, {cores}, features unknown")
    advice = "The embedded engine needs AVX2; register services that run elsewhere instead."
    has = "avx2" in flags
    return check("Processor", has, f"{machine}, {cores}, {'AVX2' if has else 'without AVX2'}", advice)


def check_memory(meminfo: Path) -> Check:
    """Return how much memory is free."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        total, free = (int(lines[name].split()[0]) >> 10 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return Check("Memory", "note", "unknown")
    found = f"{size(free << 20)} of {size(total << 20)} available"
    return check("Memory", free >= MEMORY_MIB, found, "Models need memory: end what is not needed.", otherwise="note")


def check_open_files() -> Iterator[Check]:
    """Yield how many files a process may have open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    unlimited = hard == resource.RLIM_INFINITY
    advice = f"Raise the hard limit (ulimit -Hn) to {OPEN_FILES} or more; each open stream takes two."
    found = "unlimited" if unlimited else f"{hard} allowed"
    yield check("Open files", unlimited or hard >= OPEN_FILES, found, advice)


def check_data_dir(data_dir: Path) -> Iterator[Check]:
    """Yield whether the data directory can be used, by us and by nobody else."""
    absolute = data_dir.absolute()
    if not absolute.exists():
        parent = next(folder for folder in absolute.parents if folder.exists())
        advice = f"{parent} can't be written; choose another folder with --data-dir."
        yield check("Data directory", os.access(parent, os.W_OK), f"{data_dir} (does not exist yet)", advice)
        return
    advice = "Run this as the user who runs the platform, or choose another folder with --data-dir."
    if not os.access(absolute, os.W_OK | os.X_OK):
        yield Check("Data directory", "BAD", f"{data_dir} can't be written", advice)
        return
    open_to_others = [path for path in (absolute, *(absolute / name for name in PRIVATE)) if _open_to_others(path)]
    if open_to_others:
        told = ", ".join(f"{path} ({stat.S_IMODE(path.stat().st_mode):o})" for path in open_to_others)
        advice = "Others on this machine may read it. " + "; ".join(f"chmod go= {path}" for path in open_to_others)
        yield Check("Data directory", "BAD", told, advice)
    else:
        yield Check("Data directory", "ok", f"{data_dir}, private")
    lost = (absolute / "mooring.db").exists() and not (absolute / "secret.key").exists()
    if lost:
        advice = "Keys and secrets can't be read without it: put it back, or restore a backup with: mooring restore"
        yield Check("Secret key", "BAD", f"{data_dir / 'secret.key'} is gone", advice)


def check_disks(data_dir: Path, model_cache: Path) -> Iterator[Check]:
    """Yield the free space for data, and for models where they lie on another disk."""
    data, cache = _existing(data_dir), _existing(model_cache)
    free = shutil.disk_usage(data).free >> 20
    yield check("Disk", free >= DISK_MIB, f"{size(free << 20)} free", f"Free at least {DISK_MIB} MiB at {data}.")
    if data.stat().st_dev != cache.stat().st_dev:
        free = shutil.disk_usage(cache).free >> 20
        advice = "Remove models that nothing uses: mooring cache prune"
        yield check("Disk of the models", free >= DISK_MIB, f"{size(free << 20)} free at {cache}", advice)


def check_model_roots(roots: tuple[str, ...]) -> Iterator[Check]:
    """Yield whether the folders with local models can be read, as far as this shell's environment names them."""
    for root in roots:
        fine = os.path.isdir(root) and os.access(root, os.R_OK | os.X_OK)
        advice = "Make it readable for the user who runs the platform, or take it out of --model-roots."
        yield check("Model root", fine, root if fine else f"{root} is no folder that can be read", advice)


def check_leftovers(model_cache: Path, now: float) -> Iterator[Check]:
    """Yield a note if fetches lie half done for days: they take room, and nobody goes on with them."""
    parts = [path for path in model_cache.glob("parts/*") if path.suffix != ".json" and path.is_file()]
    stale = [part.stat() for part in parts if now - part.stat().st_mtime > STALE_S]
    if stale:
        taken = size(sum(part.st_blocks * 512 for part in stale))
        found = f"{len(stale)} half fetched files older than a week take {taken}"
        yield Check("Model cache", "note", found, "Remove what nothing uses: mooring cache prune")


def check_vllm(command: str) -> Check:
    """Return whether the program for models in safetensors format is there; GGUF models don't need it."""
    program = (shlex.split(command) or [""])[0]
    found = shutil.which(program)
    if found:
        return Check("vLLM", "ok", found)
    advice = "Only models in safetensors format need it. Installed elsewhere? Name it in MOORING_VLLM_COMMAND."
    return Check("vLLM", "note", f"there is no program '{program}'", advice)


def check_gpus() -> Check:
    """Return the GPUs that the driver names; a machine without is fine."""
    if shutil.which("nvidia-smi") is None:
        return Check("GPUs", "ok", "none (there is no nvidia-smi)")
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("GPUs", "BAD", f"nvidia-smi does not answer: {error}", "Look at the driver: dmesg | grep -i nvrm")
    if done.returncode:
        told = (done.stdout + done.stderr).strip().splitlines() or [f"status {done.returncode}"]
        return Check("GPUs", "BAD", f"nvidia-smi fails: {told[0]}", "Install or reload the NVIDIA driver.")
    return Check("GPUs", "ok", "; ".join(done.stdout.strip().splitlines()) or "none")


def check_hub(url: str) -> Check:
    """Return whether the model hub answers; only a note, since nobody must fetch models."""
    from mooring.cli.client import is_loopback

    base = url.rstrip("/")
    handlers = [urllib.request.ProxyHandler({})] if is_loopback(base) else []
    try:
        request = urllib.request.Request(base, method="HEAD", headers={"User-Agent": "mooring-doctor"})
        with urllib.request.build_opener(*handlers).open(request, timeout=HUB_TIMEOUT_S):
            pass
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            return _no_hub(base, f"status {error.code}")
    except (OSError, ValueError) as error:
        return _no_hub(base, str(getattr(error, "reason", error)))
    return Check("Model hub", "ok", f"{base} answers")


def is_running(data_dir: Path) -> bool:
    """Whether a supervisor holds the data directory."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _no_hub(base: str, reason: str) -> Check:
    advice = "Models from hubs can't be fetched from here. Behind a proxy set HTTPS_PROXY, or name a mirror (--mirror)."
    return Check("Model hub", "note", f"{base} does not answer: {reason}", advice)


def _open_to_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def _existing(folder: Path) -> Path:
    absolute = folder.absolute()
    return next(parent for parent in (absolute, *absolute.parents) if parent.exists())
