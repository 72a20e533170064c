"""An installation with something in every table, a backup of it, and a place to restore it to.

Both are made once by the real thing; each test gets a copy of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.backup.installations import PASSPHRASE, install

from mooring.control.backup import make
from mooring.settings import Settings

MakeInstallation = Callable[[int], Settings]


@pytest.fixture(scope="session")
def original_installations(tmp_path_factory: pytest.TempPathFactory) -> MakeInstallation:
    """Return a function that gives the installation with so many requests, made when it is first asked for."""
    made: dict[int, Settings] = {}

    def original(requests: int) -> Settings:
        if requests not in made:
            data_dir = tmp_path_factory.mktemp("original") / "data"
            made[requests] = install(Settings(data_dir=data_dir), requests=requests)
        return made[requests]

    return original


@pytest.fixture(scope="session")
def original_backup(original_installations: MakeInstallation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "backup.zip"
    make(original_installations(1200), path, PASSPHRASE)
    return path


@pytest.fixture
def copy_installation(tmp_path: Path, original_installations: MakeInstallation) -> MakeInstallation:
    """Return a function that puts a copy of the installation with so many requests into `old`."""

    def copy(requests: int) -> Settings:
        shutil.copytree(original_installations(requests).data_dir, tmp_path / "old")
        return Settings(data_dir=tmp_path / "old")

    return copy


@pytest.fixture
def installation(copy_installation: MakeInstallation) -> Settings:
    return copy_installation(1200)


@pytest.fixture
def backup(tmp_path: Path, original_backup: Path) -> Path:
    """Return a backup of `installation`."""
    return Path(shutil.copy2(original_backup, tmp_path / "backup.zip"))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "new")
