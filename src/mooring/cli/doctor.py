"""`mooring doctor`: looks at this machine and the running platform, and says for each fault what to do."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mooring.cli.problems import CommandError, RefusedKeyError
from mooring.cli.session import DataDir, Format, Key, OutputFormat, Url, connect

DISK_MIB = 512  # below this the journal and the database are in danger
OPEN_FILES = 4096
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Check:
    """One thing looked at. `next_step` is "" when it is fine."""

    name: str
    fine: bool
    found: str
    next_step: str = ""


def doctor(url: Url = "", key: Key = "", data_dir: DataDir = None, output: OutputFormat = Format.table) -> None:
    """Check this machine and the platform; exit status 1 if something is wrong.

    Example: [bold]mooring doctor[/bold]
    """
    folder = data_dir or Path(".mooring")
    checks = [*check_machine(folder), *check_platform(url, key, folder)]
    if output is Format.table:
        for check in checks:
            print(f"{'ok  ' if check.fine else 'BAD '} {check.name}: {check.found}")
            if not check.fine:
                print(f"     {check.next_step}")
    else:
        from mooring.cli.output import print_data

        print_data({"items": [asdict(check) for check in checks]}, output)
    if not all(check.fine for check in checks):
        sys.exit(1)


def check_machine(data_dir: Path, cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Check]:
    """Yield what this machine offers: Python, processor, disk, open files, data directory."""
    version = sys.version_info
    yield Check("Python", version >= (3, 11), platform.python_version(), "Mooring needs Python 3.11 or newer.")
    yield check_processor(cpuinfo)
    existing = next(folder for folder in (data_dir.absolute(), *data_dir.absolute().parents) if folder.exists())
    yield Check(
        "Data directory",
        os.access(existing, os.W_OK),
        str(data_dir) if existing == data_dir.absolute() else f"{data_dir} (does not exist yet)",
        f"{existing} can't be written; choose another folder with --data-dir.",
    )
    free = shutil.disk_usage(existing).free >> 20
    yield Check("Disk", free >= DISK_MIB, f"{free} MiB free", f"Free at least {DISK_MIB} MiB.")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    yield Check(
        "Open files",
        hard == resource.RLIM_INFINITY or hard >= OPEN_FILES,
        "unlimited" if hard == resource.RLIM_INFINITY else f"{hard} allowed",
        f"Raise the hard limit (ulimit -Hn) to {OPEN_FILES} or more; each open stream takes two.",
    )


def check_processor(cpuinfo: Path) -> Check:
    """Return whether the embedded engine can run here: on x86-64 it is built for AVX2."""
    machine = platform.machine()
    if machine not in ("x86_64", "AMD64"):
        return Check("Processor", True, machine)
    try:
        flags = cpuinfo.read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return Check("Processor", True, f"{machine}, features unknown")
    advice = "The embedded engine needs AVX2; register services that run elsewhere instead."
    return Check("Processor", "avx2" in flags, f"{machine}{', AVX2' if 'avx2' in flags else ' without AVX2'}", advice)


def check_platform(url: str, key: str, data_dir: Path) -> Iterator[Check]:
    """Yield what the running platform says of itself: gateway, management, services."""
    from mooring.cli.kinds import API
    from mooring.cli.waiting import has_trouble

    try:
        client = connect(url, key, data_dir, Format.table).client
        client.timeout_s = TIMEOUT_S
        client.text("/health")
        yield Check("Gateway", True, f"answers at {client.base_url}")
        services = client.items(f"{API}/services") + client.items(f"{API}/external-services")
        yield Check("Management API", True, f"{len(services)} services")
    except RefusedKeyError as error:
        advice = f"Give another with --key. Is it lost? mooring admin reset --data-dir {data_dir}"
        yield Check("Management API", False, error.message, advice)
        return
    except CommandError as error:
        yield Check("Platform", False, error.message, error.next_step)
        return
    for service in services:
        name, status = service["metadata"]["name"], service["status"]
        reason = f": {status['reason']}" if status.get("reason") else ""
        shown = "logs" if service["kind"] == "ModelService" else "events"
        advice = f"See: mooring services {shown} {name}"
        yield Check(f"Service {name}", not has_trouble(service), status["state"] + reason, advice)
