"""A hub on loopback, and an installation whose cache fetches from it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.integration.fetch import ready_made
from tests.integration.fetch.fetching import Installation

import mooring
from mooring.sources import cache
from mooring.testing.hub import FakeHub


@pytest.fixture(scope="session")
def ready_made_fetch() -> Iterator[tuple[str, ...]]:
    """Return the command that stands in for the one that starts a fetch process."""
    program = str(ready_made.__file__)
    with tempfile.TemporaryDirectory(prefix="mooring-test-") as folder:  # short enough for a socket
        path = Path(folder) / "s"
        environment = {"PYTHONPATH": str(Path(mooring.__file__).parents[1])}
        with subprocess.Popen([sys.executable, "-P", program, str(path)], env=environment) as serving:
            try:
                while not path.exists():
                    assert serving.poll() is None, "it ended"
                    time.sleep(0.01)
                yield (sys.executable, "-I", "-S", program, str(path))
            finally:
                serving.kill()


@pytest.fixture
def really_started() -> None:
    """Have each fetch process of this test start as in an installation, with all its imports."""


@pytest.fixture(autouse=True)
def _start_quickly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "really_started" not in request.fixturenames:
        monkeypatch.setattr(cache, "_FETCH", request.getfixturevalue("ready_made_fetch"))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as serving:
        yield serving


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Installation]:
    made = Installation(tmp_path / "data")
    yield made
    await made.cache.stop_all()
    made.close()
