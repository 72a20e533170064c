"""admin.json in the data directory: the one place where a secret of the installation can be read.

{base_url, username, password, api_key, endpoint_id}; 0600; the password leaves it at the first change.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import cast

FILE = "admin.json"
AdminFile = dict[str, str]


def read(data_dir: Path) -> AdminFile | None:
    """Return the content, or None when there is no readable admin.json."""
    try:
        content: object = json.loads((data_dir / FILE).read_text())
    except (OSError, ValueError):
        return None
    return cast("AdminFile", content) if isinstance(content, dict) else None


def write(data_dir: Path, content: AdminFile) -> None:
    """Replace admin.json, whole or not at all.

    Raises:
        OSError: the data directory can't be written.
    """
    path = data_dir / FILE
    draft = path.with_name(f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def update_base_url(data_dir: Path, base_url: str) -> None:
    """Note where the platform answers now; nothing else changes."""
    content = read(data_dir)
    if content is not None and content.get("base_url") != base_url:
        write(data_dir, content | {"base_url": base_url})


def forget_password(data_dir: Path, username: str) -> None:
    """Take the password out when it is this user's."""
    content = read(data_dir)
    if content is not None and content.get("username") == username and content.pop("password", None) is not None:
        write(data_dir, content)


def seal(data_dir: Path) -> bool:
    """Take the password out; return whether there was one."""
    content = read(data_dir)
    if content is None or content.pop("password", None) is None:
        return False
    write(data_dir, content)
    return True
