"""What an engine wrote: the newest lines, and the lines that come. The shim keeps stderr.log and stderr.log.1."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

NAME = "stderr.log"
_READ_BYTES = 512 << 10
_PAUSE_S = 0.25
_LONGEST_LINE = 64 << 10  # a longer one is handed out in pieces


def tail(folder: Path, lines: int) -> str:
    """Return the newest lines, "" if there are none."""
    text = b""
    for name in (NAME, f"{NAME}.1"):
        with contextlib.suppress(OSError), open(folder / name, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _READ_BYTES))
            text = file.read() + text
        if text.count(b"\n") > lines:
            break
    return "\n".join(text.decode("utf-8", errors="replace").splitlines()[-lines:]) if lines > 0 else ""


async def follow(folder: Path, lines: int) -> AsyncIterator[str]:
    """Yield the newest `lines`, then whole lines as they come, until the folder is gone."""
    reader = _Reader(folder / NAME)
    try:
        newest = await asyncio.to_thread(reader.begin, folder, lines)
        if newest:
            yield newest
        while await asyncio.to_thread(folder.exists):
            if text := await asyncio.to_thread(reader.more):
                yield text
            else:
                await asyncio.sleep(_PAUSE_S)
        if text := reader.rest():
            yield text
    finally:
        reader.close()


class _Reader:
    """Reads a file that grows and is now and then replaced by a new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._kept = b""  # the line that is not complete yet

    def begin(self, folder: Path, lines: int) -> str:
        """Open the file and return its newest lines; what comes later is for `more`."""
        self._open()
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)
        text = tail(folder, lines)  # a line that comes right now is shown twice rather than not at all
        return text + "\n" if text else ""

    def more(self) -> str:
        """Return the complete lines written since, "" if none."""
        data = self._file.read(_READ_BYTES) if self._file is not None else b""
        if not data and self._replaced():
            self.close()
            self._open()
            data = self._file.read(_READ_BYTES) if self._file is not None else b""
        self._kept += data
        cut = self._kept.rfind(b"\n") + 1
        if not cut and len(self._kept) > _LONGEST_LINE:
            cut = len(self._kept)
        whole, self._kept = self._kept[:cut], self._kept[cut:]
        return whole.decode("utf-8", errors="replace")

    def rest(self) -> str:
        """Return what was written without an end of line."""
        text, self._kept = self._kept.decode("utf-8", errors="replace"), b""
        return text

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            self._file = open(self._path, "rb")  # noqa: SIM115  (kept open: a rotated file is read to its end)

    def _replaced(self) -> bool:
        try:
            now = os.stat(self._path)
        except OSError:
            return False
        if self._file is None:
            return True
        ours = os.fstat(self._file.fileno())
        return (ours.st_dev, ours.st_ino) != (now.st_dev, now.st_ino)
