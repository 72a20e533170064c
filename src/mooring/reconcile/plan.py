"""What is to be done for one deployed service: decided here, without any I/O, from what is wanted and what is seen.

A replica is a seat: it keeps its id when its engine is started again.

pending ─start→ starting ─probe ready→ ready ─surplus or outdated→ draining ─stopped→ gone (its row goes)
   ↑               │  ↑────── silent ─────┘│
   └── back-off ───┴──── engine exited ────┘        too many exits in a row → failed, until the spec changes
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mooring.core.ids import new_id
from mooring.core.replicas import ObservedReplica, Probe, Replica

STEADY_S = 10.0  # ready for that long: earlier exits are forgotten, for the model itself is fit to run
LONGEST_BACKOFF_S = 60.0
MISSES = 3  # probes without an answer after which a ready replica gets no more requests
HUNG_S = 120.0  # a replica silent for that long is ended and started again
MOST_EXITS = 5  # in a row: a crash loop
MOST_FAILED_STARTS = 3  # in a row, by the engine's own refusal: what it was given is not usable
SURGE = 1  # replicas above the wanted number while a new version replaces the old one
NO_LIMIT = 1 << 30
NOTICE_S = 1.0  # a draining replica keeps running at least so long: gateways must hear of it first
STOP_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Hold:
    """Why no replica of the wanted version can be started now. `failed`: and never will, as things are."""

    reason: str
    state: Literal["pending", "downloading", "failed"] = "pending"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A service as its spec wants it."""

    id: str
    spec_version: int
    recipe: str
    replicas: int
    state: str = "pending"  # as last written
    hold: Hold | None = None
    surge: int = SURGE  # 0: the old replicas end first
    room: int = NO_LIMIT  # how many more replicas the machine has room for
    lack: str = ""  # what those beyond `room` wait for
    good: str = ""  # recipe of the last version that ran well


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes of a replica say. Times are Unix seconds."""

    probe: Probe | None = None  # the newest answer
    misses: int = 0  # probes in a row that were not answered with "ready"
    silent_since: float | None = None  # time of the first of them
    in_flight: int | None = None  # requests the engine is working on, if it can tell


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a replica could not be started, or what its engine said before it ended."""

    message: str
    final: bool = False  # trying again can't help


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything observed about the replicas, by replica id, at the time `now` (Unix seconds)."""

    now: float
    observed: Mapping[str, ObservedReplica] = field(default_factory=dict[str, ObservedReplica])
    health: Mapping[str, Health] = field(default_factory=dict[str, Health])
    failures: Mapping[str, Failure] = field(default_factory=dict[str, Failure])
    busy: frozenset[str] = frozenset()  # an action on it is under way: leave it alone


@dataclass(frozen=True, slots=True)
class Times:
    """How long things may take, in seconds."""

    drain_s: float = 30.0
    start_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Start:
    """Start an engine on this seat; what is left of an earlier one goes first."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the engine of this seat."""

    replica_id: str
    grace_s: float = STOP_GRACE_S


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete what a dead replica left behind."""

    replica_id: str


Action = Start | Stop | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows as they must stand before the actions run, the actions, and the service's state."""

    replicas: tuple[Replica, ...]
    actions: tuple[Action, ...]
    state: str
    reason: str
    due_at: float | None = None  # when the next decision falls without any news, Unix seconds
    steady: bool = False  # every wanted replica has been ready for long: this version runs well
    gave_up: str = ""  # why the wanted version must give way to the last good one


def plan_service(
    wanted: Wanted,
    replicas: Sequence[Replica],
    seen: Seen,
    times: Times,
    make_id: Callable[[], str] = lambda: new_id("rep"),
) -> Plan:
    """Decide what to do for one service."""
    draft = _Draft(wanted, seen, times)
    for replica in replicas:
        draft.advance(replica)
    draft.retire_unwanted()
    draft.fill_up(make_id)
    draft.start_due()
    rows = tuple(draft.rows.values())
    state, reason = describe(wanted, rows)
    steady = wanted.replicas > 0 and draft.steady_replicas() >= wanted.replicas
    return Plan(rows, tuple(draft.actions), state, reason, draft.due_at(), steady, gave_up(wanted, rows))


