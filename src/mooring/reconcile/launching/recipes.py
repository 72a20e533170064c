"""What a service's spec means for its replicas: which of them are outdated, and whether they fit on the machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from mooring.core.replicas import Capacity, Reserved, gib
from mooring.core.services import ModelService, ModelServiceSpec, memory_bytes, recipe_part, served_model

_MANY = 1 << 30


def recipe_of(service: ModelService, spec: ModelServiceSpec | None = None) -> str:
    """Return a digest of all that an engine is started with: when it differs, replicas must be replaced.

    `spec` stands for the service's own when another version of it is meant.
    """
    spec = spec or service.spec
    part = recipe_part(spec)
    part["types"] = sorted(spec.types or ())  # engines are started otherwise for embeddings and reranking
    part["servedModel"] = served_model(service.metadata.name, spec)
    return hashlib.blake2b(msgspec.json.encode(part, order="sorted"), digest_size=12).hexdigest()


def reserved_of(spec: ModelServiceSpec, estimated_bytes: int) -> Reserved:
    """Return what one replica is to have set aside: what the spec asks for, and memory at least as estimated."""
    asked = spec.resources
    memory = int(memory_bytes(asked.memory)) if asked.memory else estimated_bytes
    return Reserved(asked.cpu or 0.0, memory, asked.gpus)


def unfit(spec: ModelServiceSpec, capacity: Capacity) -> str:
    """Return why no replica can ever have what it asks for on that placement; "" when one can."""
    wanted = spec.resources
    if wanted.gpus > capacity.gpus:
        return f"A replica wants {_gpus(wanted.gpus)}; this machine has {capacity.gpus}."
    if (wanted.cpu or 0) > capacity.cpu:
        return f"A replica wants {wanted.cpu:g} cores; this machine has {capacity.cpu:g}."
    memory, total = int(memory_bytes(wanted.memory)) if wanted.memory else 0, capacity.memory_mib << 20
    if memory > total:
        return f"A replica wants {gib(memory)} of memory; this machine has {gib(total)}."
    return ""


def _gpus(number: int) -> str:
    return f"{number} GPU{'' if number == 1 else 's'}"


def in_all(reserved: Iterable[Reserved]) -> Reserved:
    """Return the sum."""
    parts = list(reserved)
    return Reserved(
        sum(part.cpu for part in parts), sum(part.memory_bytes for part in parts), sum(part.gpus for part in parts)
    )


def room_for(need: Reserved, taken: Reserved, capacity: Capacity) -> tuple[int, str]:
    """Return how many more replicas with this need fit beside what is `taken`, and what a further one waits for."""
    rooms: list[tuple[int, str]] = []
    if need.cpu:
        free = capacity.cpu - taken.cpu
        told = f"{need.cpu:g} cores: {taken.cpu:g} of {capacity.cpu:g} are taken"
        rooms.append((int(free / need.cpu + 1e-9), told))
    if need.gpus:
        told = f"{_gpus(need.gpus)}: {taken.gpus} of {capacity.gpus} are taken"
        rooms.append(((capacity.gpus - taken.gpus) // need.gpus, told))
    if need.memory_bytes:
        total = capacity.memory_mib << 20
        told = f"{gib(need.memory_bytes)} of memory: {gib(taken.memory_bytes)} of {gib(total)} are set aside"
        rooms.append(((total - taken.memory_bytes) // need.memory_bytes, told))
        if capacity.available_mib is not None:
            told = f"{gib(need.memory_bytes)} of memory: other programs on this machine use too much of it"
            rooms.append(((capacity.available_mib << 20) // need.memory_bytes, told))
    if not rooms:
        return _MANY, ""
    room, told = min(rooms, key=lambda pair: pair[0])
    return max(0, room), told
