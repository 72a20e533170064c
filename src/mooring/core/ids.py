"""How things are named: ids, keys and request ids."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def random_suffix(length: int = 5) -> str:
    """Return `length` random characters of a–z0–9."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_id(prefix: str) -> str:
    """Return `<prefix>-<12 random characters>`, e.g. `svc-3k9x…`."""
    return f"{prefix}-{random_suffix(12)}"


def new_endpoint_id(now: datetime, *, external: bool) -> str:
    """Return an endpoint id in the form of Volcengine Ark: `ep[-s]-<yyyymmddHHMMSS>-<5>` (UTC).

    `external` is true when every service behind the endpoint runs elsewhere.
    """
    stamp = now.astimezone(UTC).strftime("%Y%m%d%H%M%S")
    return f"ep-{'s-' if external else ''}{stamp}-{random_suffix()}"


def new_api_key() -> str:
    """Return a bearer key `mk-<43 characters>` (256 random bits)."""
    return f"mk-{secrets.token_urlsafe(32)}"


def new_access_key() -> str:
    """Return a key in the form of LLMOS: `llmos-<5>:<secret>`."""
    return f"llmos-{random_suffix()}:{secrets.token_urlsafe(32)}"


def key_digest(key: str | bytes, pepper: bytes) -> bytes:
    """Return the 32-byte keyed BLAKE2b digest under which an API key is stored and looked up."""
    raw = key.encode() if isinstance(key, str) else key
    return hashlib.blake2b(raw, digest_size=32, key=pepper).digest()
