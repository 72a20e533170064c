"""Dying with the parent: a child asks the kernel to be killed when the process that started it is gone."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(expected_ppid: int, number: int = signal.SIGKILL) -> None:
    """Let the kernel send signal `number` to this process when its parent ends; exit now if it has ended already.

    The request is lost at fork and kept at exec. It fires when the *thread* that started us ends.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != expected_ppid:  # it ended before we asked
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (subreaper), so that none can slip away.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
