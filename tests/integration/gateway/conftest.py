"""A gateway in the test's own loop, in front of a scripted upstream; a module overrides `gateway_settings`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mooring.testing.gateway import RunningGateway, endpoint_row, key_row, service_row
from mooring.testing.raw_client import RawClient
from mooring.testing.upstream import ScriptedUpstream


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run on uvloop, the loop the gateway runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data directory with a short path: a Unix socket's path is bounded."""
    made = Path(tempfile.mkdtemp(prefix="mooring-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def upstream():
    """A service that answers every call with a short chat answer until a test scripts it."""
    server = ScriptedUpstream()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def gateway_settings() -> dict[str, Any]:
    """Settings that differ from the defaults."""
    return {}


@pytest.fixture
async def gateway(tmp_path, upstream, gateway_settings):
    """A gateway with the key mk-test, the service `elsewhere` (svc-1) and the endpoint ep-1 on it."""
    running = RunningGateway(tmp_path, **gateway_settings)
    await running.start(key_row(), service_row(upstream.address), endpoint_row())
    yield running
    await running.stop()


@pytest.fixture
async def client(gateway):
    """One connection of a caller."""
    raw = await RawClient.open(gateway.port)
    yield raw
    raw.close()
