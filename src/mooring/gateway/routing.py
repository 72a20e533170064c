"""Which replica takes a request: the gateway's live view of services, endpoints and replicas."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable

import msgspec

from mooring.core.errors import EndpointStopped, ModelNotFound, NotReady
from mooring.core.snapshot import EndpointEntry, ReplicaEntry, ServiceEntry
from mooring.gateway.quirks import quirks_of
from mooring.gateway.upstream import Pool
from mooring.gateway.waiting import PLACES_PER_SLOT

_WAIT_S = 2.0  # Retry-After for a service that is starting
_BACK_OFF_S = 0.2
_BACK_OFF_LIMIT_S = 5.0


class Replica:
    """One replica as this gateway worker sees it: its connections, its load, its recent failures."""

    __slots__ = ("_failures", "blocked_until", "entry", "in_flight", "pool")

    def __init__(self, entry: ReplicaEntry, pool: Pool) -> None:
        self.entry = entry
        self.pool = pool
        self.in_flight = 0
        self.blocked_until = 0.0
        self._failures = 0

    @property
    def load(self) -> float:
        """Requests in flight, per slot where slots are known."""
        return self.in_flight / (self.entry.slots or 1)

    def full(self, workers: int) -> bool:
        """True when one more request would only wait inside the engine. `workers`: gateway workers that share it."""
        slots = self.entry.slots
        return slots > 0 and self.in_flight >= max(1, -(-slots * PLACES_PER_SLOT // workers))

    def failed(self, now: float) -> None:
        """A connection failed: avoid this replica for a moment, longer each time (monotonic seconds)."""
        self._failures = min(self._failures + 1, 10)
        self.blocked_until = now + min(_BACK_OFF_S * 2 ** (self._failures - 1), _BACK_OFF_LIMIT_S)

    def answered(self) -> None:
        if self._failures:
            self._failures = 0
            self.blocked_until = 0.0


class Service:
    """A service of the snapshot with its live replicas."""

    __slots__ = ("entry", "quirks", "replicas", "served_model_json", "unlike")

    def __init__(self, entry: ServiceEntry, replicas: list[Replica]) -> None:
        self.entry = entry
        self.replicas = replicas
        # Replicas of another version may know other adapters, or by other numbers.
        self.unlike = frozenset(one.entry.id for one in replicas if one.entry.adapters != entry.adapters)
        self.quirks = quirks_of(entry.engine)  # what its engine does differently; None: nothing
        self.served_model_json = msgspec.json.encode(entry.served_model)  # what goes into the body's `model`

    @property
    def load(self) -> float:
        """Requests in flight at its ready replicas, per slot where slots are known."""
        ready = [replica for replica in self.replicas if replica.entry.ready]
        return sum(one.in_flight for one in ready) / (sum(one.entry.slots or 1 for one in ready) or 1)

    @property
    def available(self) -> bool:
        return self.entry.enabled and any(replica.entry.ready for replica in self.replicas)


class Target:
    """What the caller asked for: an endpoint, or a service addressed directly; with a LoRA adapter or not.

    With one, only services that have it are among `services`. Several services without an endpoint are alike: the one
    with the least load takes the call.
    """

    __slots__ = ("_services", "_single", "_weights", "adapter", "endpoint", "endpoint_id")

    def __init__(
        self, endpoint: EndpointEntry | None, services: Iterable[tuple[Service, int]], adapter: str = ""
    ) -> None:
        weighted = list(services)
        self.adapter = adapter
        self.endpoint = endpoint
        self.endpoint_id = endpoint.id if endpoint is not None else ""
        self._services = [service for service, _ in weighted]
        self._weights = [weight for _, weight in weighted]
        # The usual case, decided once: one enabled service behind an enabled target.
        single = self._services[0] if len(self._services) == 1 and self._services[0].entry.enabled else None
        self._single = single if endpoint is None or endpoint.enabled else None

    @property
    def services(self) -> list[Service]:
        """Every service that may take the call."""
        return self._services

    def with_adapter(self, adapter: str) -> Target:
        """Return the part of this target that has `adapter`.

        Raises:
            ModelNotFound: no service has it; lists those there are.
        """
        pairs = zip(self._services, self._weights, strict=True)
        having = [(service, weight) for service, weight in pairs if adapter in service.entry.adapters]
        if having:
            return Target(self.endpoint, having, adapter)
        known = dict.fromkeys(name for service in self._services for name in service.entry.adapters)
        shown = adapter if len(adapter) <= 100 else adapter[:100] + "…"
        raise ModelNotFound(
            f"There is no adapter '{shown}' here; "
            + (f"the adapters of this model are: {', '.join(known)}." if known else "this model has no adapters."),
            param="model",
        )

    def choose_service(self) -> Service:
        """Return a service by weight among those that can answer now; else the heaviest, to name its reason.

        Raises:
            EndpointStopped: the endpoint is switched off, or the only service is.
            NotReady: no service stands behind the endpoint.
        """
        if self._single is not None:
            return self._single
        if self.endpoint is not None and not self.endpoint.enabled:
            raise EndpointStopped(f"The endpoint {self.endpoint.id} is stopped.")
        chosen = self._services[0] if len(self._services) == 1 else self._weighted_choice()
        if not chosen.entry.enabled:
            raise EndpointStopped(
                f"The service {chosen.entry.name} is disabled.",
                code="service_disabled",
                next_step="Enable the service or use another one.",
            )
        return chosen

    def _weighted_choice(self) -> Service:
        live = [
            (service, weight)
            for service, weight in zip(self._services, self._weights, strict=True)
            if weight > 0 and service.available
        ]
        if live and self.endpoint is None:
            return min(live, key=lambda pair: (pair[0].load, random.random()))[0]
        if live:
            return random.choices([service for service, _ in live], [weight for _, weight in live])[0]
        if not self._services:
            raise NotReady("No service stands behind this endpoint.", next_step="Point the endpoint at a service.")
        # Nobody can answer now: name the heaviest that may soon, before one that is switched off.
        ranked = zip(self._services, self._weights, strict=True)
        return max(ranked, key=lambda pair: (pair[0].entry.enabled, pair[1]))[0]


def choose_replica(service: Service, excluded: Collection[str], now: float) -> Replica:
    """Return the ready replica with the least load, passing over failing ones while others exist.

    Load is requests in flight, per slot where slots are known: small and large replicas fill up together.

    `excluded` holds ids of replicas already tried for this request; `now` is monotonic seconds.

    Raises:
        NotReady: no replica can take the request; carries the service's state and reason.
    """
    replicas = service.replicas
    if len(replicas) == 1 and not excluded and replicas[0].entry.ready:
        return replicas[0]
    best: Replica | None = None
    resting: Replica | None = None
    for replica in replicas:
        if not replica.entry.ready or replica.entry.id in excluded:
            continue
        if replica.blocked_until > now:
            if resting is None or replica.blocked_until < resting.blocked_until:
                resting = replica
        elif best is None or replica.load < best.load:
            best = replica
    chosen = best or resting
    if chosen is None:
        raise not_ready(service.entry)
    return chosen


def not_ready(entry: ServiceEntry) -> NotReady:
    """Return the refusal of a service without a ready replica, with its state and reason."""
    reason = f": {entry.reason.rstrip('.')}" if entry.reason else ""
    return NotReady(
        f"The service {entry.name} has no ready replica; it is {entry.state}{reason}.",
        next_step="Repeat the request after the time Retry-After names, or look at the service's state.",
        retry_after_s=_WAIT_S,
    )
