"""Secrets: written and used, never shown."""

from __future__ import annotations

from mooring.admin.collections import collection

router = collection("Secret", "secrets")