def gave_up(wanted: Wanted, rows: Sequence[Replica]) -> str:
    """Return why the wanted version is to be rolled back; "" while it may still come, or with nothing to go back to."""
    if not wanted.good or wanted.good == wanted.recipe or wanted.replicas == 0:
        return ""
    if wanted.hold is not None and wanted.hold.state == "failed":
        return wanted.hold.reason
    return next((row.reason for row in rows if row.state == "failed" and row.recipe == wanted.recipe), "")


def backoff_s(exits: int) -> float:
    """Return the seconds to wait after that many exits in a row: 1, 2, 4, … 60."""
    return min(LONGEST_BACKOFF_S, 2.0 ** min(exits - 1, 10))


class _Draft:
    """A plan in the making."""

    def __init__(self, wanted: Wanted, seen: Seen, times: Times) -> None:
        self.wanted = wanted
        self.seen = seen
        self.times = times
        self.rows: dict[str, Replica] = {}
        self.actions: list[Action] = []

    # --- each replica by itself

    def advance(self, replica: Replica) -> None:
        """Bring one row up to date with what is seen."""
        self.rows[replica.id] = replica
        if replica.id in self.seen.busy:
            return
        observed = self.seen.observed.get(replica.id)
        if replica.state == "draining":
            self._drain(replica, observed)
        elif observed is not None and observed.alive:
            self._follow(replica, observed)
        elif replica.state in ("starting", "ready"):
            self._exited(replica, observed)

    def _drain(self, replica: Replica, observed: ObservedReplica | None) -> None:
        if observed is None or not observed.alive:
            self._forget(replica.id)
            return
        until = replica.next_start_at or self.seen.now
        told = self.seen.now >= until - self.times.drain_s + NOTICE_S
        if self.seen.now >= until or (told and self._health(replica).in_flight == 0):
            self.actions.append(Stop(replica.id))

    def _follow(self, replica: Replica, observed: ObservedReplica) -> None:
        if replica.state == "failed":
            self.actions.append(Stop(replica.id))
            return
        now, health = self.seen.now, self._health(replica)
        row = replace(
            replica,
            state="starting" if replica.state == "pending" else replica.state,
            address=observed.address,
            engine_key=observed.key,
            served_model=observed.served_model,
            adapters=observed.adapters,
            slots=replica.slots or observed.slots,
            pid=observed.pid,
            next_start_at=None,
            started_at=replica.started_at if replica.started_at is not None else observed.started_at,
        )
        if health.probe is not None:
            row = _probed(row, health, health.probe, now)
        self.rows[replica.id] = row
        if row.state != "ready" and self._hopeless(row, health):
            self.actions.append(Stop(replica.id))

    def _hopeless(self, row: Replica, health: Health) -> bool:
        if health.probe is not None and health.probe.state == "stranger":
            return True
        if row.ready_at is None:
            return self.seen.now - (row.started_at or 0) > self.times.start_timeout_s
        return health.silent_since is not None and self.seen.now - health.silent_since > HUNG_S

    def _exited(self, replica: Replica, observed: ObservedReplica | None) -> None:
        now = self.seen.now
        steady = replica.ready_at is not None and now - replica.ready_at >= STEADY_S
        exits = 1 if steady else replica.restarts + 1
        failure = self.seen.failures.get(replica.id, Failure(""))
        status = observed.exit_status if observed is not None else None
        reason = _told(observed, failure.message)
        # A status of None: it just ended, and its shim has not written it down yet.
        said_no = observed is not None and (status is None or status > 0)
        too_slow = now - (replica.started_at or now) > self.times.start_timeout_s
        refused = replica.ready_at is None and (said_no or too_slow)
        row = replace(replica, restarts=exits, pid=None, address="", engine_key="", ready_at=None)
        if failure.final or exits >= (MOST_FAILED_STARTS if refused else MOST_EXITS):
            tries = "" if exits == 1 else f" {exits} times in a row"
            row = replace(row, state="failed", reason=f"Failed{tries}. {reason}", next_start_at=None)
        else:
            wait_s = backoff_s(exits)
            row = replace(
                row, state="pending", reason=f"{reason} Starting again in {wait_s:.0f} s.", next_start_at=now + wait_s
            )
        self.rows[replica.id] = row

    # --- all of them together

    def retire_unwanted(self) -> None:
        """Let go what is outdated or more than wanted, without taking away what still has to serve."""
        wanted = self.wanted
        for row in self._idle_rows():
            if row.state == "failed" and row.spec_version != wanted.spec_version:
                self._forget(row.id)
            elif row.recipe == wanted.recipe and row.spec_version != wanted.spec_version:
                self.rows[row.id] = replace(row, spec_version=wanted.spec_version)
        ready_new = sum(row.state == "ready" for row in self._current())
        outdated = [row for row in self._idle_rows() if row.recipe != wanted.recipe]
        for row in outdated:
            if row.state != "ready":
                self._retire(row)
        serving = [row for row in outdated if row.state == "ready"]
        in_place = not wanted.surge and wanted.hold is None and wanted.room > 0
        needed = 0 if in_place else max(0, wanted.replicas - ready_new)
        for row in serving[: max(0, len(serving) - needed)]:
            self._retire(row)
        surplus = len(self._current()) - wanted.replicas
        for row in sorted(self._current(), key=_worth)[: max(0, surplus)]:
            if row.id not in self.seen.busy:
                self._retire(row)

    def fill_up(self, make_id: Callable[[], str]) -> None:
        """Add seats for the replicas that are missing."""
        wanted = self.wanted
        if wanted.hold is not None:
            return
        missing = wanted.replicas - len(self._current())
        room = wanted.replicas + wanted.surge - len(self.rows)
        for _ in range(min(missing, room)):
            row = Replica(make_id(), wanted.id, wanted.spec_version, wanted.recipe)
            self.rows[row.id] = row

    def start_due(self) -> None:
        """Start the engines of the seats whose time has come."""
        wanted, now = self.wanted, self.seen.now
        if wanted.hold is not None:
            return
        seats = (
            wanted.replicas + wanted.surge - sum(row.state not in ("pending", "failed") for row in self.rows.values())
        )
        due = [row for row in self._idle_rows() if row.state == "pending" and (row.next_start_at or now) <= now]
        startable = max(0, min(seats, wanted.room))
        for row in due[startable:]:
            if seats > wanted.room:
                self.rows[row.id] = replace(row, reason=wanted.lack, next_start_at=None)
        for row in due[:startable]:
            self.rows[row.id] = replace(
                row, state="starting", reason="", next_start_at=None, started_at=now, ready_at=None, slots=0
            )
            self.actions.append(Start(row.id))

    def due_at(self) -> float | None:
        """Return when a back-off or a drain ends next."""
        times = [row.next_start_at for row in self.rows.values() if row.next_start_at is not None]
        return min(times, default=None)

    def steady_replicas(self) -> int:
        """Count the replicas of the wanted version that have been ready for long."""
        ready = (row for row in self._current() if row.state == "ready" and row.ready_at is not None)
        return sum(self.seen.now - row.ready_at >= STEADY_S for row in ready if row.ready_at is not None)

    def _idle_rows(self) -> list[Replica]:
        return [row for row in self.rows.values() if row.id not in self.seen.busy and row.state != "draining"]

    def _current(self) -> list[Replica]:
        return [row for row in self.rows.values() if row.state != "draining" and row.recipe == self.wanted.recipe]

    def _retire(self, row: Replica) -> None:
        observed = self.seen.observed.get(row.id)
        if observed is None or not observed.alive:
            self._forget(row.id)
            return
        until = self.seen.now + (self.times.drain_s if row.state == "ready" else 0.0)
        self.rows[row.id] = replace(row, state="draining", reason="Finishes its requests.", next_start_at=until)
        if row.state != "ready":
            self._act(Stop(row.id))

    def _forget(self, replica_id: str) -> None:
        del self.rows[replica_id]
        if replica_id in self.seen.observed:
            self._act(Remove(replica_id))

    def _act(self, action: Action) -> None:
        self.actions = [known for known in self.actions if known.replica_id != action.replica_id]
        self.actions.append(action)

    def _health(self, replica: Replica) -> Health:
        return self.seen.health.get(replica.id, Health())


