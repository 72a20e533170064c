"""The installation's secret key and what is made from it: the pepper of API keys and the sealing of secrets."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FILE = "secret.key"
KEY_BYTES = 32
NONCE_BYTES = 12
LAYOUT = b"\x01"


class SecretKeyBroken(RuntimeError):
    """`secret.key` can't be used, or does not belong to this database. The text is one sentence for the operator."""


class Sealer:
    """Seals with AES-256-GCM.

    Attributes:
        pepper: key of `core.ids.key_digest`, 32 bytes.
        check: tells two secret keys apart without giving anything away.
    """

    def __init__(self, master: bytes) -> None:
        self.pepper = _derive(master, b"api-keys")
        self.check = _derive(master, b"check").hex()[:16]
        self._cipher = AESGCM(_derive(master, b"seal"))

    def seal(self, plain: bytes) -> bytes:
        """Return `plain` sealed; the same text seals differently each time."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return LAYOUT + nonce + self._cipher.encrypt(nonce, plain, LAYOUT)

    def unseal(self, sealed: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            SecretKeyBroken: it was sealed with another key, or altered.
        """
        try:
            return self._cipher.decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], sealed[:1])
        except (InvalidTag, ValueError) as error:
            raise SecretKeyBroken(f"A stored secret does not open with this {FILE}.") from error


def load(data_dir: Path) -> Sealer:
    """Return the sealer of this installation; the first call makes `secret.key` (0600).

    Raises:
        SecretKeyBroken: the file can't be read or made, or has the wrong size.
    """
    path = data_dir / FILE
    try:
        if not path.exists():
            _create(path)
        master = path.read_bytes()
    except OSError as error:
        raise SecretKeyBroken(f"{path} can't be read or made: {error.strerror}.") from error
    if len(master) != KEY_BYTES:
        raise SecretKeyBroken(f"{path} must hold {KEY_BYTES} bytes but holds {len(master)}; restore it from a backup.")
    return Sealer(master)


def _create(path: Path) -> None:
    """Write whole or not at all; when two start at once, the first one's key stays."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(KEY_BYTES))
        os.fsync(handle)
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        os.close(handle)
        draft.unlink()


def _derive(master: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(b"", digest_size=32, key=master, person=purpose).digest()
