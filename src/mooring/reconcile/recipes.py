"""What a service's spec means for its replicas: which of them are outdated, and whether they fit anywhere."""

from __future__ import annotations

import hashlib

import msgspec

from mooring.core.objects import to_wire
from mooring.core.replicas import Capacity
from mooring.core.services import ModelService, engine_of, served_model


def recipe_of(service: ModelService) -> str:
    """Return a digest of all that an engine is started with: when it differs, replicas must be replaced."""
    spec = service.spec
    told = to_wire(spec)
    parts = [told.get(name) for name in ("model", "args", "env", "resources", "chip")]
    text = msgspec.json.encode([parts, engine_of(spec), served_model(service.metadata.name, spec)], order="sorted")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def unfit(service: ModelService, capacity: Capacity) -> str:
    """Return why no replica of this service can ever run on that placement; "" when one can."""
    wanted = service.spec.resources
    if wanted.gpus > capacity.gpus:
        return f"A replica needs {wanted.gpus} GPUs; there are {capacity.gpus}."
    return ""
