"""What must be true before anything is started; each fault is one clear sentence."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import time
from pathlib import Path

from mooring.core.files import private_folder
from mooring.core.machine import NO_AVX2, has_avx2
from mooring.settings import Settings

_LOCK_PATIENCE_S = 1.0  # the shims of surviving engines try this lock for an instant, every few seconds
_BACKLOG = 4096
_HIGHEST_PORT = 65535
_MOST_WORKERS = 256
_STALE = ("control.ready", "public.sock", "feed.sock", "beats")


class StartError(Exception):
    """The platform can't start; the text is one sentence for the person who started it."""


def check_processor(settings: Settings) -> None:
    """Refuse a demo on a CPU that can't run its engine.

    Raises:
        StartError: no AVX2.
    """
    if settings.demo and not has_avx2():
        raise StartError(f"{NO_AVX2} Use --no-demo.")


def raise_descriptor_limit() -> None:
    """Raise the number of open files to what the system allows; every connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def missing_model_roots(settings: Settings) -> list[str]:
    """Return the model roots that are no folders; the platform starts without them."""
    return [root for root in settings.model_roots if not Path(root).is_dir()]


def take_data_dir(settings: Settings) -> int:
    """Make the data directory, lock it and clean what an unclean stop left; return the lock's descriptor.

    Raises:
        StartError: not writable, or in use by another supervisor.
    """
    folder = settings.data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _lock(lock, folder)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        run_dir = private_folder(settings.run_dir)
        for name in _STALE:
            (run_dir / name).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(
            f"The data directory {folder} can't be used: {reason}. Choose another with --data-dir."
        ) from None
    return lock


def _lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise StartError(
                    f"The data directory {folder} is in use by the Mooring with process id {pid}. "
                    "Stop that one, or choose another with --data-dir."
                ) from None
            time.sleep(0.02)


def listen(settings: Settings) -> list[socket.socket]:
    """Return one listening socket per gateway worker, all on the public port. Port 0 takes a free one.

    Raises:
        StartError: the port is taken or not allowed, or the host is not one of this machine.
    """
    host, port = settings.host, settings.port
    if not 0 <= port <= _HIGHEST_PORT:  # the resolver would take the remainder
        raise StartError(f"The port {port} does not exist: choose one from 1 to {_HIGHEST_PORT} with --port.")
    if not 1 <= settings.gateway_workers <= _MOST_WORKERS:
        raise StartError(f"Between 1 and {_MOST_WORKERS} gateway workers are possible; set --gateway-workers.")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:  # exclusive: sees also those who would share
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            address = probe.getsockname()
        return [_listener(family, address) for _ in range(settings.gateway_workers)]
    except socket.gaierror as error:
        raise StartError(f"The host '{host}' is unknown ({error.strerror}). Choose another with --host.") from None
    except OSError as error:
        raise StartError(_why_not(error, host, port)) from None


def _listener(family: int, address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    listener.listen(_BACKLOG)
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"The port {port} on {host} is taken. "
            f"Choose another with --port, for example: mooring up --port {port % _HIGHEST_PORT + 1}"
        )
    if error.errno == errno.EACCES:
        return f"The port {port} needs more rights than this user has. Choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"The host {host} is not an address of this machine. Choose another with --host."
    return f"The port {port} on {host} can't be opened: {error.strerror}. Choose another with --port or --host."
