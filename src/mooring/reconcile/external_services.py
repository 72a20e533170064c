"""The states of services that run elsewhere: they are only asked, never started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mooring.core.external_services import ExternalService
from mooring.engines import external
from mooring.reconcile.plan import MISSES, Health
from mooring.reconcile.probing import Watch, external_pace


@dataclass(frozen=True, slots=True)
class Verdict:
    """State of an external service; `urls` holds `{url: {"state": "ready" | "starting" | "unreachable", "reason"}}`."""

    state: str
    reason: str
    urls: dict[str, dict[str, str]]


def watch_name(service_id: str, url: str) -> str:
    """Return the name under which the prober keeps the health of one URL."""
    return f"{service_id} {url}"


def watches(service: ExternalService, key: str) -> dict[str, Watch]:
    """Return whom to ask for this service; `key` is its upstream key in plain text, or ""."""
    return {
        watch_name(service.id, url): Watch((url, key), lambda url=url: external.probe(url, key), external_pace)
        for url in service.spec.urls
    }


def judge(service: ExternalService, health: Mapping[str, Health]) -> Verdict:
    """Return the service's state from what its URLs answered, and what is known from before where none has yet."""
    known: dict[str, Any] = service.status.detail.get("urls", {})
    urls = {
        url: _judge_url(known.get(url, {}), health.get(watch_name(service.id, url), Health()))
        for url in service.spec.urls
    }
    states = {found["state"] for found in urls.values()}
    troubles = [f"{url}: {found['reason']}" for url, found in urls.items() if found["state"] == "unreachable"]
    if "ready" in states:
        notes = troubles or [found["reason"] for found in urls.values() if found["reason"].startswith("The service")]
        return Verdict("healthy", " ".join(notes), urls)
    if "starting" in states:
        return Verdict("starting", "Waits for the first answer.", urls)
    return Verdict("unhealthy", " ".join(troubles), urls)


def _judge_url(known: Mapping[str, str], health: Health) -> dict[str, str]:
    probe = health.probe
    if probe is None:
        return {"state": known.get("state", "starting"), "reason": known.get("reason", "")}
    if probe.state in ("ready", "stranger"):  # it answers; a refused key is the operator's to repair, and is told
        return {"state": "ready", "reason": probe.reason}
    if known.get("state") == "ready" and health.misses < MISSES:
        return dict(known)
    return {"state": "unreachable", "reason": probe.reason or "does not answer"}
