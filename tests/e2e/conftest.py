"""Platforms for the stories: one that many share and nobody harms, and as many of their own as a story needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Platform
from tests.e2e.upstream import Upstream

MakePlatform = Callable[..., Platform]
MakeUpstream = Callable[..., Upstream]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Return a running platform with the demo model; leave it as you found it."""
    platform = Platform(tmp_path_factory.mktemp("shared"))
    try:
        yield platform.start()
    finally:
        platform.close()


@pytest.fixture(scope="module")
def make_module_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePlatform]:
    """Return a maker of platforms, not yet started, that are cleared away after the module."""
    yield from _maker(tmp_path_factory)


@pytest.fixture
def make_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePlatform]:
    """Return a maker of platforms, not yet started, that are cleared away after the test."""
    yield from _maker(tmp_path_factory)


def _maker(factory: pytest.TempPathFactory) -> Iterator[MakePlatform]:
    made: list[Platform] = []

    def make(*flags: str, folder: Path | None = None, **settings: str) -> Platform:
        platform = Platform(folder or factory.mktemp("up"), *flags, **settings)
        made.append(platform)
        return platform

    try:
        yield make
    finally:
        for platform in made:
            platform.close()


@pytest.fixture
def make_upstream() -> Iterator[MakeUpstream]:
    """Return a maker of services that run elsewhere, started."""
    made: list[Upstream] = []

    def make(**options: Any) -> Upstream:
        made.append(Upstream(**options).start())
        return made[-1]

    try:
        yield make
    finally:
        for upstream in made:
            upstream.stop()
