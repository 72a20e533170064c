"""The command line against the real management API on a real SQLite database, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
import yaml
from tests.integration.management.conftest import FakeCache, FakeRunning

from mooring.admin.application import build_admin
from mooring.cli import main
from mooring.control import bootstrap, sealing
from mooring.settings import Settings
from mooring.store.database import Database, database_url, migrate

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
Run = Callable[..., "Result"]

pytestmark = pytest.mark.usefixtures("one_command_tree")


class Result:
    """What a command did."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def object(self) -> dict:
        return json.loads(self.out)

    @property
    def items(self) -> list[dict]:
        return json.loads(self.out)["items"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Serve the management API and yield its data directory, with the admin.json of a first start."""
    with serving(tmp_path_factory.mktemp("data")) as folder:
        yield folder


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """Serve the management API over a data directory of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    settings = Settings(data_dir=folder, port=listener.getsockname()[1])
    servers: list[uvicorn.Server] = []
    thread = threading.Thread(target=lambda: asyncio.run(_serve(settings, listener, servers)), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not (servers and servers[0].started):
        assert thread.is_alive(), "the management API did not start"
        assert time.monotonic() < deadline, "the management API is slow to start"
        threading.Event().wait(0.01)
    yield folder
    servers[0].should_exit = True
    thread.join(10)
    listener.close()


async def _serve(settings: Settings, listener: socket.socket, servers: list[uvicorn.Server]) -> None:
    url = database_url(settings.data_dir, settings.database_url)
    migrate(url)
    db, sealer = Database(url), sealing.load(settings.data_dir)
    await bootstrap.start(db, sealer, settings)
    app = build_admin(
        db=db,
        sealer=sealer,
        settings=settings,
        await_acknowledged=_acknowledged,
        running=cast("Any", FakeRunning()),
        cache=cast("Any", FakeCache()),
    )
    servers.append(uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none")))
    await servers[0].serve([listener])
    await db.close()


async def _acknowledged(version: int, timeout_s: float) -> list[str]:
    return []


@pytest.fixture
def run(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line and returns what it did."""

    def invoke(*arguments: str, shared: bool = True) -> Result:
        with pytest.raises(SystemExit) as ended:
            main.run([*arguments, *(("--data-dir", str(data_dir)) if shared else ())])
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return invoke


def test_the_first_start_can_be_listed(run: Run) -> None:
    result = run("services", "list")
    assert result.status == 0
    assert result.out.split()[:2] == ["NAME", "ID"]
    assert "mooring-demo" in result.out


@pytest.mark.parametrize("kind", ["projects", "users", "secrets", "services", "external", "endpoints", "keys"])
def test_every_kind_can_be_listed_in_every_format(run: Run, kind: str) -> None:
    assert run("get", kind).status == 0
    assert isinstance(run("get", kind, "-o", "json").items, list)
    assert isinstance(yaml.safe_load(run("get", kind, "-o", "yaml").out)["items"], list)


def test_the_examples_can_be_applied_twice_and_the_key_is_shown_once(run: Run) -> None:
    first = run("apply", "-f", str(EXAMPLES), "-o", "json")
    assert first.status == 0, first.err
    assert {item["action"] for item in first.items} == {"created"}
    assert [item["status"]["key"][:3] for item in first.items if item["kind"] == "ApiKey"] == ["mk-"]
    second = run("apply", "-f", str(EXAMPLES), "-o", "json")
    assert {item["action"] for item in second.items} == {"unchanged"}
    assert not any("key" in item["status"] for item in second.items)


def test_what_was_printed_can_be_applied_again(run: Run, tmp_path: Path) -> None:
    printed = tmp_path / "printed.yaml"
    printed.write_text(run("get", "endpoints", "-o", "yaml").out)
    assert {item["action"] for item in run("apply", "-f", str(printed), "-o", "json").items} == {"unchanged"}


def test_a_dry_run_changes_nothing(run: Run, tmp_path: Path) -> None:
    document = tmp_path / "project.yaml"
    document.write_text("kind: Project\nmetadata: {name: dry}\nspec: {}\n")
    result = run("apply", "-f", str(document), "--dry-run")
    assert (result.status, "would be created" in result.out) == (0, True)
    assert run("get", "project", "dry").status == 1


def test_a_faulty_document_is_refused_with_its_field(run: Run, tmp_path: Path) -> None:
    document = tmp_path / "bad.yaml"
    document.write_text("kind: Endpoint\nmetadata: {name: bad}\nspec: {services: [], colour: red}\n")
    result = run("apply", "-f", str(document))
    assert result.status == 1
    assert "colour" in result.err
    assert "Traceback" not in result.err


def test_waiting_ends_for_a_service_that_shall_not_run(run: Run, tmp_path: Path) -> None:
    document = tmp_path / "stopped.yaml"
    model = "{source: builtin, name: mooring-demo}"
    document.write_text(f"kind: ModelService\nmetadata: {{name: idle}}\nspec: {{model: {model}, stopped: true}}\n")
    result = run("apply", "-f", str(document), "--wait", "--timeout", "20", "-o", "json")
    assert (result.status, result.items[0]["status"]["state"]) == (0, "stopped")


def test_waiting_gives_up_in_time(run: Run, tmp_path: Path) -> None:
    document = tmp_path / "slow.yaml"
    document.write_text(
        "kind: ModelService\nmetadata: {name: slow}\nspec: {model: {source: builtin, name: mooring-demo}}\n"
    )
    result = run("apply", "-f", str(document), "--wait", "--timeout", "1")
    assert (result.status, "still pending" in result.err) == (1, True)


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_key_is_shown_although_the_waiting_fails(run: Run, tmp_path: Path, output: str) -> None:
    document = tmp_path / "keyed.yaml"
    document.write_text(
        f"kind: ModelService\nmetadata: {{name: keyed-{output}}}\n"
        "spec: {model: {source: builtin, name: mooring-demo}}\n"
        f"---\nkind: ApiKey\nmetadata: {{name: keyed-{output}}}\nspec: {{}}\n"
    )
    result = run("apply", "-f", str(document), "--wait", "--timeout", "1", "-o", output)
    assert (result.status, "still pending" in result.err) == (1, True)
    assert re.search(r"mk-[\w-]{40}", result.out)
    if output == "json":
        assert result.items[1]["status"]["key"].startswith("mk-")


def test_deploying_says_what_became_of_it_and_shows_the_key_first(run: Run, tmp_path: Path) -> None:
    first = run("deploy", "mooring-demo", "--name", "deployed", "--timeout", "1")
    assert (first.status, "still pending" in first.err) == (1, True)
    assert first.out.startswith("ModelService deployed created\nEndpoint deployed created\n")
    assert "mk-" in first.out
    again = run("deploy", "mooring-demo", "--name", "deployed", "--timeout", "1")
    assert again.out.startswith("ModelService deployed unchanged\nEndpoint deployed unchanged\n")
    (tmp_path / "other.gguf").touch()
    other = run("deploy", str(tmp_path / "other.gguf"), "--name", "deployed")
    assert (other.status, "--update" in other.err) == (1, True)


def test_a_deployment_is_removed_as_a_whole_and_its_name_gets_a_key_that_opens_it_again(run: Run) -> None:
    deploy = ("deploy", "mooring-demo", "--name", "brief", "--no-wait")
    assert run(*deploy).status == 0
    refused = run("services", "delete", "brief")
    assert (refused.status, "mooring services delete brief --with-endpoints" in refused.err) == (1, True)
    assert run("endpoints", "delete", "brief").status == 0
    again = run(*deploy)
    assert "Deleted the API key brief-key" in again.err and "(shown only now)" in again.out
    removed = run("services", "delete", "brief", "--with-endpoints")
    assert removed.status == 0
    assert [line.rpartition(" ")[0] for line in removed.err.splitlines()] == [
        "Deleted the endpoint brief", "Deleted the model service brief", "Deleted the API key brief-key",
    ]  # fmt: skip


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_the_tour_of_the_readme_runs_in_its_order(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = re.findall(r"^\$ \.venv/bin/mooring (.+)$", (ROOT / readme).read_text(encoding="utf-8"), re.MULTILINE)
    tour = [shlex.split(line, comments=True) for line in lines]
    assert {words[0] for words in tour} == {"chat", "deploy", "apply", "services", "events", "keys", "usage", "doctor"}
    monkeypatch.chdir(ROOT)
    with serving(tmp_path) as folder:
        for words in tour:
            if words[0] in ("chat", "doctor"):
                continue  # they need a gateway: tests/e2e has one
            waits = ["--timeout", "1"] if words[0] in ("deploy", "apply") else []
            with pytest.raises(SystemExit) as ended:
                main.run([*words, *waits, "--data-dir", str(folder)])
            err = capsys.readouterr().err
            # No loop runs here: what waits for a model gives up, after all was made.
            assert ended.value.code in (0, None) or (waits and "still pending" in err), f"{words}: {err}"


def test_a_fault_in_one_of_several_files_is_named_by_its_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Project\nmetadata: {name: a}\nspec: {}\n")
    (tmp_path / "b.yaml").write_text("kind: Project\nmetadata: {name: b}\nspec: {colour: red}\n")
    assert f"{tmp_path}/b.yaml, spec.colour" in run("apply", "-f", str(tmp_path)).err


def test_one_object_is_printed_as_such_and_its_making_is_told(run: Run) -> None:
    made = run("endpoints", "create", "told", "-s", "mooring-demo")
    assert "Endpoint told created." in made.err
    assert "Endpoint told updated." in run("endpoints", "create", "told", "-s", "mooring-demo:2").err
    assert "Nothing was applied" not in (refused := run("endpoints", "create", "lost", "-s", "nowhere").err)
    assert "ocument" not in refused
    run("keys", "create", "shape", "-e", "told")
    assert run("keys", "disable", "shape", "-o", "json").object["kind"] == "ApiKey"
    logs = run("services", "logs", "mooring-demo", "-n", "7", "-o", "json").object
    assert logs["lines"] == [f"last 7 lines of {logs['id']}"]


def test_keys_are_listed_with_the_names_of_their_endpoints_and_their_end(run: Run) -> None:
    run("endpoints", "create", "named", "-s", "mooring-demo")
    run("keys", "create", "confined", "-e", "named", "--ttl-days", "2")
    line = next(line for line in run("keys", "list").out.splitlines() if line.startswith("confined"))
    assert line.endswith("named")
    assert re.search(r"20\d\d-\d\d-\d\d", line)


def test_a_key_lives_from_making_to_deletion(run: Run) -> None:
    made = run("keys", "create", "life", "-d", "for a test", "--ttl-days", "1")
    assert made.status == 0, made.err
    assert "mk-" in made.out
    assert "llmos-" in made.out
    assert run("keys", "create", "life").status == 1
    assert "Disabled" in run("keys", "disable", "life").out
    assert "Active" in run("keys", "enable", "life").out
    assert run("keys", "delete", "life").status == 0
    assert "There is no API key 'life'" in run("keys", "get", "life").err


def test_an_endpoint_is_made_re_pointed_and_switched(run: Run) -> None:
    made = run("endpoints", "create", "moving", "-s", "mooring-demo", "-o", "json").object
    moved = run("endpoints", "create", "moving", "-s", "mooring-demo:3", "-o", "json").object
    assert (moved["id"], moved["action"]) == (made["id"], "updated")
    assert "Stopped" in run("endpoints", "disable", "moving").out
    again = run("endpoints", "create", "moving", "-s", "mooring-demo:1", "-o", "json").object
    assert again["spec"]["enabled"] is False
    assert run("endpoints", "delete", made["id"]).status == 0


def test_a_service_is_stopped_started_and_read(run: Run) -> None:
    assert "stop" in run("services", "stop", "mooring-demo").out
    assert run("services", "start", "mooring-demo").status == 0
    assert run("services", "logs", "mooring-demo", "-n", "7").out.startswith("last 7 lines of svc-")
    assert run("services", "events", "mooring-demo").status == 0
    assert run("services", "disable", "mooring-demo", "-o", "json").object["spec"]["enabled"] is False
    assert run("services", "enable", "mooring-demo").status == 0


def test_an_external_service_is_registered_and_deleted(run: Run) -> None:
    made = run("services", "create", "far", "--upstream", "http://127.0.0.1:9/v1", "-o", "json")
    assert made.status == 0, made.err
    assert made.object["kind"] == "ExternalService"
    refused = run("services", "logs", "far")
    assert (refused.status, "it runs elsewhere: http://127.0.0.1:9/v1" in refused.err) == (1, True)
    assert run("services", "delete", "far").status == 0
    assert run("services", "get", "far").status == 1


def test_usage_can_be_asked_for(run: Run) -> None:
    assert run("usage", "-o", "json").items == []
    assert run("usage", "--requests", "--since", "7d", "-o", "json").items == []
    assert run("usage", "--since", "soon").status == 2


def test_a_wrong_key_is_refused_with_what_to_do(run: Run) -> None:
    result = run("get", "keys", "--key", "mk-wrong")
    assert result.status == 1
    assert "key" in result.err


def test_the_administrator_gets_back_in(run: Run, data_dir: Path) -> None:
    before = json.loads((data_dir / "admin.json").read_text())
    assert run("admin", "reset").status == 0
    after = json.loads((data_dir / "admin.json").read_text())
    assert after["api_key"] != before["api_key"]
    assert run("get", "users").status == 0
    assert run("get", "users", "--key", f"admin:{after['password']}").status == 0
    assert run("admin", "seal").status == 0
    assert "password" not in json.loads((data_dir / "admin.json").read_text())
    assert "no password already" in run("admin", "seal").err


def test_the_doctor_names_a_platform_that_is_only_half_there(run: Run) -> None:
    result = run("doctor", "--offline")  # no gateway here: /health is not served
    assert (result.status, "BAD  Platform" in result.out) == (1, True)


# --- changes that are only rehearsed, secrets, projects, pages of a service, terms


@pytest.mark.parametrize(
    "words",
    [
        ("services", "scale", "mooring-demo", "3"),
        ("services", "stop", "mooring-demo"),
        ("services", "start", "mooring-demo"),
        ("services", "disable", "mooring-demo"),
        ("services", "create", "far-dry", "--upstream", "http://127.0.0.1:9/v1"),
        ("endpoints", "create", "dry", "-s", "mooring-demo"),
        ("endpoints", "disable", "kept"),
        ("endpoints", "point", "kept", "-s", "mooring-demo:7"),
        ("endpoints", "delete", "kept"),
        ("keys", "create", "dry"),
        ("keys", "disable", "kept"),
        ("keys", "delete", "kept"),
        ("secrets", "create", "dry", "--from-literal", "token=a"),
        ("secrets", "create", "kept", "--from-literal", "token=b", "--update"),
        ("secrets", "delete", "kept"),
        ("projects", "create", "dry"),
        ("projects", "delete", "kept"),
        ("deploy", "mooring-demo", "--name", "dry"),
        ("delete", "endpoint", "kept"),
    ],
    ids=" ".join,
)
def test_what_is_rehearsed_changes_nothing(run: Run, words: tuple[str, ...]) -> None:
    run("endpoints", "create", "kept", "-s", "mooring-demo")
    run("keys", "create", "kept")
    run("secrets", "create", "kept", "--from-literal", "token=a")
    run("projects", "create", "kept")
    before = everything(run)
    done = run(*words, "--dry-run")
    assert done.status == 0, done.err
    assert "mk-" not in done.out
    assert everything(run) == before


def everything(run: Run) -> list[tuple[str, str, str]]:
    kinds = ("services", "external", "endpoints", "keys", "secrets", "projects")
    return [
        (item["id"], json.dumps(item["spec"], sort_keys=True), str(item["status"].get("specVersion")))
        for kind in kinds
        for item in run("get", kind, "-A", "-o", "json").items
    ]


def test_a_secret_is_made_shown_by_its_keys_replaced_and_deleted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_secret\n")
    made = run("secrets", "create", "hf", "--from-file", f"token={tmp_path}/token", "-o", "json")
    assert (made.status, made.object["kind"]) == (0, "Secret"), made.err
    shown = run("secrets", "get", "hf")
    assert "token" in shown.out and "hf_secret" not in made.out + made.err + shown.out
    assert run("secrets", "create", "hf", "--from-literal", "token=other").status == 1
    assert "is updated" in run("secrets", "create", "hf", "--from-literal", "token=other", "--update").err
    assert "hf" in run("secrets", "list").out
    assert run("secrets", "delete", "hf").status == 0
    assert run("secrets", "get", "hf").status == 1


def test_a_project_lives_from_making_to_deletion(run: Run) -> None:
    assert run("projects", "create", "search", "-d", "the search team").status == 0
    assert "the search team" in run("projects", "list").out
    assert run("projects", "get", "search", "-o", "json").object["metadata"]["name"] == "search"
    assert run("projects", "delete", "search").status == 0


def test_a_service_is_scaled_and_an_endpoint_weighed(run: Run) -> None:
    assert run("services", "scale", "mooring-demo", "2", "-o", "json").object["spec"]["replicas"] == 2
    assert run("services", "scale", "mooring-demo", "1").status == 0
    run("endpoints", "create", "weighed", "-s", "mooring-demo")
    pointed = run("endpoints", "point", "weighed", "-s", "mooring-demo:5", "-o", "json").object
    assert pointed["spec"]["services"] == [{"name": "mooring-demo", "weight": 5}]
    assert run("endpoints", "point", "nowhere", "-s", "mooring-demo").status == 1


def test_the_pages_of_a_service_can_be_read(run: Run, tmp_path: Path) -> None:
    assert "rep-a" in run("services", "replicas", "mooring-demo").out
    assert run("logs", "mooring-demo", "-n", "7", "--replica", "rep-b").out == "last 7 lines of rep-b\n"
    assert "Its replicas: rep-a, rep-b." in run("logs", "mooring-demo", "--replica", "rep-x").err
    assert isinstance(run("events", "-o", "json").items, list)
    assert "curl" in run("services", "instructions", "mooring-demo", "--language", "curl").out
    run("endpoints", "create", "told-how", "-s", "mooring-demo")
    endpoint = run("endpoints", "instructions", "told-how", "-o", "json").object
    assert endpoint["dialects"][0]["samples"]
    target = tmp_path / "demo.ipynb"
    assert run("services", "notebook", "mooring-demo", "--file", str(target)).status == 0
    assert json.loads(target.read_text())["nbformat"] == 4
    assert run("cache", "ls", "-o", "json").object["items"] == []
    assert "0 models" in run("cache", "prune").err


def test_terms_must_be_agreed_to_where_there_are_some(run: Run, tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("Be kind to the models.\n")
    assert run("terms", "set", str(tmp_path / "terms.txt")).status == 0
    try:
        assert run("terms", "show").out == "Be kind to the models.\n"
        wanted = ("endpoints", "create", "agreed", "-s", "mooring-demo")
        refused = run(*wanted)
        assert (refused.status, "--agree-terms" in refused.err) == (1, True)
        assert run(*wanted, "--agree-terms").status == 0
    finally:
        (tmp_path / "none.txt").touch()
        assert run("terms", "set", str(tmp_path / "none.txt")).status == 0
    assert run("endpoints", "create", "free", "-s", "mooring-demo").status == 0
