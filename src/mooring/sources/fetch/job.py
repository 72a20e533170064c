"""The course of one fetch: list, choose, link, room?, download, manifest."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from mooring.core.models import FetchOrder, FetchReport
from mooring.sources import load_source
from mooring.sources.choosing import Choice, choose_files
from mooring.sources.fetch.download import CONNECTIONS, Download
from mooring.sources.fetch.parts import present_bytes
from mooring.sources.fetch.room import refuse_full_disk
from mooring.sources.fetch.transfer import Again, Transfer, WrongSize, pause_s
from mooring.sources.folders import Folders, is_safe_path, link_files, linked_blobs
from mooring.sources.hub import FetchFailed, Listing, endless_listing, unreachable, unusable_token
from mooring.sources.records import Manifest, read_manifest, read_progress, write_manifest

STALL_S = 600.0
LISTING_S = 180.0  # a list of files comes in seconds
_LOOK_S = 0.1

T = TypeVar("T")
Tell = Callable[[FetchReport], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What control asks for. The token is nowhere but in the memory of this process."""

    order: FetchOrder
    token: str
    data_lock: str  # held while a supervisor runs
    orphan_grace_s: float
    stall_s: float = STALL_S


def run(snapshot: Path, job: Job, tell: Tell) -> None:
    """Fetch an order into its snapshot's folder. `tell` may raise to end it.

    Raises:
        FetchFailed: it can't be done, or not now.
        OSError: the disk failed.
    """
    folders = Folders.of(snapshot)
    if not job.token.isascii() or not job.token.isprintable() or " " in job.token:
        raise unusable_token()
    try:
        listing = _list(job, first_report(snapshot), tell)
    except MemoryError as error:  # the process may not take more than MEMORY_BYTES
        raise endless_listing(job.order) from error
    choice = choose_files(listing, job.order)
    _refuse_unsafe(choice)
    with folders.adding():
        (snapshot / "manifest.json").unlink(missing_ok=True)  # it names files that are gone
        link_files(snapshot, {file.path: file.blob for file in choice.files})
    sizes = {file.blob: file.size for file in choice.files}
    refuse_full_disk(folders, sum(max(0, size - present_bytes(folders, blob)) for blob, size in sizes.items()))
    transfer = Transfer(job.order, listing, CONNECTIONS)
    if all((folders.blobs / blob).exists() for blob in sizes):
        _ask_leave(transfer, choice)
    download = Download(folders, choice.files, transfer, job.stall_s)
    download.run(lambda report: tell(replace(report, format=choice.format)))
    files = tuple((file.path, file.size, file.digest) for file in choice.files)
    manifest = Manifest(listing.revision, choice.format, choice.main, choice.weight_bytes, files, time.time())
    write_manifest(snapshot, job.order, manifest)


def _ask_leave(transfer: Transfer, choice: Choice) -> None:
    """Ask the hub for a byte of a model whose files others have fetched: whoever may not have it there, may not here.

    Raises:
        FetchFailed: the hub refuses, or can't be asked now.
    """
    largest = max(choice.files, key=lambda file: file.size)
    try:
        transfer.open(largest, 0, min(1, largest.size), "").close(complete=False)
    except Again as again:
        raise unreachable(transfer.order, again.why) from again
    except WrongSize:
        return  # not ours to judge: the digest says what it is


def is_complete(snapshot: Path) -> bool:
    """Return whether there is nothing left to fetch."""
    return read_manifest(snapshot) is not None


def first_report(snapshot: Path) -> FetchReport:
    """Return the report to begin with: what earlier fetches left on the disk counts."""
    folders, before = Folders.of(snapshot), read_progress(snapshot)
    present = sum(present_bytes(folders, blob) for blob in linked_blobs(snapshot).values())
    return FetchReport(
        "listing",
        done_bytes=present,
        total_bytes=max(before.total_bytes, present) if before.total_bytes else 0,
        total_files=before.total_files,
    )


def _list(job: Job, report: FetchReport, tell: Tell) -> Listing:
    """Ask the hub what there is, again and again while it can't be reached."""
    module = load_source(job.order.source)
    begun, tries = time.monotonic(), 0
    threads = ThreadPoolExecutor(1)  # nobody waits for it at the end: the process does not
    while True:
        tell(report)
        try:
            return _await(job, threads.submit(module.list_files, job.order, job.token), report, tell)
        except FetchFailed as failure:
            if failure.final or time.monotonic() - begun > job.stall_s:
                raise
            report = replace(report, reason=f"{failure.reason} Trying again.")
            due = time.monotonic() + pause_s(Again(failure.message), tries + 2)
            tries += 1
        while time.monotonic() < due:
            tell(report)
            time.sleep(_LOOK_S)


def _await(job: Job, future: Future[T], report: FetchReport, tell: Tell) -> T:
    """Return a thread's result; meanwhile this thread goes on telling.

    Raises:
        FetchFailed: it takes too long; what the thread raised.
    """
    until = time.monotonic() + LISTING_S
    while not future.done():
        if time.monotonic() > until:
            raise endless_listing(job.order)
        tell(report)
        time.sleep(_LOOK_S)
    return future.result()


def _refuse_unsafe(choice: Choice) -> None:
    for file in choice.files:
        if not is_safe_path(file.path):
            raise FetchFailed(
                f"The hub names a file {file.path!r}, which leads out of the model's folder.",
                "Do not use this repository or mirror.",
                code="unsafe_path",
            )
