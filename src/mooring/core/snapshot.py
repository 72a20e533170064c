"""The gateway's table and the feed that carries it from control to the gateway workers.

A snapshot is a set of rows in four tables (`key`, `project`, `service`, `endpoint`) at a `(epoch, version)`.
`epoch` names the database, `version` counts its committed changes. Rows travel packed, so that a worker
can keep a hundred thousand keys without decoding them.

The feed is a stream of frames, each `uint32 big-endian length + msgpack` of one of the messages below.
Worker → control: Hello, Ack, JournalPush, Lesson. Control → worker: Begin, Rows, Commit, Beat, JournalAck.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

FEED_LAYOUT = 2
READ_LAYOUTS = (1, 2)  # control takes the layout before this one as well
BEAT_S = 0.3
SILENCE_S = 1.0
ROWS_PER_MESSAGE = 500

Table = Literal["key", "project", "service", "endpoint"]


class Limits(msgspec.Struct, array_like=True, frozen=True):
    """Rate limits; 0 = unlimited. Per minute (sliding), tokens per minute, requests at once."""

    rpm: int = 0
    tpm: int = 0
    concurrency: int = 0


class ProjectEntry(msgspec.Struct, array_like=True, frozen=True):
    """A tenant and its limits."""

    id: str
    name: str
    limits: Limits


class KeyEntry(msgspec.Struct, array_like=True, frozen=True):
    """What an API key allows. The key itself is nowhere; its digests index the row."""

    id: str
    project: str  # project name
    owner: str  # user id
    endpoints: tuple[str, ...] | None  # endpoint ids this key is confined to; None = all of the project
    expires_at: float | None  # Unix seconds
    enabled: bool
    limits: Limits
    admin: bool = False  # full-access key of an administrator: sees every project


class ReplicaEntry(msgspec.Struct, array_like=True, frozen=True):
    """Where one replica of a service answers."""

    id: str
    address: str  # "unix:/path/e.sock" or "http://host:port/base" (base up to and including /v1)
    key: str | None  # bearer the engine wants
    ready: bool
    slots: int = 0  # requests it runs at once; 0 = unknown
    adapters: tuple[str, ...] = ()  # in the order in which its engine was given them


class ServiceEntry(msgspec.Struct, array_like=True, frozen=True):
    """A model service or an external service, as the gateway needs it."""

    id: str
    name: str
    project: str
    external: bool
    engine: str  # llamacpp | vllm | external
    served_model: str  # value of `model` the upstream wants
    chip: str
    types: tuple[str, ...]  # chat | completion | embedding | rerank | …
    state: str
    reason: str
    enabled: bool
    direct_access: bool
    replicas: tuple[ReplicaEntry, ...]
    context_length: int  # tokens; 0 = unknown
    limits: Limits
    description: str = ""
    created: int = 0  # Unix seconds
    adapters: tuple[str, ...] = ()  # LoRA adapters; callers ask for `<model>:<adapter>`
    repairs: tuple[str, ...] = ()  # what its answers are known to need, names of `core.repairs`
    moderation: bool | None = None  # None: on where it is deployed, off where it runs elsewhere


class TargetEntry(msgspec.Struct, array_like=True, frozen=True):
    """One service behind an endpoint and its share of the requests."""

    service: str  # service id
    weight: int


class EndpointEntry(msgspec.Struct, array_like=True, frozen=True):
    """What callers put into `model`, and the services behind it."""

    id: str
    name: str
    project: str
    enabled: bool
    targets: tuple[TargetEntry, ...]
    limits: Limits
    reserve_tokens: int
    description: str = ""
    created: int = 0
    moderation: bool | None = None  # None: as its service says


class Row(msgspec.Struct, array_like=True, frozen=True):
    """One changed row. `data` is the packed entry, None when the row is gone; `digests` index a key row."""

    table: Table
    id: str
    data: bytes | None
    digests: tuple[bytes, ...] = ()


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """First message of a worker. `version` -1 asks for a full snapshot."""

    layout: int
    worker: str
    pid: int
    epoch: str
    version: int


class Ack(msgspec.Struct, tag="ack", frozen=True):
    """The worker has applied everything up to `version`."""

    version: int


class JournalPush(msgspec.Struct, tag="journal", frozen=True):
    """A run of whole journal records: `data` is msgpack records back to back, each framed `uint32 length`."""

    writer: str
    segment: int
    offset: int  # segment offset of the first byte after these records: the cursor to store
    start: int  # segment offset of the first record
    data: bytes


class Lesson(msgspec.Struct, tag="lesson", frozen=True):
    """What the answers of a service needed to be made good; `repairs` are names of `core.repairs`."""

    service: str
    repairs: tuple[str, ...]


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """Start of a set of changes. `full` replaces everything; else the set applies on top of `base`."""

    epoch: str
    base: int
    version: int
    full: bool
    pepper: bytes  # key of key_digest


class Rows(msgspec.Struct, tag="rows", frozen=True):
    """A part of the set that Begin opened."""

    rows: tuple[Row, ...]


class Commit(msgspec.Struct, tag="commit", frozen=True):
    """End of the set: it takes effect now."""

    version: int


class Beat(msgspec.Struct, tag="beat", frozen=True):
    """Control lives and is at `version`."""

    version: int


class JournalAck(msgspec.Struct, tag="journal_ack", frozen=True):
    """Everything of this segment before `offset` is committed in the store."""

    writer: str
    segment: int
    offset: int


FromWorker = Hello | Ack | JournalPush | Lesson
FromControl = Begin | Rows | Commit | Beat | JournalAck

encode_entry = msgspec.msgpack.Encoder().encode
decode_key = msgspec.msgpack.Decoder(KeyEntry).decode
decode_project = msgspec.msgpack.Decoder(ProjectEntry).decode
decode_service = msgspec.msgpack.Decoder(ServiceEntry).decode
decode_endpoint = msgspec.msgpack.Decoder(EndpointEntry).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
decode_from_control = msgspec.msgpack.Decoder(FromControl).decode

_LENGTH = struct.Struct(">I")
MAX_FRAME = 64 << 20


def pack_frame(message: FromWorker | FromControl) -> bytes:
    """Return one length-prefixed frame."""
    body = encode_entry(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into frame bodies.

    `feed(data)` returns the complete bodies; it raises ValueError on a frame above MAX_FRAME.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came, return the frame bodies that are complete. Raises ValueError: see the class."""
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(buffer) - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > MAX_FRAME:
                raise ValueError(f"feed frame of {length} bytes")
            if len(buffer) - start - 4 < length:
                break
            bodies.append(bytes(buffer[start + 4 : start + 4 + length]))
            start += 4 + length
        del buffer[:start]
        return bodies
