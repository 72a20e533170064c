"""The same platform with HTTPS, and with PostgreSQL instead of SQLite."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Callable

import pytest
from tests.e2e.callers import Ledger, busy, check_usage, until_async
from tests.e2e.conftest import MakePlatform
from tests.e2e.running import until


def test_it_serves_https_with_a_certificate_of_its_own(
    make_platform: MakePlatform, requires: Callable[[str], str]
) -> None:
    curl = requires("curl")
    platform = make_platform("--tls", "self-signed").start()
    assert platform.out().splitlines()[-1] == f"Mooring is ready: https://127.0.0.1:{platform.port}"
    assert platform.chat("Hello").json["choices"][0]["message"]["content"] == "Hello! How can I help you today?"
    bearer = f"Authorization: Bearer {platform.key}"
    command = [curl, "-k", "-sS", "--noproxy", "*", "-H", bearer, f"{platform.url}/v1/models"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert platform.endpoint in [model["id"] for model in json.loads(done.stdout)["data"]]
    strict = subprocess.run([*command[:1], *command[2:]], capture_output=True, text=True, timeout=20, check=False)
    assert strict.returncode != 0, "nobody vouches for it but ourselves"
    assert platform.cli("chat", "Hello").status == 0, "the command line trusts the certificate in the data directory"
    certificate = ssl.get_server_certificate(("127.0.0.1", platform.port))
    assert platform.stop() == 0
    platform.start()
    assert ssl.get_server_certificate(("127.0.0.1", platform.port)) == certificate, "a restart keeps it"


async def test_it_lives_on_postgresql(make_platform: MakePlatform, postgres_url: str) -> None:
    platform = make_platform("--database-url", postgres_url).start()
    ledger = Ledger()
    async with busy(platform, ledger):
        await until_async(lambda: ledger.answered >= 50, "answers")
        platform.kill("control")
        await until_async(lambda: ledger.answered >= 100, "answers while control is away")
    assert ledger.broken == []
    until(lambda: platform.call("GET", "/manage/v1/keys").status == 200, "management")
    check_usage(platform, ledger)
    made = platform.create("keys", "on-postgres", {})
    assert platform.chat(key=made["status"]["key"]).status == 200
    assert not (platform.data_dir / "mooring.db").exists()
    endpoint = platform.endpoint
    assert platform.stop() == 0
    platform.start()
    assert platform.endpoint == endpoint
    assert platform.chat(key=made["status"]["key"]).status == 200
    assert platform.stop() == 0


def test_a_database_that_does_not_answer_is_told(make_platform: MakePlatform) -> None:
    platform = make_platform("--database-url", "postgresql://nobody@127.0.0.1:9/none")
    process = platform.launch()
    assert process.wait(30) not in (0, None)
    said = platform.err()
    assert "Traceback" not in said
    assert "127.0.0.1:9" in said


@pytest.mark.parametrize("flags", [("--tls", "yes"), ("--tls-cert", "only-one.pem"), ("--port", "0")])
def test_wrong_flags_are_told(make_platform: MakePlatform, flags: tuple[str, ...]) -> None:
    platform = make_platform(*flags)
    process = platform.launch()
    assert process.wait(20) == 2
    assert platform.err().strip() and "Traceback" not in platform.err()