def _probed(row: Replica, health: Health, probe: Probe, now: float) -> Replica:
    if probe.state == "ready":
        ready_at = row.ready_at if row.ready_at is not None else now
        return replace(
            row,
            state="ready",
            reason="",
            ready_at=ready_at,
            slots=probe.slots or row.slots,
            context_length=probe.context_length or row.context_length,
            restarts=0 if now - ready_at >= STEADY_S else row.restarts,
        )
    if row.state == "ready" and health.misses < MISSES and probe.state != "stranger":
        return row
    if row.ready_at is None:
        return replace(row, reason="" if probe.state == "unreachable" else probe.reason)
    return replace(row, state="starting", reason=_sentence(f"Does not answer its probe: {probe.reason or probe.state}"))


def _told(observed: ObservedReplica | None, message: str) -> str:
    status = observed.exit_status if observed is not None else None
    if observed is None:
        how = "The engine could not be started" if message else "The engine ended"
    elif status is None:
        how = "The engine ended"
    elif status < 0:
        how = f"The engine was killed by signal {-status}"
    else:
        how = f"The engine exited with status {status}"
    if not message and status == -signal.SIGKILL:
        return f"{how}; if nobody killed it, the machine may be out of memory."
    return _sentence(f"{how}: {message}" if message else how)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _worth(row: Replica) -> tuple[int, float]:
    """Sort what to give up first: what does not run, then what started last."""
    order = {"failed": 0, "pending": 1, "starting": 2, "ready": 3}
    return order.get(row.state, 0), -(row.started_at or 0.0)


