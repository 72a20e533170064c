"""The file of a backup: a zip (0600) that is whole or not there, and proves that nothing in it was altered.

    tables/<name>.jsonl         one table (store/backup.py)
    journal/<writer>/<file>     usage on its way into the database, as it lay in the data directory
    secret.key.sealed           the installation's secret key under a passphrase, unless it was left out
    manifest.json               what is in here: counts, and a SHA-256 for each of the above
    manifest.seal               the manifest's SHA-256, sealed with the secret key: nobody else can make one

Nothing of it is read before its digest was compared, and the manifest's before that.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from mooring.control.sealing import FILE as KEY_FILE
from mooring.control.sealing import Sealer, SecretKeyBroken
from mooring.core.errors import Unprocessable

FORMAT = 1
MANIFEST, SEAL, KEY = "manifest.json", "manifest.seal", "secret.key.sealed"
TABLES, JOURNAL = "tables/", "journal/"
PIECE_BYTES = 256 << 10
_LEVEL = 3  # of zip: the platform that serves meanwhile needs the processor more than the disk needs room
_MOST_MANIFEST_BYTES = 64 << 20
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    msgspec.MsgspecError,
    EOFError,
    OSError,  # a place in the file that does not exist
    LookupError,  # a member that is missing
    ValueError,
    RuntimeError,  # a flag that says "encrypted", a method of compression that nobody has
)


class BackupRefused(Unprocessable):
    """A backup can't be made or restored as asked."""


class Member(msgspec.Struct, frozen=True):
    """One part of a backup."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    format: int
    mooring: str  # the version that made it
    revision: str  # of the schema
    created_at: str
    tables: dict[str, int]  # rows
    has_key: bool
    members: dict[str, Member]


class _Format(msgspec.Struct, frozen=True):
    format: int
    mooring: str


class Draft:
    """A backup that is being made.

    Attributes:
        members: what it holds so far.
    """

    def __init__(self, file: zipfile.ZipFile) -> None:
        self.members: dict[str, Member] = {}
        self._file = file

    def add(self, name: str, pieces: Iterable[bytes]) -> int:
        """Write a member; return how many lines it has. Raises OSError: the disk is full."""
        digest, size, lines = hashlib.sha256(), 0, 0
        with self._file.open(name, "w", force_zip64=True) as member:
            for piece in pieces:
                member.write(piece)
                digest.update(piece)
                size += len(piece)
                lines += piece.count(b"\n")
        self.members[name] = Member(size, digest.hexdigest())
        return lines

    def finish(self, manifest: Manifest, sealer: Sealer) -> None:
        """Write the manifest, last."""
        data = msgspec.json.format(msgspec.json.encode(manifest))
        self._file.writestr(MANIFEST, data)
        self._file.writestr(SEAL, sealer.seal(hashlib.sha256(data).digest()))


@contextmanager
def writing(path: Path) -> Generator[Draft]:
    """Yield a draft that becomes `path` when the block ends well, and leaves nothing when it does not.

    Raises:
        BackupRefused: the file exists.
        OSError: it can't be written.
    """
    if path.exists():
        raise BackupRefused(f"{path} exists already.", next_step="Name another file, or move that one away.")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
                yield Draft(archive)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


class Backup:
    """A backup that is being read.

    Attributes:
        manifest: what it says of itself; true only after `verify`.
    """

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        with _damage_named():
            self._manifest_bytes = self._read(MANIFEST)
            version = msgspec.json.decode(self._manifest_bytes, type=_Format)
        if version.format > FORMAT:
            raise BackupRefused(
                f"This backup was made by Mooring {version.mooring}, in a format that this version can't read.",
                next_step=f"Restore it with Mooring {version.mooring} or newer.",
            )
        with _damage_named():
            self.manifest = msgspec.json.decode(self._manifest_bytes, type=Manifest)

    def key(self) -> bytes:
        """Return the sealed secret key."""
        with _damage_named():
            return self._read(KEY)

    def verify(self, sealer: Sealer) -> None:
        """Compare everything with its digest.

        Raises:
            BackupRefused: it is damaged or was altered, or the secret key is not the one it was made with.
        """
        with _damage_named():
            seal = self._read(SEAL)
        try:
            sealed = sealer.unseal(seal)
        except SecretKeyBroken:
            raise BackupRefused(
                f"The secret key is not the one of this backup, or {MANIFEST} was altered.",
                next_step=f"Give the {KEY_FILE} of the installation that the backup was made of.",
            ) from None
        with _damage_named():
            if sealed != hashlib.sha256(self._manifest_bytes).digest():
                raise ValueError(MANIFEST)
            for name, member in self.manifest.members.items():
                self._compare(name, member)

    def lines(self, table: str) -> Iterator[bytes]:
        """Yield the lines of a table."""
        with _damage_named(), self._open(f"{TABLES}{table}.jsonl") as member:
            yield from member

    def journal(self) -> list[str]:
        """Return the members that belong to the journal."""
        return sorted(name for name in self.manifest.members if name.startswith(JOURNAL))

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a member's bytes."""
        with _damage_named(), self._open(name) as member:
            while piece := member.read(PIECE_BYTES):
                yield piece

    def _compare(self, name: str, member: Member) -> None:
        digest, size = hashlib.sha256(), 0
        for piece in self.pieces(name):
            digest.update(piece)
            size += len(piece)
            if size > member.bytes:
                break
        if (size, digest.hexdigest()) != (member.bytes, member.sha256):
            raise ValueError(name)

    def _open(self, name: str) -> IO[bytes]:
        member = self._file.getinfo(name)
        if member.compress_type != zipfile.ZIP_DEFLATED:  # we write no other
            raise ValueError(name)
        return self._file.open(member)

    def _read(self, name: str) -> bytes:
        if self._file.getinfo(name).file_size > _MOST_MANIFEST_BYTES:
            raise ValueError(name)
        with self._open(name) as member:
            return member.read()


@contextmanager
def reading(path: Path) -> Generator[Backup]:
    """Yield the backup in `path`.

    Raises:
        BackupRefused: it is damaged, no backup, or of a newer version.
        OSError: it can't be opened.
    """
    with path.open("rb") as file:
        with _damage_named():
            archive = zipfile.ZipFile(file)
        with archive:
            yield Backup(archive)


@contextmanager
def _damage_named() -> Generator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise BackupRefused(
            f"The file is no backup of Mooring, or it is damaged ({error or type(error).__name__}).",
            next_step="Copy it again from where it was kept, or take an older backup. Nothing was changed.",
        ) from error


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
