"""What a service's spec means for its replicas: which of them are outdated, and whether they fit anywhere."""

from __future__ import annotations

import hashlib

import msgspec

from mooring.core.objects import to_wire
from mooring.core.replicas import Capacity
from mooring.core.services import ModelService, Resources, engine_of, memory_bytes, served_model


def recipe_of(service: ModelService) -> str:
    """Return a digest of all that an engine is started with: when it differs, replicas must be replaced."""
    spec = service.spec
    told = to_wire(spec)
    parts = [told.get(name) for name in ("model", "args", "env", "resources", "chip")]
    text = msgspec.json.encode([parts, engine_of(spec), served_model(service.metadata.name, spec)], order="sorted")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def unfit(service: ModelService, capacity: Capacity) -> str:
    """Return why no replica of this service can ever run on that placement; "" when one can.

    Only what a single replica asks for counts: several of them may share the machine's cores and memory.
    """
    wanted = service.spec.resources
    if wanted.gpus > capacity.gpus:
        return f"A replica wants {wanted.gpus} GPUs; this machine has {capacity.gpus}."
    usual = Resources()  # what nobody chose refuses nothing, however small the machine is
    if wanted.cpu > max(capacity.cpu, usual.cpu):
        return f"A replica wants {wanted.cpu:g} cores; this machine has {capacity.cpu:g}."
    if memory_bytes(wanted.memory) > max(capacity.memory_mib << 20, memory_bytes(usual.memory)):
        return f"A replica wants {wanted.memory} of memory; this machine has {capacity.memory_mib}Mi."
    return ""
