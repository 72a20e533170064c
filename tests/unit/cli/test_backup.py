"""Where the passphrase of a backup comes from, and what the commands say."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest

from mooring.cli import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.run([*arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def backed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Return the passphrases that backups were asked to be made with; no backup is made."""
    from mooring.control import backup

    asked: list[str | None] = []

    def make(settings: object, path: Path, passphrase: str | None) -> backup.Made:
        asked.append(passphrase)
        return backup.Made({"usage_requests": 1234567, "services": 1, "api_keys": 0}, 2, 3 << 20)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backup, "make", make)
    monkeypatch.delenv("MOORING_BACKUP_PASSPHRASE", raising=False)
    return asked


def test_the_first_line_of_the_file_is_the_passphrase(backed_up: list[str | None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a long one \r\nsecond line\n")
    assert run("backup", "b.zip", "--passphrase-file", "file") == 0
    assert backed_up == ["a long one "]


def test_the_variable_is_the_passphrase(backed_up: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORING_BACKUP_PASSPHRASE", "from the variable")
    assert run("backup", "b.zip") == 0
    assert backed_up == ["from the variable"]


def test_without_the_key_nobody_is_asked(
    backed_up: list[str | None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("backup", "b.zip", "--without-key") == 0
    assert backed_up == [None]
    told = capsys.readouterr().err
    assert "1,234,567 usage records, 1 service, 0 keys, 2 journal files; 3.0 MiB" in told
    assert "secret.key" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "There is no passphrase"),
        (["--passphrase-file", "missing"], "No such file"),
        (["--passphrase-file", "empty"], "holds no passphrase"),
        (["--passphrase-file", "binary"], "not text"),
    ],
)
def test_without_a_passphrase_the_usage_is_wrong(
    options: list[str],
    message: str,
    backed_up: list[str | None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert run("backup", "b.zip", *options) == 2
    assert backed_up == []
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_backup_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.zip").write_text("no zip")
    before = signal.getsignal(signal.SIGTERM)
    assert run("restore", str(tmp_path / "b.zip"), "--data-dir", str(tmp_path / "new")) == 1
    assert "no backup of Mooring" in capsys.readouterr().err
    assert run("restore", str(tmp_path / "none.zip"), "--data-dir", str(tmp_path / "new")) == 1
    assert "No such file" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert signal.getsignal(signal.SIGTERM) == before
