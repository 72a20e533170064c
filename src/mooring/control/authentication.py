"""Who calls the management API: an API key with full access, or a user's name and password."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import Callable

from mooring.control.context import Actor
from mooring.control.passwords import hash_password, new_password, verify_password
from mooring.control.sealing import Sealer
from mooring.core.errors import Forbidden, RateLimited, Unauthenticated
from mooring.core.ids import key_digest
from mooring.core.users import User
from mooring.store.database import Database
from mooring.store.keys import find_by_digest
from mooring.store.users import find_password

REMEMBERED_S = 60.0  # a verified password is not hashed again for this long
FAILURES = 10  # wrong passwords per user and window
WINDOW_S = 60.0
MAX_NAMES = 10_000  # of users whose failures are counted
MAX_PASSWORD = 256  # characters; longer ones are not worth hashing
_NEXT_STEP = "Send 'Authorization: Bearer <API key with full access>', or Basic with user name and password."


class Authenticator:
    """Turns an Authorization header into an actor with the rights of this moment.

    Args:
        db: the store.
        sealer: gives the pepper of the key digests.
        clock: monotonic seconds.
    """

    def __init__(self, db: Database, sealer: Sealer, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._sealer = sealer
        self._clock = clock
        self._verified: dict[bytes, float] = {}  # digest of (password hash, password) → until
        self._failures: dict[str, list[float]] = {}
        self._turn = asyncio.Semaphore(2)  # argon2 takes memory and a core
        self._nobody = ""

    async def authenticate(self, authorization: str | None) -> Actor:
        """Return who calls.

        Raises:
            Unauthenticated: no credential, or a wrong one.
            Forbidden: the key is for inference only.
            RateLimited: too many wrong passwords for this user.
        """
        scheme, _, credential = (authorization or "").strip().partition(" ")
        credential = credential.strip()
        if scheme.lower() == "bearer" and credential:
            return await self._by_key(credential)
        if scheme.lower() == "basic" and credential:
            return await self._by_password(*_name_and_password(credential))
        raise Unauthenticated("No credential was sent.", next_step=_NEXT_STEP)

    async def _by_key(self, plain: str) -> Actor:
        async with self._db.read() as tx:
            found = await find_by_digest(tx, key_digest(plain, self._sealer.pepper))
        if found is None:
            raise Unauthenticated(next_step=_NEXT_STEP)
        key, owner = found
        if key.status.state != "Active":
            raise Unauthenticated(
                f"The API key is {key.status.state.lower()}. {key.status.reason}", next_step=_NEXT_STEP
            )
        if key.spec.access != "full":
            raise Forbidden(
                "This API key is for inference only.", next_step="Use a key with full access, or name and password."
            )
        return _actor(owner, key.id)

    async def _by_password(self, name: str, password: str) -> Actor:
        async with self._db.read() as tx:
            found = await find_password(tx, name)
        password_hash = found[1] if found else ""
        known = hashlib.blake2b(
            password.encode(), key=self._sealer.pepper, person=b"password", salt=_salt(password_hash)
        ).digest()
        if found is None or self._verified.get(known, 0.0) <= self._clock():
            await self._verify(name, password_hash, password, known)
        if found is None or not found[0].spec.enabled:
            raise Unauthenticated("The user name or password is wrong.", next_step=_NEXT_STEP)
        return _actor(found[0])

    async def _verify(self, name: str, password_hash: str, password: str, known: bytes) -> None:
        async with self._turn:
            self._refuse_flood(name)
            if not self._nobody:
                self._nobody = await hash_password(new_password())
            good = await verify_password(password_hash or self._nobody, password[:MAX_PASSWORD])
            if not (good and password_hash and len(password) <= MAX_PASSWORD):
                self._count_failure(name)
                raise Unauthenticated("The user name or password is wrong.", next_step=_NEXT_STEP)
            now = self._clock()
            self._verified = {key: until for key, until in self._verified.items() if until > now}
            self._verified[known] = now + REMEMBERED_S

    def _refuse_flood(self, name: str) -> None:
        now = self._clock()
        recent = [moment for moment in self._failures.get(name, ()) if moment > now - WINDOW_S]
        if len(recent) >= FAILURES:
            wait_s = recent[0] + WINDOW_S - now
            raise RateLimited("Too many wrong passwords for this user.", retry_after_s=max(1.0, wait_s))

    def _count_failure(self, name: str) -> None:
        now = self._clock()
        if len(self._failures) >= MAX_NAMES:
            fresh = {user: moments for user, moments in self._failures.items() if moments[-1] > now - WINDOW_S}
            self._failures = fresh if len(fresh) < MAX_NAMES else {}
        recent = [moment for moment in self._failures.get(name, ()) if moment > now - WINDOW_S]
        self._failures[name] = [*recent, now]


def _actor(user: User, key_id: str = "") -> Actor:
    return Actor(user.id, user.metadata.name, user.spec.role == "administrator", key_id)


def _salt(password_hash: str) -> bytes:
    return hashlib.blake2b(password_hash.encode(), digest_size=16).digest()


def _name_and_password(credential: str) -> tuple[str, str]:
    try:
        name, colon, password = base64.b64decode(credential, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        name, colon, password = "", "", ""
    if not colon or not name:
        raise Unauthenticated("The Basic credential can't be read.", next_step=_NEXT_STEP)
    return name[:200], password
