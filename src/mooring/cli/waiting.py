"""Waiting until services run what was asked for, with their progress told meanwhile."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from typing import Literal

from mooring.cli.client import Client, Json
from mooring.cli.kinds import API, find_kind, object_path
from mooring.cli.output import say
from mooring.cli.problems import CommandError, NotFoundError
from mooring.cli.progress import Display, Meter, display, standing_of

PAUSE_S = 0.5
SETTLE_S = 1.0  # right after an update the state still tells of what ran before
AWAY_S = 60.0  # how long the platform may be away, such as for its own restart
SERVICE_KINDS = ("ModelService", "ExternalService")
GONE_FOR_NOW = (0, 502, 503, 504)  # no answer, or the gateway's for a control process that restarts
Verdict = Literal["ready", "waiting", "failed"]

_FAILED = re.compile(r"(^|[.:] )Failed\b")
_RETRIED = re.compile(r"Starting again in \d")
_COUNT = re.compile(r"\d+ of \d+ replicas are ready\.")


class NotReadyError(CommandError):
    """A service does not run what was ordered.

    Attributes:
        serving: whether what ran before keeps serving.
    """

    def __init__(self, message: str, next_step: str, *, serving: bool) -> None:
        super().__init__(message, next_step)
        self.serving = serving


class Left(KeyboardInterrupt):
    """Ctrl-C, and the user has been told what goes on."""


def wait_for_services(client: Client, items: list[Json], timeout_s: float) -> list[Json]:
    """Return the items with their services as they are once all run what their specs ask for.

    Args:
        timeout_s: how long to wait; time in which a download brings bytes does not count.

    Raises:
        NotReadyError: one failed or was rolled back, or they were not ready in time.
        CommandError: the platform refuses, or stays away.
        Left: the user has left with Ctrl-C; that the services go on has been said.
    """
    waiting = [number for number, item in enumerate(items) if item["kind"] in SERVICE_KINDS]
    wait = _Wait(client, items, timeout_s)
    try:
        if any(items[number].get("action") in ("updated", "started") for number in waiting):
            time.sleep(min(SETTLE_S, timeout_s))
        with display() as shown:
            while waiting := [number for number in waiting if not wait.is_ready(number, shown)]:
                wait.check_patience(waiting[0])
                time.sleep(PAUSE_S)
    except KeyboardInterrupt:
        say(left([items[number]["metadata"]["name"] for number in waiting]))
        raise Left from None
    return wait.items


def judge(service: Json, version: int = 0) -> Verdict:
    """Return whether a service runs what its spec asks for, comes to it, or has given up.

    Args:
        version: the `specVersion` that was ordered; if it was rolled back, the service has failed whatever it runs.
    """
    spec, status = service["spec"], service["status"]
    state, reason = status["state"], _reason(service)
    if unfit(service) or state == "failed" or _FAILED.search(reason) or _is_rolled_back(service, version):
        return "failed"
    if service["kind"] == "ExternalService":
        return "ready" if state == "healthy" else "waiting"
    wanted = 0 if spec.get("stopped") else spec.get("replicas", 1)
    if wanted == 0 or state == "sleeping":
        return "ready" if state in ("stopped", "sleeping") else "waiting"
    return "ready" if state == "healthy" and status.get("currentReplicas", 0) >= wanted else "waiting"


def rolled_back(service: Json) -> Json:
    """Return `version`, `reason` and `at` of the version that did not come up and was rolled back; {} if none."""
    return (service["status"].get("detail") or {}).get("rolledBack") or {}


def unfit(service: Json) -> str:
    """Return why the machine can never hold what a service asks for; "" if it can."""
    return str((service["status"].get("detail") or {}).get("unfit") or "")


def has_trouble(service: Json) -> bool:
    """Whether somebody should look at a service: it failed, does not answer or fit, or keeps failing at an update."""
    state, reason = service["status"]["state"], _reason(service)
    if unfit(service) or state in ("failed", "unhealthy") or _FAILED.search(reason) or _RETRIED.search(reason):
        return True
    return state == "updating" and bool(_COUNT.sub("", reason).strip())


def _reason(service: Json) -> str:
    """Return the reason of the present state; that an earlier version was rolled back is none of it."""
    status = service["status"]
    told_of_before = status["state"] == "healthy" and rolled_back(service)
    return "" if told_of_before else status.get("reason") or ""


class _Wait:
    """What one waiting knows: the services as last seen, their meters and its patience."""

    def __init__(self, client: Client, items: list[Json], timeout_s: float) -> None:
        self.items = list(items)
        self._client = client
        self._versions = [int(item.get("status", {}).get("specVersion") or 0) for item in items]
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._away_since: float | None = None
        self._meters: dict[int, Meter] = defaultdict(Meter)

    def is_ready(self, number: int, shown: Display) -> bool:
        """Look at a service and show it; raises NotReadyError if it failed."""
        if not self._read(number):
            return False
        item = self.items[number]
        standing, meter = standing_of(item), self._meters[number]
        if meter.advance(standing):
            self._deadline = max(self._deadline, time.monotonic() + self._timeout_s)
        verdict = judge(item, self._versions[number])
        if verdict != "failed":
            shown.show(standing, meter)
            return verdict == "ready"
        raise failure(item, self._versions[number], started=engine_started(self._client, item))

    def check_patience(self, number: int) -> None:
        """Raise NotReadyError if `number` has been waited for too long."""
        if time.monotonic() > self._deadline:
            item = self.items[number]
            told = _late(item, self._timeout_s)
            raise NotReadyError(told, "Look at: mooring services list", serving=_serves(item))

    def _read(self, number: int) -> bool:
        """Read a service anew; return False if the platform is away at the moment."""
        item = self.items[number]
        try:
            found = self._client.get(f"{API}/{find_kind(item['kind']).collection}/{item['id']}")
        except CommandError as error:
            now = time.monotonic()
            if error.answered not in GONE_FOR_NOW or (self._away_since is not None and now - self._away_since > AWAY_S):
                raise
            self._away_since = self._away_since or now
            return False
        self._away_since = None
        self.items[number] = {**item, **found}
        return True


def failure(item: Json, version: int = 0, *, started: bool) -> NotReadyError:
    """Return why a service failed and where to look.

    Args:
        version: the `specVersion` that was ordered.
        started: whether an engine of it has started, so that there is a log.
    """
    name = item["metadata"]["name"]
    if _is_rolled_back(item, version):
        return NotReadyError(
            f"{name} failed: version {version} did not come up and was rolled back: {rolled_back(item).get('reason')}",
            f"The version before runs again. See: mooring services events {name}, mooring services logs {name}",
            serving=True,
        )
    reason = unfit(item) or item["status"].get("reason") or "no reason was given"
    return NotReadyError(f"{name} failed: {reason}", where_to_look(item, started=started), serving=_serves(item))


def where_to_look(item: Json, *, started: bool) -> str:
    """Return the command that shows more about a service in trouble: an engine's log, or what happened to it."""
    return f"See: mooring services {'logs' if started else 'events'} {item['metadata']['name']}"


