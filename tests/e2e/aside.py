"""Packages that no test environment should have, in a folder beside it: for scripts that need other versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def folder_for(config: pytest.Config, otherwise: Path, *requirements: str) -> Path:
    """Return where these packages are kept between runs, or a place in `otherwise` when pytest keeps no cache.

    Other versions, and another Python, have another place.
    """
    cache = getattr(config, "cache", None)
    root = cache.mkdir("mooring-aside") if cache else otherwise
    return root / "+".join([str(sys.implementation.cache_tag), *requirements])


def install(folder: Path, *requirements: str) -> str:
    """Install wheels into `folder` once, to be put on PYTHONPATH; return "" or why that was not possible.

    The folder appears whole or not at all, so that two runs at once, or one that is cut off, spoil nothing.
    """
    if folder.is_dir():
        return ""
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    options = ["--quiet", "--only-binary", ":all:", "--target", str(draft)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--timeout", "15", "--retries", "1"]
    uv = shutil.which("uv")
    installer = [uv, "pip", "install", "--python", sys.executable] if uv else pip
    done = subprocess.run([*installer, *options, *requirements], capture_output=True, text=True, check=False)
    try:
        if done.returncode != 0:
            reason = (done.stderr.strip() or "no output").splitlines()[-1]
            return f"{', '.join(requirements)} could not be installed: {reason}"
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another run was quicker
                raise
        return ""
    finally:
        shutil.rmtree(draft, ignore_errors=True)
