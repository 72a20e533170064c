"""The command line beside a real platform: deployments that take their time, fail or are left, and what is followed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.e2e.conftest import MakePlatform
from tests.e2e.running import Platform, python_environment, until

import mooring
from mooring.testing.hub import FakeHub

MODEL = (Path(mooring.__file__).parent / "assets" / "mooring-demo.gguf").read_bytes()
SLOW = 1_500_000  # bytes per second of each connection


@pytest.fixture(scope="module")
def platform(make_module_platform: MakePlatform) -> Platform:
    return make_module_platform().start()


def launch(platform: Platform, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start a command beside the platform."""
    return subprocess.Popen(
        [sys.executable, "-m", "mooring", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=python_environment(MOORING_DATA_DIR=str(platform.data_dir), **variables),
        cwd=platform.folder,
    )


class Reader:
    """The lines that a command has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))


def test_a_model_from_a_hub_is_one_line_away_with_its_token_kept_to_itself(platform: Platform) -> None:
    with FakeHub() as hub:
        hub.add("org/Demo", {"demo-q8_0.gguf": MODEL, "demo-f16.gguf": b"another"}, private=True)
        hub.tokens.add("hf_right")
        hub.bytes_per_s = SLOW
        wanted = ["deploy", "org/Demo", "--mirror", hub.url, "--file", "*q8_0.gguf", "--name", "from-hub"]
        process = launch(platform, *wanted, HF_TOKEN="hf_right")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "from-hub: downloading 3.9 MB" in err.splitlines()
    assert err.splitlines()[-2:] == ["from-hub: healthy", "Ready."]
    assert "hf_right" not in out + err
    key = re.search(r"mk-\S+", out)
    assert key is not None
    endpoint = re.search(r"^Endpoint: (\S+)$", out, re.MULTILINE)
    assert endpoint is not None
    assert platform.chat(model=endpoint[1], key=key[0]).status == 200
    assert "3.9 MB" in platform.cli("cache", "ls").out


def test_a_repository_that_is_not_there_is_told_with_what_to_do(platform: Platform) -> None:
    with FakeHub() as hub:
        done = platform.cli("deploy", "org/Nothing", "--mirror", hub.url)
    assert done.status == 1
    assert "Error: nothing failed: org/Nothing can't be fetched:" in done.err
    assert "mooring services events nothing" in done.err
    assert "mooring services delete nothing" in done.err


def test_whoever_leaves_the_waiting_leaves_the_deployment_going_on(platform: Platform) -> None:
    with FakeHub() as hub:
        hub.add("org/slow", {"slow.gguf": MODEL})
        hub.bytes_per_s = SLOW // 4
        process = launch(platform, "deploy", "org/slow", "--mirror", hub.url)
        state = lambda: platform.manage("GET", "services?q=slow")["items"]  # noqa: E731
        until(lambda: [item for item in state() if item["status"]["state"] == "downloading"], "the download")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, "curl" in out) == (130, False)
        assert "slow goes on" in err and "mooring services delete slow" in err
        assert "Traceback" not in err
        until(lambda: state()[0]["status"]["state"] == "healthy", "the service that nobody waits for", 40)


def test_an_update_that_is_rolled_back_fails_with_its_reason(platform: Platform, tmp_path: Path) -> None:
    document = tmp_path / "demo.yaml"
    text = (
        "kind: ModelService\nmetadata: {name: turned}\nspec:\n"
        "  model: {source: builtin, name: mooring-demo}\n  args: [%s]\n"
    )
    document.write_text(text % '"--ctx-size=2048"')
    assert platform.cli("apply", "-f", str(document), "--wait").status == 0
    document.write_text(text % '"--ctx-size=999999999"')
    done = platform.cli("apply", "-f", str(document), "--wait")
    assert done.status == 1, done.err
    assert re.search(r"turned failed: version \d+ did not come up and was rolled back: ", done.err), done.err
    document.write_text(text % '"--ctx-size=2048"')
    again = platform.cli("apply", "-f", str(document), "--wait")  # what the earlier version did is no failure of this
    assert (again.status, "unchanged" in again.out) == (0, True), again.err


@pytest.mark.slow
def test_what_is_followed_goes_on_through_a_restart_of_control(make_platform: MakePlatform) -> None:
    platform = make_platform().start()
    events = launch(platform, "events", "-f", "mooring-demo")
    logs = launch(platform, "logs", "-f", "mooring-demo", "-n", "5")
    try:
        told, written = Reader(events), Reader(logs)
        until(lambda: any("is healthy" in line for line in told.lines) and len(written.lines) >= 5, "the past")
        platform.kill("control")
        until(lambda: platform.call("GET", "/manage/v1/version").status == 200, "the new control process", 30)
        path = f"services/{platform.manage('GET', 'services')['items'][0]['id']}"
        platform.manage("POST", f"{path}/stop")
        until(lambda: any("stopped" in line for line in told.lines), "the news of the stop", 30)
        platform.manage("POST", f"{path}/start")
        until(lambda: sum("listening on" in line for line in written.lines) >= 2, "the lines of the new engine", 40)
        history = platform.cli("events", "mooring-demo").out.splitlines()
        until(lambda: len(told.lines) >= len(history), "all events")
        assert told.lines[: len(history)] == history
        stamped = [line for line in written.lines if re.search(r"\] \d+\.\d+\.\d+\.\d+ ", line)]
        assert len(set(stamped)) == len(stamped), "a line came twice"
        platform.manage("DELETE", f"endpoints/{platform.endpoint}")
        platform.manage("DELETE", path)
        assert logs.wait(30) == 0
        assert events.wait(30) == 0
    finally:
        for process in (events, logs):
            process.kill()
            process.communicate()