def engine_started(client: Client, item: Json) -> bool:
    """Whether a service has an engine of its own that has written, or may have written, a log."""
    if item["kind"] != "ModelService":
        return False
    if (item["status"].get("progress") or {}).get("phase") == "loading":
        return True
    try:
        return bool(client.get(f"{object_path(find_kind('ModelService'), item['id'])}/replicas")["items"])
    except NotFoundError:  # deleted meanwhile
        return False


def _is_rolled_back(item: Json, version: int) -> bool:
    return version > 0 and rolled_back(item).get("version") == version


def _serves(item: Json) -> bool:
    return item["status"].get("readyReplicas", 0) > 0


def _late(item: Json, timeout_s: float) -> str:
    status = item["status"]
    reason = f" ({status['reason']})" if status.get("reason") else ""
    ready = " not up to date" if status["state"] == "healthy" else f" still {status['state']}"
    return f"{item['metadata']['name']} is{ready} after {timeout_s:g} s{reason}."


def left(names: list[str]) -> str:
    """Return what is said to a user who leaves the waiting with Ctrl-C."""
    if not names:
        return ""
    told, goes = ", ".join(names), "goes" if len(names) == 1 else "go"
    return (
        f"\nYou have left the waiting; {told} {goes} on.\n"
        f"Watch: mooring services events -f {names[0]}\n"
        f"Remove: mooring services delete {names[0]} --with-endpoints"
    )
