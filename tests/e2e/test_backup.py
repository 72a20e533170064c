"""A backup of a platform that is busy, restored elsewhere: the same answers, the same keys, the same usage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.callers import Ledger, ask, busy, check_usage, long_chat, until_async
from tests.e2e.conftest import MakePlatform
from tests.e2e.running import Platform, until

QUESTIONS = ["Hello", "9.11 and 9.8, which is greater?", "你好"]


class Restored(Platform):
    """A platform that was restored: it has no admin.json, and is called with what was known of the old one."""

    known: dict[str, str]

    @property
    def admin(self) -> dict[str, str]:
        return {**self.known, "base_url": f"http://127.0.0.1:{self.port}"}


@pytest.fixture
def restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    platform = Restored(tmp_path_factory.mktemp("restored"))
    try:
        yield platform
    finally:
        platform.close()


def answers(platform: Platform, key: str) -> list[str]:
    told = [platform.chat(question, key=key, max_tokens=48) for question in QUESTIONS]
    assert [answer.status for answer in told] == [200] * len(QUESTIONS)
    return [answer.json["choices"][0]["message"]["content"] for answer in told]


def sums_of(platform: Platform, key_id: str) -> dict[str, Any]:
    """Return the usage of one key, summed by the platform."""
    (found,) = [item for item in platform.manage("GET", "usage?by=key")["items"] if key_id in item.values()]
    return found


async def test_a_backup_of_a_busy_platform_gives_the_same_platform_elsewhere(
    make_platform: MakePlatform, restored: Restored, tmp_path: Path
) -> None:
    platform, ledger, file = make_platform().start(), Ledger(), tmp_path / "backup.zip"
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a passphrase in a file\n")
    made = platform.create("keys", "app", {"description": "for the app"})
    key, key_id = made["status"]["key"], made["id"]
    said = answers(platform, key)
    until(lambda: len(platform.usage()) >= len(QUESTIONS), "the usage of the app's key")

    async with platform.client() as client, busy(platform, ledger, callers=3):
        stream = asyncio.create_task(ask(client, ledger, long_chat(platform)))
        await until_async(lambda: ledger.answered >= 20, "answers under load")
        ended = {heard.request_id for heard in ledger.heard if heard.complete}
        done = await asyncio.to_thread(platform.cli, "backup", str(file), "--passphrase-file", str(passphrase))
        assert done.status == 0, done.err
        still = ledger.answered
        await until_async(lambda: ledger.answered >= still + 5, "answers after the backup")
        await stream
    old = check_usage(platform, ledger)
    assert not ledger.broken, "the backup disturbed a call"
    old_sums = sums_of(platform, key_id)
    known = platform.admin
    assert platform.stop() == 0

    restored.known = known
    done = restored.cli("restore", str(file), "--passphrase-file", str(passphrase))
    assert done.status == 0, done.err
    assert "mooring admin reset" in done.err
    restored.start()
    check_records(restored, old, ended)
    assert sums_of(restored, key_id) == old_sums
    assert answers(restored, key) == said
    assert answers(restored, known["api_key"]) == said

    assert not (restored.data_dir / "admin.json").exists()
    done = restored.cli("admin", "reset", "-o", "json")
    assert done.status == 0, done.err
    until(lambda: restored.call("GET", "/manage/v1/keys", key=done.json["api_key"]).status == 200, "the new key")


def check_records(restored: Platform, old: dict[str, dict[str, Any]], ended: set[str]) -> None:
    """What ended before the backup is there once, as it was; what ran meanwhile is there as it was, or as aborted."""

    def all_there() -> bool:
        return ended <= {record["requestId"] for record in restored.usage()}

    until(all_there, "the usage that ended before the backup")
    records = restored.usage()
    by_id = {record["requestId"]: record for record in records}
    assert len(by_id) == len(records)
    for name, record in by_id.items():
        if name in ended:
            assert record == old[name]
        else:
            assert record == old[name] or (record["ended"], record["estimated"]) == ("aborted", True)
