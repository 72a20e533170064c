"""Floor 5: the management API under /manage/v1. Handlers read, make one call, answer; the rules stand in control/."""

from __future__ import annotations

from mooring.admin.application import build_admin

__all__ = ["build_admin"]
