"""Projects: the tenants."""

from __future__ import annotations

from mooring.admin.collections import collection

router = collection("Project", "projects")
