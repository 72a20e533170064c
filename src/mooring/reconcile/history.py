"""What people read as a service's events: made from the difference between two plans."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from mooring.core.replicas import Replica
from mooring.store.events import Event, Level


def service_event(
    service_id: str, at: datetime, before: tuple[str, str], after: tuple[str, str], told: Iterable[Event] = ()
) -> list[Event]:
    """Return the event of a service whose `(state, reason)` went from `before` to `after`.

    A reason that one of the events `told` gives already is not given again.
    """
    if before[0] == after[0]:
        return []
    level: Level = "error" if after[0] == "failed" else "warning" if after[0] == "unhealthy" else "info"
    why = "" if any(after[1] in event.message for event in told) else after[1]
    what = "The service failed" if after[0] == "failed" else f"The service is {after[0]}"
    why = why.removeprefix("Failed") if after[0] == "failed" else f": {why}" if why else ""
    message = f"{what}{why if why.startswith((' ', '.', ':')) else f': {why}'}" if why else f"{what}."
    return [Event(service_id, "", at, level, after[0].capitalize(), message)]


def adoption(replica: Replica, at: datetime, pid: int | None) -> Event:
    """Return the event of an engine that ran on while nobody looked after it."""
    process = f" (process {pid})" if pid else ""
    message = f"Replica {replica.id}: its engine{process} kept running and was taken over."
    return Event(replica.service_id, replica.id, at, "info", "Adopted", message)


def replica_events(service_id: str, at: datetime, before: Iterable[Replica], after: Iterable[Replica]) -> list[Event]:
    """Return the events of the replicas that changed their state."""
    old = {replica.id: replica for replica in before}
    made: list[Event] = []
    for replica in after:
        known = old.pop(replica.id, None)
        if known is None or known.state != replica.state:
            made += _told(service_id, at, known, replica)
    for replica in old.values():
        made.append(Event(service_id, replica.id, at, "info", "Gone", f"Replica {replica.id} is gone."))
    return made


def _told(service_id: str, at: datetime, known: Replica | None, replica: Replica) -> list[Event]:
    def event(level: Level, reason: str, message: str) -> list[Event]:
        return [Event(service_id, replica.id, at, level, reason, f"Replica {replica.id}: {message}")]

    if replica.state == "starting":
        if known is not None and known.state == "ready":
            return event("warning", "Silent", replica.reason)
        return event("info", "Starting", f"The engine starts{_again(replica)}.")
    if replica.state == "ready":
        took_s = (replica.ready_at or 0) - (replica.started_at or 0)
        return event("info", "Ready", f"The engine is ready after {max(took_s, 0):.1f} s.")
    if replica.state == "pending":
        return event("warning", "Exited", replica.reason) if known is not None else []
    if replica.state == "failed":
        return event("error", "Failed", replica.reason)
    return event("info", "Draining", replica.reason)


def _again(replica: Replica) -> str:
    if not replica.restarts:
        return ""
    nth = {1: "", 2: " for the 2nd time", 3: " for the 3rd time"}
    return " again" + nth.get(replica.restarts, f" for the {replica.restarts}th time")
