from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.cli.scripted import Script, Server, write_admin_file

VARIABLES = ("MOORING_URL", "MOORING_API_KEY", "MOORING_DATA_DIR", "HF_TOKEN", "MODELSCOPE_API_TOKEN", "HF_ENDPOINT")


@pytest.fixture(autouse=True)
def _quickly(one_command_tree: None) -> None:
    """Every test here runs commands in this process."""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """Stand in a folder whose .mooring leads to a platform that answers what the test tells it to."""
    script = Script()
    server = Server(script)
    write_admin_file(tmp_path, script.url)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield script
    server.shutdown()
    server.server_close()
