"""What this worker has learnt about services that run elsewhere: which repairs their answers need.

A lesson counts for the addresses it was learnt at. The feed tells control, which shows it on the service and tells the
other workers; until the table says the same, it is told again at every change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from mooring.core.snapshot import Lesson, ServiceEntry

if TYPE_CHECKING:
    from mooring.gateway.routing import Service

_NOTHING: frozenset[str] = frozenset()


class Lessons:
    """Repairs by service. `fresh`: something was learnt since `untold` was asked."""

    def __init__(self) -> None:
        self._learnt: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {}
        self.fresh = False

    def of(self, entry: ServiceEntry) -> frozenset[str]:
        """Return the repairs that the answers of a service are known to need."""
        known = self._learnt.get(entry.id)
        if known is None or known[0] != _places(entry):
            return frozenset(entry.repairs) if entry.repairs else _NOTHING
        return known[1].union(entry.repairs)

    def learn(self, entry: ServiceEntry, found: Collection[str]) -> None:
        """Add what an answer of this service needed."""
        known = self.of(entry)
        if not known.issuperset(found):
            self._learnt[entry.id] = _places(entry), known.union(found)
            self.fresh = True

    def untold(self, services: Mapping[str, Service]) -> Iterator[Lesson]:
        """Return what the table does not say; forget what is about services that are gone or have moved."""
        self.fresh = False
        for service_id, (places, learnt) in list(self._learnt.items()):
            service = services.get(service_id)
            if service is None or _places(service.entry) != places:
                del self._learnt[service_id]
            elif learnt.difference(service.entry.repairs):
                yield Lesson(service_id, tuple(sorted(learnt)))


def _places(entry: ServiceEntry) -> tuple[str, ...]:
    return tuple(replica.address for replica in entry.replicas)
