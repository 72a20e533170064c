"""Several files at once: workers that claim ranges, one thread that keeps what came and tells how far it is.

Each worker claims a segment of an open file, streams it to its place and claims the next; a segment whose connection
broke waits for its back-off and is claimed again. A file whose last byte came is verified by whoever finds it whole;
one that is not what the hub listed is fetched once more, then refused. A file that another process fetches is looked
at again until that one is done, or gone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mooring.core.models import FetchReport, FetchState
from mooring.sources.fetch.parts import Part, Segment, present_bytes
from mooring.sources.fetch.room import refuse_low_disk
from mooring.sources.fetch.transfer import Again, Answer, Transfer, WrongSize, pause_s
from mooring.sources.folders import Folders
from mooring.sources.hub import FetchFailed, HubFile

CONNECTIONS = 4
_TICK_S = 0.5
_LOOK_AGAIN_S = 0.5  # at a file that another process fetches
_SPEED_OVER_S = 10.0
_ATTEMPTS = 2  # at a file whose content is wrong
_VERSIONS = 3  # changes of a file's ETag before ranges are asked for without it


@dataclass(slots=True, eq=False)
class _Task:
    """One file on its way."""

    file: HubFile
    state: Literal["new", "elsewhere", "open", "verifying", "done"] = "new"
    part: Part | None = None
    next_at: float = 0.0  # when to look again
    attempts: int = 0
    ranges: bool = True  # False: the server sends whole files only
    versions: int = 0
    streamed: bool = False  # a whole answer is being read
    wrong: str = ""  # why what came can't be right

    def opened(self) -> Part:
        assert self.part is not None
        return self.part


@dataclass(slots=True)
class _Speed:
    """Bytes per second over the last seconds."""

    seen: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def measure(self, now: float, done: int) -> float:
        self.seen.append((now, done))
        while now - self.seen[0][0] > _SPEED_OVER_S:
            self.seen.popleft()
        at, before = self.seen[0]
        return max(0.0, (done - before) / (now - at)) if now > at else 0.0


class Download:
    """Fetches files into a cache.

    Args:
        files: what is wanted; equal contents are fetched once.
        stall_s: without a new byte for so long it gives up, for now.
    """

    def __init__(self, folders: Folders, files: Sequence[HubFile], transfer: Transfer, stall_s: float) -> None:
        self._folders = folders
        self._files = files
        self._tasks = [_Task(file) for file in {file.blob: file for file in files}.values()]
        self._transfer = transfer
        self._stall_s = stall_s
        self._changed = threading.Condition()
        self._failure: FetchFailed | OSError | None = None
        self._trouble = ""  # why the last request failed; "" since bytes came
        self._speed = _Speed()

    def run(self, tell: Callable[[FetchReport], None]) -> None:
        """Fetch everything; `tell` is called every half second and may raise to end it.

        Raises:
            FetchFailed: it can't be done, or not now.
            OSError: the disk failed.
        """
        for _ in range(CONNECTIONS):
            threading.Thread(target=self._work, daemon=True).start()
        best, at = -1, time.monotonic()
        while True:
            self.keep()
            report = self.report()
            tell(report)
            if report.done_bytes < report.total_bytes:
                refuse_low_disk(self._folders)
            if self._failure is not None:
                raise self._failure
            if report.done_files == report.total_files:
                return
            if report.done_bytes > best or report.state == "verifying":
                best, at = report.done_bytes, time.monotonic()
            elif time.monotonic() - at > self._stall_s:
                raise self._stalled()
            with self._changed:
                self._changed.wait(_TICK_S)

    def keep(self) -> None:
        """Make what has come survive, file by file.

        Raises:
            FetchFailed: the disk is full.
            OSError: the disk failed.
        """
        with self._changed:
            parts = [task.part for task in self._tasks if task.part is not None]
        for part in parts:
            part.keep()

    def report(self) -> FetchReport:
        """Return how far it is."""
        with self._changed:
            tasks = {task.file.blob: (task.state, task.part) for task in self._tasks}
            trouble = self._trouble
        sizes = {blob: self._done_bytes(blob, part) for blob, (_, part) in tasks.items()}
        done = [file for file in self._files if tasks[file.blob][0] == "done"]
        done_bytes = sum(sizes[file.blob] for file in self._files)
        state, reason = _state({state for state, _ in tasks.values()})
        return FetchReport(
            state,
            reason=reason or trouble,
            done_bytes=done_bytes,
            total_bytes=sum(file.size for file in self._files),
            done_files=len(done),
            total_files=len(self._files),
            bytes_per_s=self._speed.measure(time.monotonic(), done_bytes),
        )

    def _done_bytes(self, blob: str, part: Part | None) -> int:
        return part.done_bytes if part is not None else present_bytes(self._folders, blob)

    def _stalled(self) -> FetchFailed:
        why = f": {self._trouble}" if self._trouble else ""
        return FetchFailed(
            f"Nothing has come for {self._stall_s:.0f} s{why}.",
            "Check the network and the proxy of this machine; what has come is kept.",
            code="download_stalled",
            final=False,
        )

    # --- workers --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._failure is not None:
                    return None
                try:
                    found = self._claim(time.monotonic())
                except (FetchFailed, OSError) as error:
                    return self._fail(error)
                if found is None:
                    if all(task.state == "done" for task in self._tasks):
                        return self._changed.notify_all()
                    self._changed.wait(_TICK_S / 5)
                    continue
            try:
                self._carry(*found)
            except (FetchFailed, OSError) as error:
                return self._fail(error)

    def _fail(self, error: FetchFailed | OSError) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _claim(self, now: float) -> tuple[_Task, Segment | None] | None:
        """Return what to do next: a segment to fetch, a file to verify (None), or nothing now."""
        for task in self._tasks:
            if task.state in ("new", "elsewhere") and task.next_at <= now:
                self._open(task, now)
            if task.state != "open":
                continue
            busy = any(segment.claimed for segment in task.opened().segments)
            if (task.wrong or task.opened().is_whole) and not busy:
                task.state = "verifying"
                return task, None
            if task.wrong or (busy and not task.ranges):  # one whole answer brings everything
                continue
            if segment := _next_segment(task.opened(), now):
                segment.claimed = True
                return task, segment
        return None

    def _open(self, task: _Task, now: float) -> None:
        with self._folders.adding():
            if (self._folders.blobs / task.file.blob).exists():
                task.state = "done"
                return
            task.part = Part.open(self._folders, task.file)
        task.state = "open" if task.part is not None else "elsewhere"
        task.next_at = now + _LOOK_AGAIN_S

    def _carry(self, task: _Task, segment: Segment | None) -> None:
        if segment is None:
            self._verify(task)
            return
        try:
            self._fetch(task, segment)
        except Again as again:
            segment.next_at = time.monotonic() + pause_s(again, segment.tries)
            segment.tries += 1
            self._note(f"{task.file.path}: {again.why}; trying again.")
        except WrongSize as wrong:
            task.wrong = str(wrong)
        finally:
            with self._changed:
                segment.claimed = False
                self._changed.notify_all()

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            print(trouble, file=sys.stderr, flush=True)
        self._trouble = trouble

    # --- one range ------------------------------------------------------------------------------------------

    def _fetch(self, task: _Task, segment: Segment) -> None:
        part = task.opened()
        tag = part.etag if task.versions < _VERSIONS else ""
        answer = self._transfer.open(task.file, segment.position, segment.end, tag)
        complete = False
        try:
            if answer.ranged:
                part.etag = part.etag or answer.etag
                complete = self._receive(part, segment, answer)
            else:
                self._receive_whole(task, tag, answer)
        finally:
            answer.close(complete=complete)
        if not segment.is_done:
            raise Again("the connection ended early")

    def _receive(self, part: Part, segment: Segment, answer: Answer) -> bool:
        """Put an answer to its range in place; return whether all of it was read."""
        for data in answer.chunks():
            if self._failure is not None:
                return False
            usable = data[: segment.end - segment.position]
            part.write(segment.position, usable)
            segment.position += len(usable)
            segment.tries, self._trouble = 0, ""
            if len(usable) < len(data):
                return False
        return segment.is_done

    def _receive_whole(self, task: _Task, tag: str, answer: Answer) -> None:
        """Take a whole file where a range was asked for: either it has a new version, or the server knows no ranges.

        Raises:
            Again: ask for the range of the new version, or leave it to the worker that reads such an answer already.
        """
        part = task.opened()
        with self._changed:
            if tag and answer.etag and answer.etag != tag:
                part.etag, task.versions = answer.etag, task.versions + 1
                raise Again("the server has another version of the file", 0.0)
            if task.streamed:
                raise Again("the server sends whole files only", 1.0)
            task.ranges, task.streamed = False, True
        try:
            self._receive_from_start(part, answer)
        finally:
            task.streamed = False

    def _receive_from_start(self, part: Part, answer: Answer) -> None:
        """Read a file from its first byte; what is there already is skipped, not written again."""
        at = 0
        for data in answer.chunks():
            if self._failure is not None:
                return
            for segment in part.segments:
                skipped = segment.position - at
                usable = data[max(0, skipped) : max(0, segment.end - at)]
                if 0 <= skipped < len(data) and usable:
                    part.write(segment.position, usable)
                    segment.position += len(usable)
            at += len(data)
            self._trouble = ""

    # --- one file -------------------------------------------------------------------------------------------

    def _verify(self, task: _Task) -> None:
        part = task.opened()
        part.keep()
        if not task.wrong and (found := part.digest()) != task.file.digest:
            task.wrong = f"its digest is {found}, but {task.file.digest} is listed"
        if task.wrong:
            self._throw_away(task)
            return
        with self._folders.adding():
            part.finish()
        with self._changed:
            task.state, task.part = "done", None
            self._changed.notify_all()

    def _throw_away(self, task: _Task) -> None:
        """Throw away a file that is not what was listed; it is fetched once more.

        Raises:
            FetchFailed: this was the second time.
        """
        part, why = task.opened(), task.wrong
        with self._changed:
            task.attempts += 1
            if task.attempts < _ATTEMPTS:
                part.restart()
                task.state, task.wrong = "open", ""
                self._note(f"{task.file.path}: {why}; fetching it once more.")
                return
        part.discard()
        raise FetchFailed(
            f"'{task.file.path}' was not sent as the hub lists it, twice: {why}.",
            "Try another mirror, or look whether a proxy on the way changes downloads.",
            code="wrong_content",
        )


def _next_segment(part: Part, now: float) -> Segment | None:
    return next(
        (
            segment
            for segment in part.segments
            if not segment.is_done and not segment.claimed and segment.next_at <= now
        ),
        None,
    )


def _state(states: set[str]) -> tuple[FetchState, str]:
    going = states - {"done"}
    if going == {"verifying"}:
        return "verifying", ""
    if going == {"elsewhere"}:
        return "waiting", "Another download fetches the same files."
    return "downloading", ""
