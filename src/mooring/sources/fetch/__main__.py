"""`python -m mooring.sources.fetch <folder>`: fetch one order in a process of its own, which outlives control.

The job comes as JSON on stdin, so that the token is in no file, argument or environment. The command returns when
the process behind it runs; that one stays in its own session, holds `<folder>/lock` for life, writes progress.json
twice a second at most and its output to fetch.log. It ends when the fetch does, at SIGTERM, or when the installation
that started it has had no supervisor for the orphan grace.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType

from mooring.core.files import is_held, private_folder
from mooring.core.models import FetchReport
from mooring.sources.fetch.job import Job, first_report, is_complete, run
from mooring.sources.fetch.room import disk_trouble
from mooring.sources.folders import Folders, hold
from mooring.sources.hub import FetchFailed
from mooring.sources.records import mark_used, order_from, write_fetcher, write_order, write_progress

_REPORTED = b"running"
_EX_USAGE, _EX_CANNOT_START = 64, 71
_TELL_EVERY_S = 0.5
_LONGEST_REASON = 2000
_LOOK_AFTER_SUPERVISOR_S = 5.0
_BALLAST_BYTES = 64 << 10
MEMORY_BYTES = 1 << 30


class Ended(Exception):
    """The process shall end now: it was told to, or nobody needs it any more."""


class Watch:
    """Writes the progress down and notices when it is time to end."""

    def __init__(self, snapshot: Path, job: Job) -> None:
        self._snapshot = snapshot
        self._job = job
        self._told_at = -_TELL_EVERY_S
        self._looked_at = time.monotonic()
        self._unwatched_since: float | None = None
        self._stopped = False
        self.last = FetchReport("listing")

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM."""
        self._stopped = True

    def tell(self, report: FetchReport) -> None:
        """Write how far the fetch is, not too often.

        Raises:
            Ended: at SIGTERM or without a supervisor.
            OSError: the disk is full.
        """
        now, self.last = time.monotonic(), replace(report, reason=_hide(report.reason, self._job.token))
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            write_progress(self._snapshot, self.last)
        if self._stopped or self._is_orphan(now):
            raise Ended

    def _is_orphan(self, now: float) -> bool:
        if now - self._looked_at < min(_LOOK_AFTER_SUPERVISOR_S, self._job.orphan_grace_s / 4):
            return False
        self._looked_at = now
        if is_held(Path(self._job.data_lock)):
            self._unwatched_since = None
        elif self._unwatched_since is None:
            self._unwatched_since = now
        return self._unwatched_since is not None and now - self._unwatched_since >= self._job.orphan_grace_s


def main(snapshot: Path) -> int:
    """Start the fetch process and return 0, also if one runs already; 71 with the reason on stderr if it can't."""
    content = json.load(sys.stdin)
    order = order_from(content.pop("order"))
    if order is None:
        sys.stderr.write("the order can't be read\n")
        return _EX_USAGE
    report, reporter = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        os.close(report)
        _stay_behind(snapshot, Job(order, **content), reporter)
    os.close(reporter)
    with open(report, "rb") as file:
        said = file.read()
    if said == _REPORTED:
        return 0
    sys.stderr.write(said.decode(errors="replace") or "the fetch process ended without a word\n")
    return _EX_CANNOT_START


def _stay_behind(snapshot: Path, job: Job, reporter: int) -> None:
    """Be the fetch process. Never returns."""
    try:
        os.setsid()
        os.umask(0o077)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the token
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))  # whatever a hub sends
        needed = _take(snapshot, job) and not is_complete(snapshot)
        if needed:
            _prepare(snapshot, job)
        os.write(reporter, _REPORTED)
        os.close(reporter)
        if needed:
            _leave_terminal(snapshot)
            _fetch(snapshot, job)
    except OSError as error:
        with contextlib.suppress(OSError):  # nobody reads any more once it runs
            os.write(reporter, f"the fetch process can't start: {error}\n".encode())
    finally:
        sys.stderr.flush()
        os._exit(0)  # not waiting for threads that read from the network


def _take(snapshot: Path, job: Job) -> bool:
    """Make the folder, note who uses it and hold its lock; return False if another process fetches this order."""
    folders = Folders.of(snapshot)
    folders.make()
    with folders.adding():
        private_folder(snapshot)
        mark_used(snapshot, Path(job.data_lock).parent)
        return hold(snapshot / "lock")


def _prepare(snapshot: Path, job: Job) -> None:
    write_order(snapshot, job.order)
    write_fetcher(snapshot, job.data_lock)
    (snapshot / "ballast").write_bytes(os.urandom(_BALLAST_BYTES))
    write_progress(snapshot, first_report(snapshot))


def _leave_terminal(snapshot: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(snapshot / "fetch.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.close(nothing)
    os.close(log)


def _fetch(snapshot: Path, job: Job) -> None:
    watch = Watch(snapshot, job)
    signal.signal(signal.SIGTERM, watch.stop)
    threading.excepthook = _end_with
    try:
        run(snapshot, job, watch.tell)
    except Ended:
        pass
    except FetchFailed as failure:
        _fail(snapshot, watch.last, failure, job.token)
    except OSError as error:
        _fail(snapshot, watch.last, _disk_failed(snapshot, error), job.token)
    finally:
        (snapshot / "ballast").unlink(missing_ok=True)


def _end_with(told: threading.ExceptHookArgs) -> None:
    """End the process with a thread's mistake: without the thread it would wait in vain."""
    traceback.print_exception(told.exc_type, told.exc_value, told.exc_traceback)
    sys.stderr.flush()
    os._exit(70)


def _hide(reason: str, token: str) -> str:
    """Return a reason without the token, should a library have quoted it, and of a length that people read."""
    told = reason.replace(token, "…") if token else reason
    return told if len(told) <= _LONGEST_REASON else told[:_LONGEST_REASON] + "…"


def _fail(snapshot: Path, last: FetchReport, failure: FetchFailed, token: str) -> None:
    (snapshot / "ballast").unlink(missing_ok=True)  # room for the word that there is no room
    reason = _hide(failure.reason, token)
    print(reason, file=sys.stderr, flush=True)
    report = replace(last, state="failed", reason=reason, final=failure.final, bytes_per_s=0.0)
    write_progress(snapshot, report)


def _disk_failed(snapshot: Path, error: OSError) -> FetchFailed:
    try:
        with disk_trouble(snapshot):
            raise error
    except FetchFailed as failure:
        return failure
    except OSError:
        return FetchFailed(
            f"The disk of {snapshot} failed: {error.strerror}.",
            "Look at this disk and its mount; what has come is kept.",
            code="disk_failed",
            final=False,
        )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
