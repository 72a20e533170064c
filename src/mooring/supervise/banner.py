"""The banner: wait until the platform answers, say where everything is. A child that then ends.

After the first start it waits for the demo model too and makes one real call; a later start waits for no model. Only
states are polled, never calls made: a call that fails would stand in the usage.

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
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mooring import __version__
from mooring.core.parent import die_with_parent
from mooring.settings import Settings, load

GREETING = "你好"
_LOOK_EVERY_S = 0.1
_MODEL_PATIENCE_S = 120.0  # for the demo model to load, and then for its first answer
_RESTART_PATIENCE_S = 20.0  # an operator who restarts wants the platform back, with or without the demo
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
    trouble: str = ""  # a sentence on why there is no answer, or ""
    dead: bool = False  # calls to the demo endpoint can't work: show none
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
    if facts.endpoint_id and not facts.dead:
        lines += [f"  Endpoint   {facts.endpoint_id}", "", "  Try it:", *_curl(facts)]
    if facts.answer:
        lines += ["", "  " + _cut(f"It just answered: {GREETING} → {facts.answer}", _COLUMNS - 2)]
    elif facts.trouble:
        lines += ["", f"  {_cut(facts.trouble, _COLUMNS - 2)}"]
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


@dataclass(frozen=True, slots=True)
class Demo:
    """What is known of the demo endpoint.

    Attributes:
        state: that of an endpoint; "" when it could not be read.
        trouble: the sentence to say about it, or "".
        dead: calls to it can't work before somebody does something.
        new: it was made by this start.
    """

    state: str = ""
    trouble: str = ""
    dead: bool = False
    new: bool = False


def judge_demo(status: int, body: Any, begun: float) -> Demo:
    """Return what GET of the demo endpoint tells; `begun`, in Unix seconds, is when this start began."""
    if status == 404:
        return Demo(trouble="The demo endpoint was deleted.", dead=True)
    if status in (401, 403):
        return Demo(trouble="The key in admin.json is not valid any more; see: mooring admin reset", dead=True)
    try:
        state, reason = str(body["status"]["state"]), str(body["status"].get("reason") or "")
        made = datetime.fromisoformat(str(body["metadata"]["createdAt"])).timestamp()
    except (LookupError, TypeError, ValueError, AttributeError):
        return Demo(trouble=f"The demo endpoint's state is unknown (HTTP {status}).")
    new = made >= begun - 1.0
    if state == "Stopped":
        return Demo(state, "The demo endpoint is stopped.", dead=True, new=new)
    if state == "Abnormal":
        trouble = f"The demo endpoint can't answer: {reason or 'its service does not run'}"
        return Demo(state, trouble, dead=True, new=new)
    if state == "Scheduling":
        return Demo(state, "The demo model is being started.", new=new)
    return Demo(state, new=new)


def _look_at_demo(base_url: str, endpoint_id: str, key: str, begun: float) -> Demo:
    try:
        status, data = _call(base_url, "GET", f"/manage/v1/endpoints/{endpoint_id}", key=key)
        return judge_demo(status, json.loads(data), begun)
    except _FAILURES:
        return judge_demo(0, None, begun)


def _gateway_knows(base_url: str, endpoint_id: str, key: str) -> bool:
    """Return whether the gateway has heard that the demo endpoint can be called."""
    try:
        _, data = _call(base_url, "GET", "/v1/models", key=key)
        return any(model["id"] == endpoint_id and model["state"] == "healthy" for model in json.loads(data)["data"])
    except (*_FAILURES, LookupError, TypeError):
        return False


def _try_demo(base_url: str, endpoint_id: str, key: str, begun: float) -> tuple[str, Demo]:
    """Return `(answer, what is known)`. Wait for the model, longer at the first start, and make one call."""
    demo = _look_at_demo(base_url, endpoint_id, key, begun)
    deadline = time.monotonic() + (_MODEL_PATIENCE_S if demo.new else _RESTART_PATIENCE_S)
    while not demo.dead and time.monotonic() < deadline:
        if demo.state == "Healthy" and _gateway_knows(base_url, endpoint_id, key):
            return _greet(base_url, endpoint_id, key, demo)
        time.sleep(_LOOK_EVERY_S)
        demo = _look_at_demo(base_url, endpoint_id, key, begun)
    return "", demo


def _greet(base_url: str, endpoint_id: str, key: str, demo: Demo) -> tuple[str, Demo]:
    """Make the one call."""
    body = {
        "model": endpoint_id,
        "messages": [{"role": "user", "content": GREETING}],
        "temperature": 0,
        "max_tokens": 256,
    }
    try:
        status, data = _call(base_url, "POST", "/v1/chat/completions", body, key, timeout_s=_MODEL_PATIENCE_S)
        if status == 200:
            return str(json.loads(data)["choices"][0]["message"]["content"] or ""), demo
        reason = f"HTTP {status}"
    except (*_FAILURES, LookupError, TypeError) as error:
        reason = str(error) or type(error).__name__
    return "", replace(demo, trouble=f"The demo model does not answer yet: {reason}")


def _read_admin(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)


def gather(settings: Settings, begun: float) -> Facts:
    """Look at the running platform, whose start began at `begun` (Unix seconds), and return what there is to say."""
    path = settings.data_dir / "admin.json"
    admin = _read_admin(path)
    key, endpoint_id = str(admin.get("api_key") or ""), str(admin.get("endpoint_id") or "")
    answer, demo = "", Demo()
    if endpoint_id and key:
        answer, demo = _try_demo(settings.base_url, endpoint_id, key, begun)
    return Facts(
        base_url=settings.base_url,
        admin_file=_shown(path) if admin else "",
        username=str(admin.get("username") or ""),
        has_password=bool(admin.get("password")),
        has_key=bool(key),
        endpoint_id=endpoint_id,
        console=0 < _status(settings.base_url, "/") < 400,
        answer=answer,
        trouble=demo.trouble,
        dead=demo.dead,
        unverified_tls=settings.tls == "self-signed",
    )


def main() -> None:
    """Wait, ask, print."""
    begun = time.time()
    settings = load()
    if settings.supervisor_pid:
        die_with_parent(settings.supervisor_pid)
    _wait_until_serving(settings)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    print(render(gather(settings, begun)), flush=True)


if __name__ == "__main__":
    main()
