"""A hub on loopback, and an installation whose cache fetches from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.integration.fetch.fetching import Installation

from mooring.testing.hub import FakeHub


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
