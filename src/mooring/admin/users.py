"""Users: the accounts."""

from __future__ import annotations

from mooring.admin.collections import collection

router = collection("User", "users")
