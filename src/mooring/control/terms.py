"""Terms of use: a text that whoever makes a service or an endpoint agrees to, where an administrator has set one.

The agreement is given with each creation and stands in its audit entry, by the version of the text.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mooring.control.context import Actor, require_administrator
from mooring.core.errors import TermsNotAccepted
from mooring.store import audit
from mooring.store.database import Database, Transaction
from mooring.store.meta import find_fact, put_fact

HEADER = "Mooring-Agree-Terms"
FACT = "terms_of_use"
KINDS = ("ModelService", "ExternalService", "Endpoint")  # whose creation needs agreement


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms as they are now; an empty text means that there are none."""

    text: str = ""
    updated_at: str = ""  # ISO 8601; "" = never set

    @property
    def version(self) -> str:
        """A digest of the text, "" if there are none: the same text is the same version."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest() if self.text else ""

    def wire(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {"text": self.text, "version": self.version, "updatedAt": self.updated_at or None}


async def get_terms(db: Database) -> Terms:
    """Return the terms of use."""
    async with db.read() as tx:
        return await _read(tx)


async def set_terms(db: Database, text: str, actor: Actor) -> Terms:
    """Set the terms of use; an empty text (or one of blanks) takes them away.

    Raises:
        Forbidden: the caller is no administrator.
    """
    require_administrator(actor, "set the terms of use")
    moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    wanted = Terms(text if text.strip() else "", moment)
    async with db.transaction() as tx:
        before = await _read(tx)
        if before.text == wanted.text:
            return before
        await put_fact(tx, FACT, json.dumps({"text": wanted.text, "updatedAt": wanted.updated_at}))
        detail = {"version": wanted.version}
        await audit.add_entry(tx, actor=actor.told, action="update", kind="Terms", object_id="terms", detail=detail)
    return wanted


async def require_agreement(tx: Transaction, kind: str, actor: Actor) -> dict[str, str]:
    """Judge a creation; return what its audit entry says about the agreement.

    Raises:
        TermsNotAccepted: there are terms for this kind, and the caller does not agree to them as they are now.
    """
    version = (await _read(tx)).version if kind in KINDS else ""
    if not version:
        return {}
    if actor.agreed_terms != version:
        told = "They have changed since the version that was agreed to. " if actor.agreed_terms else ""
        raise TermsNotAccepted(
            next_step=f"{told}Read GET /manage/v1/terms; if you agree, send the header '{HEADER}: {version}'.",
            param=HEADER,
        )
    return {"agreedTerms": version}


async def _read(tx: Transaction) -> Terms:
    noted = await find_fact(tx, FACT)
    if noted is None:
        return Terms()
    stored: dict[str, str] = json.loads(noted)
    return Terms(stored["text"], stored["updatedAt"])
