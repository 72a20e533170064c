"""Endpoints: what callers put into `model`."""

from __future__ import annotations

from mooring.admin.collections import collection
from mooring.admin.instructions import add_instructions

router = collection("Endpoint", "endpoints")
add_instructions(router, "Endpoint")
