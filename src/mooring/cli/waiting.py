"""Waiting until services run what was asked for, with the state told as it changes."""

from __future__ import annotations

import re
import time
from typing import Literal

from mooring.cli.client import Client, Json
from mooring.cli.kinds import API, find_kind
from mooring.cli.output import say
from mooring.cli.problems import CommandError

PAUSE_S = 0.5
SETTLE_S = 1.0  # right after an update the state still tells of what ran before
SERVICE_KINDS = ("ModelService", "ExternalService")
Verdict = Literal["ready", "waiting", "failed"]

_FAILED = re.compile(r"(^|[.:] )Failed\b")
_RETRIED = re.compile(r"Starting again in \d")
_COUNT = re.compile(r"\d+ of \d+ replicas are ready\.")


def wait_for_services(client: Client, items: list[Json], timeout_s: float) -> list[Json]:
    """Return the items with their services as they are once all run what their specs ask for.

    Raises:
        CommandError: one failed, or they were not ready within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    told: dict[str, str] = {}
    result = list(items)
    waiting = [number for number, item in enumerate(items) if item["kind"] in SERVICE_KINDS]
    if any(items[number].get("action") == "updated" for number in waiting):
        time.sleep(min(SETTLE_S, timeout_s))
    while waiting:
        for number in list(waiting):
            result[number] = {**result[number], **_read(client, result[number])}
            if _is_ready(result[number], told):
                waiting.remove(number)
        if waiting:
            if time.monotonic() > deadline:
                raise CommandError(_late(result[waiting[0]], timeout_s), "Look at: mooring services list")
            time.sleep(PAUSE_S)
    return result


def judge(service: Json) -> Verdict:
    """Return whether a service runs what its spec asks for, comes to it, or has given up."""
    spec, status = service["spec"], service["status"]
    state, reason = status["state"], status.get("reason") or ""
    if state == "failed" or _FAILED.search(reason):
        return "failed"
    if service["kind"] == "ExternalService":
        return "ready" if state == "healthy" else "waiting"
    wanted = 0 if spec.get("stopped") else spec.get("replicas", 1)
    if wanted == 0 or state == "sleeping":
        return "ready" if state in ("stopped", "sleeping") else "waiting"
    return "ready" if state == "healthy" and status.get("currentReplicas", 0) >= wanted else "waiting"


def has_trouble(service: Json) -> bool:
    """Whether somebody should look at a service: it failed, does not answer, or keeps failing at an update."""
    state, reason = service["status"]["state"], service["status"].get("reason") or ""
    if state in ("failed", "unhealthy") or _FAILED.search(reason) or _RETRIED.search(reason):
        return True
    return state == "updating" and bool(_COUNT.sub("", reason).strip())


def _read(client: Client, item: Json) -> Json:
    return client.get(f"{API}/{find_kind(item['kind']).collection}/{item['id']}")


def _is_ready(item: Json, told: dict[str, str]) -> bool:
    name, status = item["metadata"]["name"], item["status"]
    line = f"{name}: {status['state']}" + (f" ({status['reason']})" if status.get("reason") else "")
    if told.get(name) != line:
        told[name] = line
        say(line)
    verdict = judge(item)
    if verdict == "failed":
        shown = "logs" if item["kind"] == "ModelService" else "events"
        raise CommandError(
            f"{name} failed: {status.get('reason') or 'no reason was given'}", f"See: mooring services {shown} {name}"
        )
    return verdict == "ready"


def _late(item: Json, timeout_s: float) -> str:
    status = item["status"]
    reason = f" ({status['reason']})" if status.get("reason") else ""
    ready = " not up to date" if status["state"] == "healthy" else f" still {status['state']}"
    return f"{item['metadata']['name']} is{ready} after {timeout_s:g} s{reason}."