def describe(wanted: Wanted, rows: Sequence[Replica]) -> tuple[str, str]:
    """Return the service's state and, where people would ask why, the reason."""
    if wanted.replicas == 0:
        if any(row.state != "failed" for row in rows):
            return "stopping", "Its replicas finish their requests."
        return "stopped", "Stopped: it has no replicas."
    ready = [row for row in rows if row.state == "ready"]
    new = [row for row in rows if row.recipe == wanted.recipe]
    if ready:
        return _describe_ready(wanted, rows, ready)
    if wanted.hold is not None:
        return wanted.hold.state, wanted.hold.reason
    failed = [row for row in new if row.state == "failed"]
    if failed:
        return "failed", failed[0].reason
    told = next((row.reason for row in new if row.reason and row.state != "draining"), "")
    if wanted.state in ("healthy", "unhealthy", "updating"):
        return "unhealthy", told or "No replica is ready."
    if any(row.state == "starting" or row.restarts for row in new):
        return "starting", told or "The engine loads the model."
    return "pending", told or "Waits for the earlier replicas to end."


def _describe_ready(wanted: Wanted, rows: Sequence[Replica], ready: Sequence[Replica]) -> tuple[str, str]:
    new = [row for row in rows if row.recipe == wanted.recipe and row.state != "draining"]
    ready_new = sum(row.recipe == wanted.recipe for row in ready)
    if ready_new >= wanted.replicas:
        return "healthy", ""
    trouble = next((_trouble(row) for row in new if _trouble(row)), "")
    if wanted.hold is not None:
        if wanted.hold.state != "failed":
            return "updating", f"{wanted.hold.reason} The old version keeps serving."
        trouble = wanted.hold.reason
    if ready_new == len(ready):
        lost = wanted.state in ("healthy", "unhealthy")  # else more are wanted than before
        state = "healthy" if lost or (trouble and trouble == wanted.lack) else "updating"
        return state, f"{ready_new} of {wanted.replicas} replicas are ready. {trouble}".strip()
    if not trouble or trouble == wanted.lack:
        return "updating", f"{ready_new} of {wanted.replicas} replicas are ready. {trouble}".strip()
    old = f"{len(ready) - ready_new} of {wanted.replicas} ready"
    return "updating", f"The new version fails: {trouble} The old one keeps serving ({old})."


def _trouble(row: Replica) -> str:
    if row.state in ("failed", "pending"):
        return row.reason
    if row.state == "starting" and row.restarts:
        return row.reason or f"Its engine failed {row.restarts}× and is started again."
    return ""
