"""Waiting until services are healthy, with the state told as it changes."""

from __future__ import annotations

import time

from mooring.cli.client import Client, Json
from mooring.cli.kinds import API, find_kind
from mooring.cli.output import say
from mooring.cli.problems import CommandError

READY = frozenset({"healthy", "stopped", "sleeping"})
PAUSE_S = 0.5
SERVICE_KINDS = ("ModelService", "ExternalService")


def wait_for_services(client: Client, items: list[Json], timeout_s: float) -> list[Json]:
    """Return the items with their services as they are once all are ready.

    Raises:
        CommandError: one failed, or they were not ready within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    told: dict[str, str] = {}
    result = list(items)
    waiting = [number for number, item in enumerate(items) if item["kind"] in SERVICE_KINDS]
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


def _read(client: Client, item: Json) -> Json:
    return client.get(f"{API}/{find_kind(item['kind']).collection}/{item['id']}")


def _is_ready(item: Json, told: dict[str, str]) -> bool:
    name, status = item["metadata"]["name"], item["status"]
    line = f"{name}: {status['state']}" + (f" ({status['reason']})" if status.get("reason") else "")
    if told.get(name) != line:
        told[name] = line
        say(line)
    if status["state"] == "failed":
        raise CommandError(
            f"{name} failed: {status.get('reason') or 'no reason was given'}",
            f"See: mooring services logs {name}",
        )
    return status["state"] in READY


def _late(item: Json, timeout_s: float) -> str:
    return f"{item['metadata']['name']} is still {item['status']['state']} after {timeout_s:g} s."
