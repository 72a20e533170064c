"""What tests of the usage journal share: a store in memory that takes pushes like the real one, and factories."""

from __future__ import annotations

import os
import struct

from mooring.core.snapshot import JournalAck, JournalPush
from mooring.core.usage import UsageRecord, decode_record
from mooring.gateway.usage.journal import Journal
from mooring.gateway.usage.slots import SlotHead

_LENGTH = struct.Struct(">I")


def slot_head(request_id: str, *, project: str = "default", prompt_tokens: int = 10) -> SlotHead:
    """Return the head of a request that was just admitted."""
    return SlotHead(request_id, "ep-1", "svc-1", "", "key-1", project, "openai", "chat", 1_700_000_000.0, prompt_tokens)


def usage_record(request_id: str, *, project: str = "default", completion_tokens: int = 20) -> UsageRecord:
    """Return the record of a request that ended well."""
    return UsageRecord(
        request_id,
        "ep-1",
        "svc-1",
        "rep-1",
        "key-1",
        project,
        "openai",
        "chat",
        200,
        "complete",
        False,
        10,
        completion_tokens,
        0,
        0,
        1_700_000_000.0,
        5.0,
        50.0,
    )


def records_of(push: JournalPush) -> list[UsageRecord]:
    """Return the records a push carries. Raises struct.error or msgspec.DecodeError on a malformed one."""
    found: list[UsageRecord] = []
    at = 0
    while at < len(push.data):
        (length,) = _LENGTH.unpack_from(push.data, at)
        found.append(decode_record(push.data[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


class FakeUsageStore:
    """Takes pushes as control does: one cursor per writer, duplicates by request id dropped.

    Attributes:
        records: by request id.
        conflicts: records that came a second time with other content; must stay empty.
    """

    def __init__(self) -> None:
        self.records: dict[str, UsageRecord] = {}
        self.conflicts: list[UsageRecord] = []
        self._cursors: dict[str, tuple[int, int]] = {}

    def take(self, push: JournalPush) -> JournalAck:
        """Take one push in and return the answer."""
        segment, offset = self._cursors.get(push.writer, (-1, 0))
        if segment == push.segment and (push.offset <= offset or push.start > offset):
            return JournalAck(push.writer, segment, offset)
        for record in records_of(push):
            if self.records.setdefault(record.request_id, record) != record:
                self.conflicts.append(record)
        self._cursors[push.writer] = max((segment, offset), (push.segment, push.offset))
        return JournalAck(push.writer, push.segment, push.offset)

    def drain(self, journal: Journal) -> None:
        """Take in everything the journal has to push."""
        while pushes := journal.unsent():
            for push in pushes:
                answer = self.take(push)
                journal.acknowledged(answer.writer, answer.segment, answer.offset)


def kill(journal: Journal) -> None:
    """Let go of a journal's descriptors as the kernel does when its process is killed; nothing else is done."""
    parts = (*journal._ready, *journal._prepared, *journal._retired)  # pyright: ignore[reportPrivateUsage]
    current, slots = journal._current, journal._slots  # pyright: ignore[reportPrivateUsage]
    for part in (*parts, current, slots):
        if part is not None:
            part.close()
    for backlog in journal._backlogs():  # pyright: ignore[reportPrivateUsage]
        if backlog.lock >= 0:
            os.close(backlog.lock)
