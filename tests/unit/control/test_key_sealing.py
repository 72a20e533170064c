"""The secret key under a passphrase: it opens with that one only, and a bad file costs neither memory nor a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from mooring.control.archive import BackupRefused
from mooring.control.key_sealing import SealedKey, check_passphrase, open_key, read_key, seal_key

MASTER = bytes(range(32))


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal_key(MASTER, "密码 and more")


def test_a_sealed_key_opens_with_its_passphrase_only(sealed: bytes) -> None:
    assert open_key(sealed, "密码 and more") == MASTER
    with pytest.raises(BackupRefused, match="passphrase is not the one"):
        open_key(sealed, "密码 and less")


def test_the_same_key_seals_differently_each_time_and_does_not_show(sealed: bytes) -> None:
    assert seal_key(MASTER, "密码 and more") != sealed
    assert MASTER not in sealed
    assert MASTER not in msgspec.json.decode(sealed, type=SealedKey).sealed


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_kib": 1 << 30},
        {"time_cost": 10**9},
        {"lanes": 0},
        {"lanes": 16, "memory_kib": 8},
        {"salt": b""},
        {"nonce": b"short"},
    ],
    ids=str,
)
def test_a_file_that_asks_for_impossible_work_is_refused_at_once(sealed: bytes, changes: dict[str, Any]) -> None:
    key = msgspec.structs.replace(msgspec.json.decode(sealed, type=SealedKey), **changes)
    with pytest.raises(BackupRefused, match="damaged"):
        open_key(msgspec.json.encode(key), "密码 and more")


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"time_cost": "3"}'])
def test_what_is_no_sealed_key_is_refused(data: bytes) -> None:
    with pytest.raises(BackupRefused, match="damaged"):
        open_key(data, "密码 and more")


def test_a_passphrase_needs_eight_characters() -> None:
    check_passphrase("八个字的密码短语")
    with pytest.raises(BackupRefused, match="fewer than 8"):
        check_passphrase("7 chars")


@pytest.mark.parametrize("content", [None, b"", bytes(31), bytes(33)])
def test_a_key_file_that_is_none_is_refused_with_the_advice(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackupRefused, match=r"secret\.key") as refused:
        read_key(path, "Do this.")
    assert refused.value.next_step == "Do this."
