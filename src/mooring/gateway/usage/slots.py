"""In-flight slots: what a worker's successor must know of each running request, kept in a mapped file.

The file is a header and `count` entries of 512 bytes:

    state int64 | completion tokens int64 | head (msgpack)

`state` is 0 for a free entry, else the head's length and checksum; it is stored last at the start of a request and
zeroed at its end. Each counter is one aligned store, so a death leaves the old or the new value. A slot is known to
its holder by the index of its counter among the file's 64-bit words: `progress` is one store. The entry behind the
last is nobody's: -1 as a slot does no harm there.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from mooring.core.errors import Invalid, Unavailable
from mooring.gateway.usage.segments import pack_header, preallocate, read_header

MAGIC = b"MOORSLOT"
SLOT_BYTES = 512
HEAD_BYTES = SLOT_BYTES - 16
_WORDS = SLOT_BYTES // 8
_ALIVE_WORD = 2  # of the header: Unix time in milliseconds at which the writer last lived
_WORD = struct.Struct("<q")


class SlotHead(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is known of a request when it is admitted. Fields are only ever appended."""

    request_id: str
    endpoint_id: str
    service_id: str
    replica_id: str  # "" until one is chosen
    key_id: str
    project: str
    dialect: str
    operation: str
    started_at: float  # Unix seconds
    prompt_tokens: int  # our estimate


class OpenSlot(NamedTuple):
    """A request whose worker died."""

    head: SlotHead
    completion_tokens: int  # delivered so far


_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(SlotHead).decode


def _state_of(head: bytes) -> int:
    return (crc32(head) & 0x7FFFFFFF) << 32 | len(head)


class SlotTable:
    """The slots of one worker.

    Attributes:
        words: the file as signed 64-bit words; `words[slot]` is a slot's counter, `words[slot - 1]` its state.
        free: slots nobody holds.
    """

    __slots__ = ("area", "count", "descriptor", "free", "words")

    def __init__(self, path: Path, count: int) -> None:
        """Make the file with room for `count` requests. Raises OSError; nothing is left behind."""
        size = (count + 2) * SLOT_BYTES
        self.count = count
        self.descriptor = preallocate(path, size)
        try:
            self.area = mmap.mmap(self.descriptor, size)
        except OSError:
            os.close(self.descriptor)
            path.unlink()
            raise
        header = pack_header(MAGIC)
        self.area[: len(header)] = header
        self.words = memoryview(self.area).cast("q")
        self.free = [entry * _WORDS + 1 for entry in range(count, 0, -1)]

    @property
    def open_count(self) -> int:
        """How many slots are taken."""
        return self.count - len(self.free)

    def open(self, head: SlotHead) -> int:
        """Fill a free slot and return it.

        Raises:
            Unavailable: every slot is taken.
            Invalid: the head doesn't fit; ids and names of the platform's own making always do.
        """
        free = self.free
        if not free:
            raise Unavailable(
                f"All {self.count} places for running requests are taken.",
                next_step="Repeat the request after a second; the setting 'slots' raises the number.",
                retry_after_s=1.0,
            )
        data = _encode_head(head)
        size = len(data)
        if size > HEAD_BYTES:
            raise Invalid("The names of this request are too long to account for it.")
        slot = free.pop()
        words = self.words
        words[slot] = 0
        at = slot * 8 + 8
        self.area[at : at + size] = data
        words[slot - 1] = (crc32(data) & 0x7FFFFFFF) << 32 | size  # _state_of, without the call
        return slot

    def show_alive(self, now: float) -> None:
        """Note that the worker lives at `now` (Unix seconds): the end of its requests, should it die."""
        self.words[_ALIVE_WORD] = int(now * 1000)

    def close(self) -> None:
        """Let go of the mapping and the descriptor; the file stays."""
        self.words.release()
        self.area.close()
        os.close(self.descriptor)


def read_open_slots(path: Path) -> tuple[list[OpenSlot], float]:
    """Return a dead worker's open slots and the time it last lived (Unix seconds, 0.0 = unknown).

    Entries whose checksum is wrong, torn by a power loss, are left out.

    Raises:
        OSError: the file can't be read.
        UnknownLayoutError: another release wrote it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # its writer died before it was made, or it was wholly read before
        return [], 0.0
    if not read_header(data, MAGIC) or len(data) < SLOT_BYTES:
        return [], 0.0
    found: list[OpenSlot] = []
    for at in range(SLOT_BYTES, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        (state,) = _WORD.unpack_from(data, at)
        head = data[at + 16 : at + 16 + min(state & 0xFFFFFFFF, HEAD_BYTES)]
        if state and state == _state_of(head):
            (tokens,) = _WORD.unpack_from(data, at + 8)
            found.append(OpenSlot(_decode_head(head), max(0, tokens)))
    (alive_ms,) = _WORD.unpack_from(data, _ALIVE_WORD * 8)
    return found, alive_ms / 1000
