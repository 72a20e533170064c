"""The only place where parts are joined. `python -m mooring.app control` and `python -m mooring.app gateway`.

The imports stand inside the functions: a gateway process must not load anything of management, and control starts
engines before it loads the management API.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mooring import settings as settings_module
from mooring.settings import Settings

if TYPE_CHECKING:
    from uvicorn import Server

    from mooring.control.sealing import Sealer
    from mooring.placements.local import LocalPlacement
    from mooring.reconcile.feed import Feed
    from mooring.reconcile.lease import Lease
    from mooring.reconcile.loop import Loop
    from mooring.reconcile.services import Services
    from mooring.sources.cache import ModelCache
    from mooring.store.database import Database

EXIT_USAGE = 2
EXIT_CONFIGURATION = 78  # EX_CONFIG: starting again does not help, so the supervisor gives up
_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8  # of mallopt
READY_FILE = "control.ready"
LEASE = "services"
LOOP_STOP_S = 10.0  # for the round under way to end

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run one process of the platform; return its exit status."""
    roles = {"control": control, "gateway": gateway}
    if len(arguments) != 1 or arguments[0] not in roles:
        print("usage: python -m mooring.app control|gateway", file=sys.stderr)
        return EXIT_USAGE
    try:
        settings = settings_module.load()
    except settings_module.SettingError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    return roles[arguments[0]](settings)


def gateway(settings: Settings) -> int:
    """Run a gateway worker until it is told to stop."""
    from mooring.gateway.worker import main as run

    return run(settings)


def control(settings: Settings) -> int:
    """Run the control process until SIGTERM; then stop the engines too. Return the exit status."""
    _begin(settings)
    import uvloop

    from mooring.control import sealing
    from mooring.store.database import DatabaseBroken, database_url, migrate

    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        sealer = sealing.load(settings.data_dir)
        migrate(database_url(settings.data_dir, settings.database_url))
        uvloop.run(_Control(settings, sealer).run())
    except (DatabaseBroken, sealing.SecretKeyBroken) as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    except OSError as error:
        print(f"Control can't run in {settings.data_dir}: {error}.", file=sys.stderr)
        return EXIT_CONFIGURATION
    return 0


def _begin(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s control %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for chatty in ("alembic", "uvicorn"):  # what they tell at "info" helps nobody who runs the platform
        logging.getLogger(chatty).setLevel(logging.WARNING)
    faulthandler.enable()
    _keep_memory_small()
    if settings.supervisor_pid:
        from mooring.core.parent import die_with_parent

        die_with_parent(settings.supervisor_pid)


def _keep_memory_small() -> None:
    """Make glibc give memory back: else checking one password (64 MiB for argon2) leaves the process 40 MiB larger."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 2)
        library.mallopt(_M_TRIM_THRESHOLD, 128 * 1024)


class _Control:
    """The parts of a control process and their life."""

    def __init__(self, settings: Settings, sealer: Sealer) -> None:
        self._settings = settings
        self._sealer = sealer
        self._ready_file = settings.run_dir / READY_FILE
        self._stopping = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._db: Database
        self._feed: Feed
        self._lease: Lease
        self._loop: Loop
        self._placement: LocalPlacement
        self._cache: ModelCache
        self._services: Services
        self._folder = settings.data_dir
        self._inodes = _inodes(settings.data_dir)
        self._folder_lost = False

    async def run(self) -> None:
        """Start everything, engines first; serve until told to stop; stop everything in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._ready_file.unlink(missing_ok=True)
        await self._open()
        try:
            self._start_loops()
            server = await self._management()
            self._ready_file.write_text(f"{os.getpid()}\n")
            await self._until_stopped()
            await self._stop(server)
        finally:
            self._ready_file.unlink(missing_ok=True)
            await asyncio.to_thread(self._feed.stop)
            await self._db.close()

    async def _open(self) -> None:
        from mooring.control import bootstrap
        from mooring.reconcile.feed import Feed
        from mooring.store.database import Database, database_url

        settings, sealer = self._settings, self._sealer
        url = database_url(settings.data_dir, settings.database_url)
        self._db = Database(url)
        await bootstrap.start(self._db, sealer, settings)
        self._feed = Feed(
            settings.run_dir / "feed.sock",
            url,
            pepper=sealer.pepper,
            unseal=sealer.unseal,
            usage_retention_days=settings.usage_retention_days,
        )
        await asyncio.to_thread(self._feed.start)
        self._db.on_commit.append(self._feed.wake)

    def _start_loops(self) -> None:
        from mooring.placements.local import LocalPlacement
        from mooring.reconcile import services
        from mooring.reconcile.lease import Lease
        from mooring.reconcile.loop import Loop
        from mooring.sources.cache import ModelCache

        settings = self._settings
        self._placement = LocalPlacement(settings)
        self._lease = Lease(self._db, LEASE, f"{socket.gethostname()}:{settings.data_dir.absolute()}")
        self._loop = Loop("services", self._step, beat_s=services.BEAT_S, may=self._may_act)
        self._cache = ModelCache(settings)
        self._services = services.Services(
            self._db, self._placement, self._cache, unseal=self._sealer.unseal, wake=self._loop.wake, settings=settings
        )
        self._db.on_commit.append(self._loop.wake)
        self._tasks["services"] = asyncio.create_task(self._loop.run())

    async def _may_act(self) -> bool:
        """Say no once the data directory is gone: its engines could not be seen, and others would be started."""
        if _inodes(self._folder) != self._inodes:
            if not self._folder_lost:
                log.error("%s was deleted or replaced; no engine is started or stopped any more", self._folder)
            self._folder_lost = True
        return not self._folder_lost and await self._lease.held()

    async def _step(self) -> float | None:
        return await self._services.step()

    async def _management(self) -> Server:
        """Serve the management API on its Unix socket, which takes calls from now on: the first ones wait a little."""
        listener = _private_socket(self._settings.run_dir / "public.sock")
        server = await asyncio.to_thread(self._build_server)  # its imports run while the engines start
        self._tasks["management"] = asyncio.create_task(server.serve(sockets=[listener]))
        return server

    def _build_server(self) -> Server:
        import uvicorn

        from mooring.admin import build_admin
        from mooring.control.running import Running

        app = build_admin(
            db=self._db,
            sealer=self._sealer,
            settings=self._settings,
            await_acknowledged=self._feed.wait_acknowledged,
            running=Running(self._db, self._placement),
            cache=self._cache,
        )
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the gateway's own are trusted by nobody but the handlers that know them
            timeout_graceful_shutdown=5,
        )

        class Quiet(uvicorn.Server):
            """Leaves the signals to us: the order of stopping matters."""

            def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
                return contextlib.nullcontext()

        return Quiet(config)

    async def _until_stopped(self) -> None:
        told = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([told, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        for name, task in self._tasks.items():
            if task.done():
                log.error("%s ended by itself; control stops", name, exc_info=task.exception())

    async def _stop(self, server: Server) -> None:
        self._loop.stop()
        await asyncio.wait([self._tasks["services"]], timeout=LOOP_STOP_S)
        await self._services.stop_all()
        server.should_exit = True
        await asyncio.gather(self._tasks["management"], return_exceptions=True)
        await self._lease.release()


def _inodes(folder: Path) -> tuple[int, ...]:
    """Return which data directory and lock these are; others mean that somebody deleted ours under us."""
    found: list[int] = []
    for path in (folder, folder / "lock"):
        with contextlib.suppress(OSError):
            found.append(path.stat().st_ino)
    return tuple(found)


def _private_socket(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(1024)
    listener.setblocking(False)
    return listener


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
