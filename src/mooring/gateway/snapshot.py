"""The gateway's table: who may call what, and where it runs. Swapped or patched by the feed, read by admission."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from mooring.core.errors import AmbiguousModel, ModelNotFound, Unauthenticated
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
        # (key id, model) or (key id, project, service) → what it stands for; cleared by changes
        self._resolved: dict[tuple[str, ...], Target] = {}

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

    def resolve_address(self, key: KeyEntry, address: Address) -> Target:
        """Return the target that is the service a path names.

        Raises:
            ModelNotFound: there is no such service for this caller.
        """
        cached = self._resolved.get((key.id, *address))
        if cached is None:
            cached = Target(None, [(self.addressed_service(key, address), 1)])
            self._remember((key.id, *address), cached)
        return cached

    def addressed_service(self, key: KeyEntry, address: Address) -> Service:
        """Return the service that a path names by its name, dots written as dashes, or by its id.

        Raises:
            ModelNotFound: there is no such service in the project, it is closed for direct access, or the key is
                another project's or confined to endpoints.
        """
        project, name = address
        if key.endpoints is None and (project == key.project or key.admin):
            for service in self.services.values():
                entry = service.entry
                if entry.project == project and entry.direct_access and name in (_slug(entry.name), entry.id):
                    return service
        raise ModelNotFound(
            f"The service '{_shown(name)}' does not exist in '{_shown(project)}', or this key may not use it.",
            next_step="Check the path; it names a project and a service of it, dots in the name written as dashes.",
        )

    def _remember(self, asked: tuple[str, ...], target: Target) -> None:
        if len(self._resolved) >= _MAX_RESOLVED:
            self._resolved.clear()
        self._resolved[asked] = target

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
        own = [
            service
            for service in self.services.values()
            if service.entry.project == project and service.entry.direct_access
        ]
        for service in own:
            if service.entry.name == model or service.entry.id == model:
                return Target(None, [(service, 1)])
        served = [service for service in own if service.entry.served_model == model]
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
        services = [
            service.entry
            for service in self.services.values()
            if key.endpoints is None and service.entry.project == key.project and service.entry.direct_access
        ]
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


def _slug(name: str) -> str:
    return name.replace(".", "-")


def _shown(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + "…"
