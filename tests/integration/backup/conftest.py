"""An installation with something in every table, a backup of it, and a place to restore it to."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.backup.installations import PASSPHRASE, install

from mooring.control.backup import make
from mooring.settings import Settings


@pytest.fixture
def installation(tmp_path: Path) -> Settings:
    return install(Settings(data_dir=tmp_path / "old"))


@pytest.fixture
def backup(installation: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "backup.zip"
    make(installation, path, PASSPHRASE)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "new")
