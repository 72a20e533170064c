"""Endpoints: what callers put into `model`."""

from __future__ import annotations

from mooring.admin.collections import collection

router = collection("Endpoint", "endpoints")
