"""The banner: wait until the platform answers, make one real call, say where everything is. A child that then ends.

Its last line is exactly `Mooring is ready: <base_url>`; scripts wait for it. No secret is ever printed: the curl
shown reads the key from admin.json.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import ssl
import sys
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mooring import __version__
from mooring.core.parent import die_with_parent
from mooring.settings import Settings, load

GREETING = "你好"
_LOOK_EVERY_S = 0.1
_MODEL_PATIENCE_S = 120.0  # for the first answer of the demo model
_COLUMNS = 80
_FAILURES = (OSError, http.client.HTTPException, ValueError)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the banner says."""

    base_url: str
    admin_file: str  # shell-quoted path of admin.json; "" if there is none
    username: str = ""
    has_password: bool = False
    has_key: bool = False
    endpoint_id: str = ""
    console: bool = False
    answer: str = ""  # of the demo model, or ""
    trouble: str = ""  # why there is no answer, or ""
    unverified_tls: bool = False


def render(facts: Facts) -> str:
    """Return the banner as plain text, at most 80 columns wide but for paths and ids that are longer."""
    lines = [f"Mooring {__version__}", ""]
    if facts.console:
        lines.append(f"  Console    {facts.base_url}/")
    lines.append(f"  API        {facts.base_url}/v1")
    if facts.admin_file:
        secrets = " and ".join(["password"] * facts.has_password + ["API key"] * facts.has_key)
        if secrets:
            lines.append(f"  Sign in    as {facts.username or 'admin'}; {secrets}: see {facts.admin_file}")
    if facts.endpoint_id:
        lines += [f"  Endpoint   {facts.endpoint_id}", "", "  Try it:", *_curl(facts)]
    if facts.answer:
        lines += ["", "  " + _cut(f"It just answered: {GREETING} → {facts.answer}", _COLUMNS - 2)]
    elif facts.trouble:
        lines += ["", f"  The demo model does not answer yet: {facts.trouble}"]
    return "\n".join([*lines, "", f"Mooring is ready: {facts.base_url}"])


def _curl(facts: Facts) -> list[str]:
    key = "<your API key>"
    if facts.has_key:
        key = f'$(sed -n \'s/.*"api_key": *"\\([^"]*\\)".*/\\1/p\' {facts.admin_file})'
    option = "-k " if facts.unverified_tls else ""
    return [
        f"    KEY={key}",
        f"    curl {option}{facts.base_url}/v1/chat/completions \\",
        '      -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\',
        f'      -d \'{{"model": "{facts.endpoint_id}",',
        f'           "messages": [{{"role": "user", "content": "{GREETING}"}}]}}\'',
    ]


def _cut(text: str, columns: int) -> str:
    """Return one line of at most `columns` columns; a Chinese character takes two."""
    width, kept = 0, ""
    for character in " ".join(text.split()):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > columns:
            return kept[:-1] + "…"
        kept += character
    return kept


# --- asking -----------------------------------------------------------------------------------------------


def _call(
    base_url: str, method: str, path: str, body: Any = None, key: str = "", timeout_s: float = 5.0
) -> tuple[int, bytes]:
    """Return `(status, body)`. Does not use proxies; a certificate is not verified, it is our own gateway.

    Raises:
        OSError, http.client.HTTPException: no answer.
    """
    url = urlsplit(base_url)
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=timeout_s)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _status(base_url: str, path: str) -> int:
    try:
        return _call(base_url, "GET", path)[0]
    except _FAILURES:
        return 0


def _wait_until_serving(settings: Settings) -> None:
    """Wait as long as it takes: the supervisor ends this process if the platform can't start."""
    while not (settings.run_dir / "control.ready").exists() or _status(settings.base_url, "/health") != 200:
        time.sleep(_LOOK_EVERY_S)


def _greet(base_url: str, endpoint_id: str, key: str) -> tuple[str, str]:
    """Return `(answer, "")` of the demo model, or `("", reason)` if it has not answered in time."""
    body = {
        "model": endpoint_id,
        "messages": [{"role": "user", "content": GREETING}],
        "temperature": 0,
        "max_tokens": 256,
    }
    deadline = time.monotonic() + _MODEL_PATIENCE_S
    reason = ""
    while (left := deadline - time.monotonic()) > 0:
        try:
            status, data = _call(base_url, "POST", "/v1/chat/completions", body, key, timeout_s=left)
            if status == 200:
                return str(json.loads(data)["choices"][0]["message"]["content"] or ""), ""
            reason = f"HTTP {status}"
            if status < 500 and status != 404:  # 404: its endpoint is on its way to the gateway
                break
        except (*_FAILURES, LookupError, TypeError) as error:
            reason = str(error) or type(error).__name__
        time.sleep(_LOOK_EVERY_S)
    return "", reason


def _read_admin(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)


def gather(settings: Settings) -> Facts:
    """Look at the running platform and return what there is to say. Makes one chat call if there is a demo endpoint."""
    path = settings.data_dir / "admin.json"
    admin = _read_admin(path)
    key, endpoint_id = str(admin.get("api_key") or ""), str(admin.get("endpoint_id") or "")
    answer, trouble = "", ""
    if settings.demo and endpoint_id and key:
        answer, trouble = _greet(settings.base_url, endpoint_id, key)
    return Facts(
        base_url=settings.base_url,
        admin_file=_shown(path) if admin else "",
        username=str(admin.get("username") or ""),
        has_password=bool(admin.get("password")),
        has_key=bool(key),
        endpoint_id=endpoint_id,
        console=0 < _status(settings.base_url, "/") < 400,
        answer=answer,
        trouble=trouble,
        unverified_tls=settings.tls == "self-signed",
    )


def main() -> None:
    """Wait, ask, print."""
    settings = load()
    if settings.supervisor_pid:
        die_with_parent(settings.supervisor_pid)
    _wait_until_serving(settings)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    print(render(gather(settings)), flush=True)


if __name__ == "__main__":
    main()
