"""The gateway's table: who may call what, and where it runs. Swapped or patched by the feed, read by admission."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from urllib.parse import quote

from mooring.core.errors import AmbiguousModel, ModelNotFound, NameNotAccepted, Unauthenticated
from mooring.core.ids import key_digest
from mooring.core.snapshot import (
    EndpointEntry,
    KeyEntry,
    ProjectEntry,
    ReplicaEntry,
    Row,
    ServiceEntry,
    decode_endpoint,
    decode_key,
    decode_project,
    decode_service,
)
from mooring.gateway.dialects.route import Address
from mooring.gateway.routing import Replica, Service, Target
from mooring.gateway.upstream import Pool

_MAX_RESOLVED = 20_000  # pairs of key and name remembered; a bound, not a working set
_MAX_IDS = 5  # endpoint ids named in a refusal
_MAX_LISTED = 50  # pairs of model and chip named in a refusal


class Table:
    """All rows at one `(epoch, version)`. Key rows stay packed until a caller shows the key."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, epoch: str = "", version: int = -1, pepper: bytes = b""
    ) -> None:
        self._loop = loop
        self.epoch = epoch
        self.version = version
        self.pepper = pepper
        self.updated_at = time.monotonic()
        self.projects: dict[str, ProjectEntry] = {}
        self.services: dict[str, Service] = {}
        self.endpoints: dict[str, EndpointEntry] = {}
        self._renewed: list[tuple[Replica, ReplicaEntry]] = []  # of replicas taken over, until the swap
        self._keys: dict[bytes, bytes | KeyEntry] = {}
        self._key_digests: dict[str, tuple[bytes, ...]] = {}
        # what was asked, by whom and how → what it stands for; cleared by changes
        self._resolved: dict[tuple[str | Address, ...], Target] = {}

    @property
    def loaded(self) -> bool:
        return self.version >= 0

    # --- reading

    def authenticate(self, bearer: bytes) -> KeyEntry:
        """Return the key behind `bearer`.

        Raises:
            Unauthenticated: unknown, expired, or disabled.
        """
        digest = key_digest(bearer, self.pepper)
        found = self._keys.get(digest)
        if found is None:
            raise Unauthenticated("The API key is not valid: it is unknown or was deleted.")
        if type(found) is bytes:
            found = self._keys[digest] = decode_key(found)
        assert isinstance(found, KeyEntry)
        if not found.enabled:
            raise Unauthenticated("The API key is disabled, or its owner is.", next_step="Use another key.")
        if found.expires_at is not None and found.expires_at <= time.time():
            raise Unauthenticated("The API key has expired.", next_step="Create a new key.")
        return found

    def resolve(self, key: KeyEntry, model: str) -> Target:
        """Return what `model` stands for, for this caller: endpoint id, then service name, then served model name.

        `<model>:<adapter>` stands for the same with a LoRA adapter, if the whole is not a name itself.

        Raises:
            ModelNotFound: nothing of that name, or this key may not use it; or no such adapter.
            AmbiguousModel: several services serve a model of that name; lists their ids.
        """
        cached = self._resolved.get((key.id, model))
        if cached is None:
            cached = self._find_target(key, model)
            self._remember((key.id, model), cached)
        return cached

    def resolve_endpoint(self, key: KeyEntry, model: str) -> Target:
        """Return the endpoint whose id is `model`, with a LoRA adapter for `<id>:<adapter>`.

        Raises:
            NameNotAccepted: a model this key may call by that name elsewhere; lists endpoints that lead to it.
            ModelNotFound: nothing of that name, or this key may not use it; or no such adapter.
        """
        cached = self._resolved.get((key.id, "endpoint", model))
        if cached is None:
            cached = self._find_endpoint(key, model)
            self._remember((key.id, "endpoint", model), cached)
        return cached

    def resolve_address(self, key: KeyEntry, address: Address, adapter: str = "") -> Target:
        """Return what a path names, with `adapter` if it has one of that name.

        Raises:
            ModelNotFound: there is no such service for this caller.
        """
        cached = self._resolved.get((key.id, address, adapter))
        if cached is None and adapter:
            cached = self.resolve_address(key, address)
            if any(adapter in service.entry.adapters for service in cached.services):
                cached = cached.with_adapter(adapter)
                self._remember((key.id, address, adapter), cached)
        elif cached is None:
            found = self._of_pair(key, address) if address.model else [self._addressed(key, address)]
            cached = Target(None, [(service, 1) for service in found])
            self._remember((key.id, address, ""), cached)
        return cached

    def _addressed(self, key: KeyEntry, address: Address) -> Service:
        """Return the service that a path names: by its id, or inside a project also by its name with dashes for dots.

        It is closed to keys that are confined to endpoints, and to those of other projects.
        """
        project, name = address.project, address.service
        for service in self.services.values() if key.endpoints is None else ():
            entry = service.entry
            if (
                entry.direct_access
                and (entry.project == key.project or key.admin)
                and (name == entry.id if not project else entry.project == project and _is_named(entry, name))
            ):
                return service
        where = f" in '{_shown(project)}'" if project else ""
        raise ModelNotFound(
            f"The service '{_shown(name)}' does not exist{where}, or this key may not use it.",
            next_step="Check the path; it names a project and a service of it, dots in the name written as dashes."
            if project
            else "Check the path; it names a service by its id.",
        )

    def _of_pair(self, key: KeyEntry, address: Address) -> list[Service]:
        """Return the services of a model on a chip; the model may be the part after its last `/`, if one only fits."""
        model, chip = address.model, address.chip
        own = self._direct(key.project) if key.endpoints is None else []
        names = {service.entry.served_model for service in own if service.entry.chip == chip}
        if model not in names:
            short = [name for name in names if name.rpartition("/")[2] == model]
            model = short[0] if len(short) == 1 else ""
        found = [one for one in own if model and (one.entry.served_model, one.entry.chip) == (model, chip)]
        if found:
            return found
        pairs = sorted({f"{quote(one.entry.served_model, safe='')}/{one.entry.chip}" for one in own})
        listed = ", ".join(pairs[:_MAX_LISTED]) + (", …" if len(pairs) > _MAX_LISTED else "")
        raise ModelNotFound(
            f"There is no model '{_shown(address.model)}' on '{_shown(chip)}', or this key may not use it.",
            next_step=f"What this key may call here: {listed}." if pairs else "This key may call nothing here.",
        )

    def _direct(self, project: str) -> list[Service]:
        """Return the services of a project that may be addressed themselves."""
        return [one for one in self.services.values() if one.entry.project == project and one.entry.direct_access]

    def _remember(self, asked: tuple[str | Address, ...], target: Target) -> None:
        if len(self._resolved) >= _MAX_RESOLVED:
            self._resolved.clear()
        self._resolved[asked] = target

    def _find_endpoint(self, key: KeyEntry, model: str) -> Target:
        base, _, adapter = model.rpartition(":")
        if model in self.endpoints:
            found = self._find_base(key, model)
        else:
            found = self._find_base(key, base) if base in self.endpoints else None
            found = found.with_adapter(adapter) if found is not None else None
        if found is None:
            raise self._not_by_name(key, model, base)
        return found

    def _not_by_name(self, key: KeyEntry, model: str, base: str) -> ModelNotFound:
        """Return the refusal of what is no endpoint's id; one who may call that model elsewhere is told the ids."""
        named: list[Service] = []
        if key.endpoints is None:
            named = self._named(key.project, model) or (self._named(key.project, base) if base else [])
        if not named:
            return self._unknown_name(key, model, base)
        meant = {service.entry.id for service in named}
        ids = [
            endpoint.id
            for endpoint in self.callable_by(key)[0]
            if any(target.service in meant for target in endpoint.targets)
        ]
        return NameNotAccepted(
            f"'{_shown(model)}' is a model's name; callers of this path use an endpoint's id.",
            param="model",
            next_step=f"Put an endpoint id into 'model': {', '.join(ids[:_MAX_IDS])}."
            if ids
            else "Make an endpoint for this model and put its id into 'model'.",
        )

    def _find_target(self, key: KeyEntry, model: str) -> Target:
        found = self._find_base(key, model)
        if found is not None:
            return found
        base, colon, adapter = model.rpartition(":")
        whole = self._find_base(key, base) if colon else None
        if whole is None:
            raise self._unknown_name(key, model, base)
        return whole.with_adapter(adapter)

    def _find_base(self, key: KeyEntry, model: str) -> Target | None:
        scope = key.endpoints
        endpoint = self.endpoints.get(model)
        if endpoint is None:
            return self._find_named(key.project, model) if scope is None else None
        if (endpoint.project != key.project and not key.admin) or (scope is not None and model not in scope):
            return None
        return self._endpoint_target(endpoint)

    def _endpoint_target(self, endpoint: EndpointEntry) -> Target:
        found = ((self.services.get(target.service), target.weight) for target in endpoint.targets)
        return Target(endpoint, [(service, weight) for service, weight in found if service is not None])

    def _find_named(self, project: str, model: str) -> Target | None:
        served = self._named(project, model)
        if not served:
            return None
        if len(served) > 1:
            names = ", ".join(sorted(f"{service.entry.name} ({service.entry.id})" for service in served))
            raise AmbiguousModel(
                f"The model name '{model}' is served by several services: {names}.",
                param="model",
                next_step="Use one of these service names or ids, or an endpoint id.",
            )
        return Target(None, [(served[0], 1)])

    def _named(self, project: str, model: str) -> list[Service]:
        """Return the service of that name or id, else all that serve a model of that name."""
        own = self._direct(project)
        for service in own:
            if model in (service.entry.name, service.entry.id):
                return [service]
        return [service for service in own if service.entry.served_model == model]

    def _unknown_name(self, key: KeyEntry, model: str, base: str) -> ModelNotFound:
        """Return the refusal of `model`, which is `base` or `base:adapter`; an endpoint's name is told its id."""
        for endpoint in self.endpoints.values():
            if key.endpoints is None and endpoint.name in (model, base) and endpoint.project == key.project:
                return ModelNotFound(
                    f"'{endpoint.name}' is the name of an endpoint; callers use its id.",
                    param="model",
                    next_step=f"Put '{endpoint.id}{model[len(endpoint.name) :]}' into 'model'.",
                )
        return ModelNotFound(
            f"The model or endpoint '{_shown(model)}' does not exist, or this key may not use it.", param="model"
        )

    def callable_by(self, key: KeyEntry) -> tuple[list[EndpointEntry], list[ServiceEntry]]:
        """Return the endpoints and directly addressable services this key may call, by age."""
        endpoints = [
            endpoint
            for endpoint in self.endpoints.values()
            if (endpoint.project == key.project or key.admin)
            and (key.endpoints is None or endpoint.id in key.endpoints)
        ]
        services = [service.entry for service in self._direct(key.project)] if key.endpoints is None else []
        return sorted(endpoints, key=_age), sorted(services, key=_age)

    # --- writing (the feed only)

    def apply(self, rows: Iterable[Row], previous: Table | None = None) -> None:
        """Put rows into the table. Replicas that did not change keep their connections; `previous` is searched too."""
        for row in rows:
            if row.table == "key":
                self._put_key(row)
            elif row.table == "service":
                self._put_service(row, previous)
            elif row.data is None:
                (self.endpoints if row.table == "endpoint" else self.projects).pop(row.id, None)
            elif row.table == "endpoint":
                self.endpoints[row.id] = decode_endpoint(row.data)
            else:
                self.projects[row.id] = decode_project(row.data)
        self._resolved.clear()

    def _put_key(self, row: Row) -> None:
        for digest in self._key_digests.pop(row.id, ()):
            self._keys.pop(digest, None)
        if row.data is not None:
            self._key_digests[row.id] = row.digests
            for digest in row.digests:
                self._keys[digest] = row.data

    def _put_service(self, row: Row, previous: Table | None) -> None:
        entry = decode_service(row.data) if row.data is not None else None  # a row that can't be read changes nothing
        old = self.services.pop(row.id, None)
        source = old or (previous.services.get(row.id) if previous is not None else None)
        known = {replica.entry.id: replica for replica in source.replicas} if source is not None else {}
        replicas: list[Replica] = []
        if entry is not None:
            live = previous is None
            replicas = [self._replica(wanted, known.get(wanted.id), live) for wanted in entry.replicas]
            self.services[row.id] = Service(entry, replicas)
        if old is not None:
            for replica in old.replicas:
                if replica not in replicas:
                    replica.pool.close()

    def _replica(self, wanted: ReplicaEntry, known: Replica | None, live: bool) -> Replica:
        """Return the live replica for an entry; one at the same address with the same key keeps its connections.

        A table that is still being built (not `live`) leaves it as it is until the swap: it may be given up.
        """
        if known is None or (known.entry.address, known.entry.key) != (wanted.address, wanted.key):
            return Replica(wanted, Pool(wanted, self._loop))
        if live:
            known.entry = wanted
        else:
            self._renewed.append((known, wanted))
        return known

    def retire(self, old: Table) -> None:
        """Take the place of `old`: renew the replicas taken over, close the connections of the others."""
        for replica, entry in self._renewed:
            replica.entry = entry
        self._renewed.clear()
        mine = {id(replica) for service in self.services.values() for replica in service.replicas}
        for service in old.services.values():
            for replica in service.replicas:
                if id(replica) not in mine:
                    replica.pool.close()

    def close(self) -> None:
        """Close the idle connections of every replica."""
        for service in self.services.values():
            for replica in service.replicas:
                replica.pool.close()


def _age(entry: EndpointEntry | ServiceEntry) -> tuple[int, str]:
    return entry.created, entry.id


def _is_named(entry: ServiceEntry, name: str) -> bool:
    return name in (entry.name.replace(".", "-"), entry.id)


def _shown(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + "…"
