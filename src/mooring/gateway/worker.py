"""One gateway worker: its process entry, its start, its drain."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import mmap
import os
import resource
import signal
import socket
import ssl
import struct
import sys
import time
from contextlib import suppress

import uvloop

from mooring.core.parent import die_with_parent
from mooring.gateway.feed import Feed, load_snapshot
from mooring.gateway.http1.timers import TimerWheel
from mooring.gateway.http1.tls_door import TlsDoor
from mooring.gateway.parts import Parts
from mooring.gateway.server import ClientConnection
from mooring.gateway.snapshot import Table
from mooring.gateway.usage.journal import Journal
from mooring.settings import Settings

_log = logging.getLogger("mooring.gateway")
_BEAT_S = 0.5
_SYNC_S = 2.0  # how long a new worker waits for control's table before it accepts with the saved one
_BACKLOG = 4096
_RESERVED_DESCRIPTORS = 500  # for management, logs, the journal


def main(settings: Settings) -> int:
    """Run one gateway worker until SIGTERM; return the exit status."""
    logging.basicConfig(
        level=settings.log_level.upper(),
        format=f"%(asctime)s gateway-{settings.worker_slot} %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    faulthandler.enable()  # the supervisor's SIGABRT leaves a stack dump
    if settings.supervisor_pid:
        die_with_parent(settings.supervisor_pid)
    _raise_descriptor_limit()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)  # requests make no cycles; collecting often would only cost time
    uvloop.run(_serve(settings))
    return 0


def _raise_descriptor_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def build_parts(settings: Settings, loop: asyncio.AbstractEventLoop) -> Parts:
    """Join the parts of one worker. Opens the journal; raises OSError when its folder can't be used."""
    journal = Journal(settings.journal_dir, segment_bytes=settings.segment_bytes, slots=settings.slots)
    table = load_snapshot(settings.data_dir / "snapshot.bin", loop) or Table(loop)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Parts(
        settings=settings,
        loop=loop,
        table=table,
        journal=journal,
        timers=TimerWheel(loop),
        public_socket=str(settings.run_dir / "public.sock"),
        max_connections=max(16, (limit - _RESERVED_DESCRIPTORS) // 2),
    )


def _listening_socket(settings: Settings) -> socket.socket:
    if settings.listen_fd >= 0:
        return socket.socket(fileno=settings.listen_fd)
    listener = socket.create_server((settings.host, settings.port), backlog=_BACKLOG, reuse_port=True)
    listener.setblocking(False)
    return listener


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    parts = build_parts(settings, loop)
    parts.timers.start()
    # A replacement takes slot + workers, so that both generations have a beat of their own.
    first = settings.worker_slot % settings.gateway_workers == 0
    saved = settings.data_dir / "snapshot.bin" if first else None
    feed = Feed(parts, str(settings.run_dir / "feed.sock"), saved)
    tasks = [loop.create_task(work) for work in (feed.run(), feed.push_journal(), feed.save_snapshots())]
    tasks.append(loop.create_task(keep_journal(parts)))
    # Callers wait in the listening socket meanwhile: better than answers from an old table, or from none.
    with suppress(TimeoutError):
        await asyncio.wait_for(_first(feed.synced, stop), _SYNC_S)
    server = await _open_door(parts, _listening_socket(settings), _tls(settings))
    tasks.append(loop.create_task(_beat(settings)))
    _log.info("serving on %s", settings.base_url)
    await stop.wait()
    await _drain(parts, server)
    await _settle_journal(parts)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    parts.timers.stop()
    parts.table.close()
    parts.journal.close()


async def _open_door(parts: Parts, listener: socket.socket, tls: ssl.SSLContext | None) -> asyncio.Server | TlsDoor:
    """Begin to accept callers."""
    if tls is None:
        return await parts.loop.create_server(lambda: ClientConnection(parts), sock=listener, backlog=_BACKLOG)
    door = TlsDoor(
        listener,
        tls,
        lambda: ClientConnection(parts),
        first_byte_s=parts.settings.head_timeout_s,
        max_waiting=parts.max_connections,
    )
    door.open()
    return door


async def _first(*events: asyncio.Event) -> None:
    """Return when one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _drain(parts: Parts, server: asyncio.Server | TlsDoor) -> None:
    """Stop accepting, close what is idle, let running answers end within drain_s, then cut them."""
    parts.draining = True
    server.close()
    begun = time.monotonic()
    end = begun + parts.settings.drain_s
    while parts.connections and time.monotonic() < end:
        now = time.monotonic()
        for connection in list(parts.connections):
            connection.drain(now, now - begun)
        await asyncio.sleep(0.05)
    for connection in list(parts.connections):
        if connection.transport is not None:
            connection.transport.abort()
    await asyncio.sleep(0)


async def _settle_journal(parts: Parts) -> None:
    """Give the feed a moment to carry the last records; what stays is adopted by a sibling or the next start."""
    end = time.monotonic() + 1.0
    while parts.journal.unacknowledged and time.monotonic() < end:
        await asyncio.sleep(0.02)


async def keep_journal(parts: Parts) -> None:
    """Sync and rotate the journal off the loop, adopt the journals of dead workers."""
    journal = parts.journal
    while True:
        await asyncio.to_thread(journal.prepare_blocking)
        await asyncio.to_thread(journal.sync_blocking)
        await asyncio.to_thread(journal.adopt_dead)
        await asyncio.sleep(1.0)


async def _beat(settings: Settings) -> None:
    """Show the supervisor that the loop turns: CLOCK_MONOTONIC nanoseconds in this worker's cell."""
    path = settings.run_dir / "beats"
    size = 8 * max(2 * settings.gateway_workers, settings.worker_slot + 1)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        cells = mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
    while True:
        struct.pack_into("<Q", cells, 8 * settings.worker_slot, time.monotonic_ns())
        await asyncio.sleep(_BEAT_S)
