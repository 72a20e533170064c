"""What every test may use: real servers, and an honest end of the run that names what was skipped and why.

A test that needs PostgreSQL or Redis takes the fixture `postgres_url` or `redis_url`; one that needs a
program calls `requires("curl")`. A machine that lacks it skips the test and the summary names it; in CI, where
MOORING_TEST_REQUIRE lists it, the same lack is a failure.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SUITES = ("unit", "contract", "integration", "docs", "e2e")
_LACKS = pytest.StashKey[dict[str, set[str]]]()
_START_S = 30.0


# --- the run: order, summary ------------------------------------------------------------------------------


def _suite(nodeid: str) -> str:
    parts = Path(nodeid.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else "other"


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the list of what this machine lacks."""
    config.stash[_LACKS] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the quick suites first, so that a small mistake is seen early."""
    rank = {name: number for number, name in enumerate(SUITES)}
    items.sort(key=lambda item: rank.get(_suite(item.nodeid), len(SUITES)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what ran per suite, and what was skipped because the machine lacks it."""
    ran = Counter(
        _suite(report.nodeid)
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.getreports(outcome)
    )
    names = [name for name in (*SUITES, "other") if ran[name]]
    terminalreporter.section("what ran")
    counted = ", ".join(f"{name} {ran[name]}" for name in names)
    terminalreporter.write_line(f"Ran: {counted or 'nothing'}.")
    lacks = config.stash[_LACKS]
    if not lacks:
        terminalreporter.write_line("This machine lacked nothing the tests asked for.")
    for name, tests in sorted(lacks.items()):
        terminalreporter.write_line(f"Skipped because this machine lacks {name}: {len(tests)} tests.")


# --- needs ------------------------------------------------------------------------------------------------


def _required(name: str) -> bool:
    return name in os.environ.get("MOORING_TEST_REQUIRE", "").replace(" ", "").split(",")


def _lack(request: pytest.FixtureRequest, name: str, reason: str) -> None:
    if _required(name):
        pytest.fail(f"MOORING_TEST_REQUIRE names {name}, but {reason}.", pytrace=False)
    request.config.stash[_LACKS].setdefault(name, set()).add(request.node.nodeid)
    pytest.skip(f"this machine lacks {name}: {reason}")


@pytest.fixture(scope="session")
def lacks(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return a function: `lacks("the old SDK", reason)` skips whoever asked, by name, or fails where it is required."""
    return lambda name, reason: _lack(request, name, reason)


@pytest.fixture
def requires(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return a function: `requires("curl")` gives the program's path, or skips the test and says so."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            _lack(request, program, f"there is no program '{program}' on the PATH")
        return str(path)

    return find


@pytest.fixture
def anyio_backend() -> str:
    """Run the async tests on asyncio, the loop the product runs on."""
    return "asyncio"


@pytest.fixture(scope="session")
def one_command_tree() -> Iterator[None]:
    """Let Typer make its tree of commands once: it takes ten times as long as a command that runs in this process."""
    import typer.main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


# --- servers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _servers() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def _postgres_server(_servers: contextlib.ExitStack) -> str:
    """Return the URL of a server's `postgres` database, or a text that starts with "!" and says the lack."""
    given = os.environ.get("MOORING_TEST_POSTGRES_URL", "")
    for url in filter(None, (given, "postgresql://postgres:postgres@127.0.0.1:5432/postgres", _peer_url())):
        if _postgres_answers(url):
            return url
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = str(binaries[-1].parent) if binaries else None
    if found is None and (on_path := shutil.which("postgres")):
        found = str(Path(on_path).parent)
    if found is None:
        return "!no server answers at 127.0.0.1:5432 and no PostgreSQL is installed"
    return _start_postgres(_servers, Path(found))


def _peer_url() -> str:
    return f"postgresql://{getpass.getuser()}@127.0.0.1:5432/postgres"


def _postgres_answers(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


def _start_postgres(stack: contextlib.ExitStack, binaries: Path) -> str:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mooring-pg-")))
    become: dict[str, str] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        become = {"user": "postgres"}
        try:
            shutil.chown(folder, user="postgres")
        except LookupError:
            return "!PostgreSQL does not run as root and there is no user 'postgres'"
    data, port = folder / "data", _free_port()
    making = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-N",
        "--locale=C",
        "-E",
        "UTF8",
    ]
    made = subprocess.run(making, capture_output=True, text=True, check=False, cwd=folder, **become)  # type: ignore[call-overload]
    if made.returncode != 0:
        return f"!initdb failed: {made.stderr.strip()[-200:]}"
    serving = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
    log = stack.enter_context((folder / "log").open("wb"))
    server = subprocess.Popen(serving, stdout=log, stderr=log, cwd=folder, **become)  # type: ignore[call-overload]
    stack.callback(_end, server)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    if not _until(lambda: _postgres_answers(url), server):
        return f"!PostgreSQL did not start: {(folder / 'log').read_text()[-200:]}"
    return url


@contextlib.contextmanager
def _postgres_database(server: str, template: str = "template1") -> Iterator[str]:
    """Yield the URL of a database of its own, a copy of `template`; it is dropped at the end."""
    import psycopg

    name = f"mooring_test_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def postgres_server(request: pytest.FixtureRequest, _postgres_server: str) -> str:
    """Return the URL of the `postgres` database of a real PostgreSQL."""
    if _postgres_server.startswith("!"):
        _lack(request, "postgres", _postgres_server[1:])
    return _postgres_server


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Return the URL of an empty database of a real PostgreSQL; it is dropped after the test."""
    with _postgres_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_database(_servers: contextlib.ExitStack) -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Return a function: `with postgres_database(server, template) as url` is a database for the block.

    Servers that were started here end after whatever uses this.
    """
    return _postgres_database


@pytest.fixture(scope="session")
def _redis_server(_servers: contextlib.ExitStack) -> str:
    """Return a server's `redis://host:port`, or a text that starts with "!" and says the lack."""
    if _redis_answers(6379):
        return "redis://127.0.0.1:6379"
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        return "!no server answers at 127.0.0.1:6379 and no redis-server is installed"
    folder = _servers.enter_context(tempfile.TemporaryDirectory(prefix="mooring-redis-"))
    port = _free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _servers.callback(_end, server)
    if not _until(lambda: _redis_answers(port), server):
        return "!redis-server did not start"
    return f"redis://127.0.0.1:{port}"


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, _redis_server: str) -> str:
    """Return `redis://host:port/9` of a real Redis. A test prefixes its keys at random: nothing is flushed."""
    if _redis_server.startswith("!"):
        _lack(request, "redis", _redis_server[1:])
    return f"{_redis_server}/9"


# --- processes --------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until(condition: Callable[[], bool], server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if condition():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(0.05)
            return False  # it ended
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
