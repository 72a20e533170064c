from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mooring.core import files, processes


def test_a_process_is_known_by_pid_and_start_time() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    started = processes.start_time(child.pid)
    assert started is not None
    assert not processes.send_signal(child.pid, started + 1, signal.SIGKILL), "another process with that pid is spared"
    assert not processes.wait_for_end(child.pid, started, 0.0)
    assert processes.send_signal(child.pid, started, signal.SIGKILL)
    assert processes.wait_for_end(child.pid, started, 10.0)
    assert processes.start_time(child.pid) is None, "dead, although nobody has asked for its status yet"
    child.wait()
    assert not processes.send_signal(child.pid, started, signal.SIGKILL)


def test_a_group_is_killed_only_within_its_session() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    assert processes.kill_group(child.pid, session=os.getsid(0)) == 0
    assert processes.kill_group(child.pid, session=child.pid) == 1
    assert child.wait(10) == -signal.SIGKILL


def test_the_boot_has_an_id() -> None:
    assert len(processes.boot_id()) == 36


def test_a_child_dies_with_its_parent() -> None:
    script = (
        "import os, signal, sys\n"
        "from mooring.core.parent import die_with_parent\n"
        "me = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    die_with_parent(me); print(os.getpid(), flush=True); signal.pause()\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])},
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    started = processes.start_time(child)
    assert started
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert processes.wait_for_end(child, started, 10.0)


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    script = "from mooring.core.parent import die_with_parent; die_with_parent(1 << 22); print('alive')"
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_a_private_file_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    path.write_text("old")
    path.chmod(0o644)
    files.write_private(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_folder_is_closed_to_others_and_never_a_link(tmp_path: Path) -> None:
    open_folder = tmp_path / "open"
    open_folder.mkdir(mode=0o755)
    assert files.private_folder(open_folder).stat().st_mode & 0o777 == 0o700
    link = tmp_path / "link"
    link.symlink_to(open_folder)
    with pytest.raises(PermissionError):
        files.private_folder(link)


def test_waiting_for_an_end_is_bounded() -> None:
    begun = time.monotonic()
    started = processes.start_time(os.getpid())
    assert started
    assert not processes.wait_for_end(os.getpid(), started, 0.05)
    assert time.monotonic() - begun < 5
