"""The installation's secret key under a passphrase, as a backup carries it: argon2id makes a key, AES-GCM seals."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mooring.control.archive import BackupRefused
from mooring.control.sealing import KEY_BYTES, NONCE_BYTES

LEAST_CHARACTERS = 8
SALT_BYTES = 16
TIME_COST, MEMORY_KIB, LANES = 3, 64 << 10, 4  # RFC 9106's choice where memory is scarce
_MOST_TIME_COST, _MOST_MEMORY_KIB, _MOST_LANES = 16, 1 << 20, 16  # a file must not take all memory


class SealedKey(msgspec.Struct, frozen=True):
    """A sealed key and how its sealing key was made; bytes are base64 in JSON."""

    time_cost: int
    memory_kib: int
    lanes: int
    salt: bytes
    nonce: bytes
    sealed: bytes


def read_key(path: Path, advice: str) -> bytes:
    """Return the secret key in a file; `advice` says what to do when there is none.

    Raises:
        BackupRefused: it is not there, can't be read or is no key.
    """
    try:
        master = path.read_bytes()
    except OSError as error:
        raise BackupRefused(f"The secret key {path} can't be read: {error.strerror}.", next_step=advice) from error
    if len(master) != KEY_BYTES:
        found = f"{path} must hold {KEY_BYTES} bytes but holds {len(master)}"
        raise BackupRefused(f"{found}: it is no secret key.", next_step=advice)
    return master


def check_passphrase(passphrase: str) -> None:
    """Refuse a passphrase that is quickly guessed.

    Raises:
        BackupRefused: it is too short.
    """
    if len(passphrase) < LEAST_CHARACTERS:
        raise BackupRefused(
            f"The passphrase has fewer than {LEAST_CHARACTERS} characters.",
            next_step="Choose a longer one: who holds the file can guess as often as they like.",
        )


def seal_key(master: bytes, passphrase: str) -> bytes:
    """Return the secret key sealed. Takes 64 MiB and some tenths of a second, by design."""
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    cipher = AESGCM(_derive(passphrase, salt, TIME_COST, MEMORY_KIB, LANES))
    sealed = cipher.encrypt(nonce, master, None)
    return msgspec.json.encode(SealedKey(TIME_COST, MEMORY_KIB, LANES, salt, nonce, sealed))


def open_key(data: bytes, passphrase: str) -> bytes:
    """Return what `seal_key` sealed.

    Raises:
        BackupRefused: the passphrase is another one, or the data is damaged.
    """
    try:
        key = msgspec.json.decode(data, type=SealedKey)
    except msgspec.MsgspecError as error:
        raise _damaged() from error
    costs = (key.time_cost, key.memory_kib, key.lanes)
    bounds = (_MOST_TIME_COST, _MOST_MEMORY_KIB, _MOST_LANES)
    if not all(0 < cost <= bound for cost, bound in zip(costs, bounds, strict=True)):
        raise _damaged()
    if len(key.salt) != SALT_BYTES or len(key.nonce) != NONCE_BYTES or key.memory_kib < 8 * key.lanes:
        raise _damaged()
    try:
        master = AESGCM(_derive(passphrase, key.salt, *costs)).decrypt(key.nonce, key.sealed, None)
    except InvalidTag:
        raise BackupRefused(
            "The passphrase is not the one this backup was made with.",
            next_step="Give the right passphrase, or the installation's own key file with --secret-key.",
        ) from None
    if len(master) != KEY_BYTES:
        raise _damaged()
    return master


def _damaged() -> BackupRefused:
    return BackupRefused(
        "The sealed secret key in this backup is damaged.",
        next_step="Copy the file again from where it was kept, or give the installation's own key with --secret-key.",
    )


def _derive(passphrase: str, salt: bytes, time_cost: int, memory_kib: int, lanes: int) -> bytes:
    return hash_secret_raw(passphrase.encode(), salt, time_cost, memory_kib, lanes, KEY_BYTES, Type.ID)
