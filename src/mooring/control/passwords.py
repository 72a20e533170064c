"""Passwords: hashed with argon2id, which is slow by design and so never runs on the event loop."""

from __future__ import annotations

import asyncio
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)  # OWASP's minimum: 19 MiB, ~20 ms


def new_password() -> str:
    """Return a random password, 128 bits."""
    return secrets.token_urlsafe(16)


async def hash_password(password: str) -> str:
    """Return the argon2id hash."""
    return await asyncio.to_thread(_hasher.hash, password)


async def verify_password(password_hash: str, password: str) -> bool:
    """Return whether the password is the hashed one; an empty hash fits none."""
    return await asyncio.to_thread(_verify, password_hash, password)


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
