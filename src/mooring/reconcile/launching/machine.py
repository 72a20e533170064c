"""Who has what of the machine: in one round, the services take room one after the other, the oldest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mooring.core.replicas import NOTHING_RESERVED, Capacity, ObservedReplica, Replica, Reserved
from mooring.reconcile.launching.recipes import in_all, room_for

_RUNS = ("starting", "ready", "draining")
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class Holder:
    """One replica and what is set aside for it."""

    service_id: str
    recipe: str
    reserved: Reserved


class Machine:
    """What is taken and by whom.

    Args:
        capacity: what there is in all.
        names: service id → name.
        replicas: service id → rows.
        observed: what runs, by replica id; it says what was set aside when it was started.
        needs: service id → what a replica that is just being started has set aside.
    """

    def __init__(
        self,
        capacity: Capacity,
        names: Mapping[str, str],
        replicas: Mapping[str, Iterable[Replica]],
        observed: Mapping[str, ObservedReplica],
        needs: Mapping[str, Reserved],
    ) -> None:
        self.capacity = capacity
        self._names = names
        self._holders: list[Holder] = []
        known: dict[str, Replica] = {row.id: row for rows in replicas.values() for row in rows}
        for row in known.values():
            seen = observed.get(row.id)
            if seen is not None and seen.alive:
                self._holders.append(Holder(row.service_id, row.recipe, seen.reserved))
            elif row.state in _RUNS:
                self._holders.append(Holder(row.service_id, row.recipe, needs.get(row.service_id, NOTHING_RESERVED)))
        for seen in observed.values():
            if seen.alive and seen.replica_id not in known:
                self._holders.append(Holder(seen.service_id, "", seen.reserved))

    @property
    def taken(self) -> Reserved:
        """What is set aside in all."""
        return in_all(holder.reserved for holder in self._holders)

    def room(self, service_id: str, recipe: str, need: Reserved, *, in_place: bool) -> tuple[int, str]:
        """Return how many more replicas fit, and what a further one waits for.

        With `in_place` the service's own replicas of other recipes count as gone: they end before the new ones start.
        """
        own_old = [holder for holder in self._holders if holder.service_id == service_id and holder.recipe != recipe]
        holders = [holder for holder in self._holders if not (in_place and holder in own_old)]
        room, told = room_for(need, in_all(holder.reserved for holder in holders), self.capacity)
        if not told:
            return room, ""
        lack = f"Waits for {told}{self._by(holders)}."
        if own_old and not in_place and any(_uses(holder.reserved) for holder in own_old):
            lack += " Set spec.update to 'recreate' to end its old replicas first (calls then wait or fail meanwhile)."
        return room, lack

    def take(self, service_id: str, recipe: str, need: Reserved, replicas: int) -> None:
        """Set aside room for replicas that are started now."""
        self._holders += [Holder(service_id, recipe, need)] * replicas

    def _by(self, holders: Iterable[Holder]) -> str:
        ids = dict.fromkeys(holder.service_id for holder in holders if _uses(holder.reserved))
        names = [self._names.get(service_id, service_id) for service_id in ids]
        if not names:
            return ""
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return f" (by {', '.join(names[:_MOST_NAMES])}{more})"


def _uses(reserved: Reserved) -> bool:
    return reserved != NOTHING_RESERVED
