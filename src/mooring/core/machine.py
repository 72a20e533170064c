"""What this machine's processor can do."""

from __future__ import annotations

NO_AVX2 = "This CPU has no AVX2: the embedded engine cannot run here."


def has_avx2(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Return whether the CPU can run the embedded engine's code. Where nothing is written about it, assume so."""
    try:
        with open(cpuinfo, errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), None)
    except OSError:
        return True
    return flags is None or "avx2" in flags.split()
