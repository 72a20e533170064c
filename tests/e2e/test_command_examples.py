"""Every command's help shows an example, and every example is run here as it stands, on a real platform.

A new command is found by itself. If its example names objects or files that are not there yet, add them to `OBJECTS`
or `Stage.prepare`; if it can't run as it stands, say what is put in its place in `INSTEAD`.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.conftest import MakePlatform
from tests.e2e.running import START_S, STOP_S, Done, Platform, free_port, python_environment, run_command, until
from typer.main import get_command

import mooring
from mooring.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
# Python's start and the imports take longer than most commands: each is forked from a process that has them behind it.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([run_command.__module__, "mooring.cli.main"])
DEMO = {"model": {"source": "builtin", "name": "mooring-demo"}, "replicas": 1, "stopped": False, "enabled": True}
# What the examples name; put back before each of them.
OBJECTS = [
    {"kind": "Project", "metadata": {"name": "search"}, "spec": {}},
    {"kind": "Secret", "metadata": {"name": "hf"}, "spec": {"stringData": {"token": "hf_first"}}},
    {"kind": "ModelService", "metadata": {"name": "demo"}, "spec": DEMO},
    {"kind": "ModelService", "metadata": {"name": "demo2"}, "spec": DEMO},
    {"kind": "Endpoint", "metadata": {"name": "chat"}, "spec": {"services": [{"name": "demo"}], "enabled": True}},
    {"kind": "ApiKey", "metadata": {"name": "my-key"}, "spec": {"description": "for my app"}},
]
# What the example itself makes must not be there before.
MADE = {
    "mooring keys create": "keys/my-key",
    "mooring secrets create": "secrets/hf",
    "mooring projects create": "projects/search",
}
# What a test may not use, and what it uses instead.
INSTEAD = {"9000": lambda stage: str(free_port()), "/srv/mooring": lambda stage: str(stage.folder / "restored")}
# What must be found in what a command says on stdout or stderr; every other one must say something, too.
SAYS = {
    "mooring version": rf"^mooring {re.escape(mooring.__version__)}$",
    "mooring doctor": r"ok +Gateway: answers",
    "mooring backup": r"Wrote mooring-2026-11-25\.zip",
    "mooring restore": r"Restored into ",
    "mooring completion": r"complete -o default -F",
    "mooring deploy": r"Key: +mk-[\s\S]*curl http[\s\S]*Ready\.",
    "mooring chat": r"Hello",
    "mooring usage": r"TOKENS OUT",
    "mooring logs": r"listening on",
    "mooring events": r"is healthy",
    "mooring apply": r"Endpoint chat (created|updated|unchanged)",
    "mooring get": r"kind: Endpoint",
    "mooring delete": r"Deleted the endpoint chat",
    "mooring admin reset": r"new password and a new key",
    "mooring cache ls": r"Nothing yet",
    "mooring cache prune": r"0 models would be removed",
    "mooring terms show": r"no terms of use",
    "mooring terms set": r"terms of use are set",
    "mooring services list": r"demo2",
    "mooring services get": r"state: healthy",
    "mooring services create": r"ExternalService elsewhere created",
    "mooring services delete": r"Deleted the model service demo2",
    "mooring services stop": r"demo2 .*stop",
    "mooring services scale": r"demo2",
    "mooring services replicas": r"rep-\w+ +ready",
    "mooring services logs": r"listening on",
    "mooring services events": r"is healthy",
    "mooring services instructions": r"curl .*http://127\.0\.0\.1",
    "mooring services notebook": r"Wrote demo\.ipynb",
    "mooring endpoints list": r"chat",
    "mooring endpoints get": r'"kind": "Endpoint"',
    "mooring endpoints create": r"demo:9, demo2:1",
    "mooring endpoints point": r"demo:1, demo2:1",
    "mooring endpoints instructions": r"curl .*http://127\.0\.0\.1",
    "mooring endpoints delete": r"Deleted the endpoint chat",
    "mooring endpoints disable": r"Stopped",
    "mooring keys list": r"my-key",
    "mooring keys create": r"Key: +mk-",
    "mooring keys delete": r"Deleted the API key my-key",
    "mooring keys disable": r"Disabled",
    "mooring secrets list": r"hf",
    "mooring secrets create": r"The secret hf is created: token",
    "mooring secrets delete": r"Deleted the secret hf",
    "mooring projects list": r"default",
    "mooring projects create": r"Created the project search",
    "mooring projects delete": r"Deleted the project search",
}
SERVERS = {"mooring up": "Mooring is ready"}  # commands that run until they are told to stop


def examples(command: object = None, path: str = "mooring") -> Iterator[tuple[str, str]]:
    """Yield the path and the example of every command that stands alone."""
    command = get_command(app) if command is None else command
    below = getattr(command, "commands", None)
    if below is None:
        found = re.search(r"Example: \[bold\](.+?)\[/bold\]", command.help or "")  # type: ignore[attr-defined]
        yield path, found[1] if found else ""
        return
    for name, child in below.items():
        yield from examples(child, f"{path} {name}")


@dataclass
class Stage:
    """A platform on which the examples are played, each after everything was put back."""

    platform: Platform

    @property
    def folder(self) -> Path:
        return self.platform.folder

    def prepare(self, path: str) -> None:
        """Put objects and files there that the example of `path` names."""
        self.platform.manage("PUT", "terms", {"text": ""})
        self.platform.manage("POST", "apply", {"items": OBJECTS})
        if path in MADE:
            self.platform.manage("DELETE", f"{MADE[path]}?project=default")
        (self.folder / "hf-token.txt").write_text("hf_from_a_file\n")
        (self.folder / "terms.txt").write_text("Be kind to the models.\n")
        for name in ("mooring-2026-11-25.zip",) if path == "mooring backup" else ():
            (self.folder / name).unlink(missing_ok=True)
        if path == "mooring restore" and not (self.folder / "mooring-2026-11-25.zip").exists():
            assert self.run(["backup", "mooring-2026-11-25.zip"]).status == 0

    def words(self, example: str) -> list[str]:
        """Return the arguments of the example with what a test may not use replaced."""
        return [INSTEAD[word](self) if word in INSTEAD else word for word in shlex.split(example)[1:]]

    def run(self, words: list[str]) -> Done:
        """Run a command to its end, beside the platform: a process of its own, forked where the imports are done."""
        out, err = self.folder / "ran.out", self.folder / "ran.err"
        process = FORKS.Process(target=run_command, args=(words, self._environment(words), self.folder, out, err))
        process.start()
        process.join(120)
        assert process.exitcode is not None, "it does not end"
        return Done(process.exitcode, out.read_text(), err.read_text())

    def serve(self, words: list[str], mark: str) -> Done:
        """Run a command that serves until it says `mark`, and stop it in order."""
        out, err = self.folder / "served.out", self.folder / "served.err"
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(
                self._command([*words, "--data-dir", str(self.folder / "served")]), stdin=subprocess.DEVNULL,
                stdout=stdout, stderr=stderr, env=self._environment(words), cwd=self.folder, start_new_session=True,
            )  # fmt: skip
            try:
                until(lambda: mark in out.read_text() or process.poll() is not None, mark, START_S)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(STOP_S)
        return Done(process.returncode, out.read_text(), err.read_text())

    def _command(self, words: list[str]) -> list[str]:
        return [sys.executable, "-m", "mooring", *words]

    def _environment(self, words: list[str]) -> dict[str, str]:
        beside = {} if "--data-dir" in words else {"MOORING_DATA_DIR": str(self.platform.data_dir)}
        return python_environment(**beside, MOORING_BACKUP_PASSPHRASE="a passphrase for the examples", NO_COLOR="1")


@pytest.fixture(scope="module")
def stage(make_module_platform: MakePlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    models = folder / "models"
    models.mkdir()
    shutil.copy(Path(mooring.__file__).parent / "assets" / "mooring-demo.gguf", models / "qwen3-0.6b-q8_0.gguf")
    shutil.copytree(ROOT / "examples", folder / "examples")
    platform = make_module_platform(folder=folder, model_roots=str(models)).start()
    stage = Stage(platform)
    stage.prepare("")
    until(lambda: _healthy(platform, "demo") and _healthy(platform, "demo2"), "the services of the examples")
    yield stage


def _healthy(platform: Platform, name: str) -> bool:
    return platform.manage("GET", f"services/{name}?project=default")["status"]["state"] == "healthy"


@pytest.mark.parametrize(("path", "example"), list(examples()), ids=[path for path, _ in examples()])
def test_the_example_of_each_command_works_as_it_stands(stage: Stage, path: str, example: str) -> None:
    assert example.startswith(path), f"{path} has no example of its own"
    stage.prepare(path)
    words = stage.words(example)
    done = stage.serve(words, SERVERS[path]) if path in SERVERS else stage.run(words)
    assert done.status == 0, done.err
    assert "Traceback" not in done.err
    assert re.search(SAYS.get(path, r"\S"), done.out + done.err, re.MULTILINE), f"{done.out}\n{done.err}"


def test_the_tables_of_this_file_name_only_commands_that_exist() -> None:
    known = {path for path, _ in examples()}
    assert {*MADE, *SAYS, *SERVERS} <= known


def test_what_examples_wrote_can_be_read(stage: Stage) -> None:
    notebook = stage.run(["services", "notebook", "mooring-demo", "--file", "-"])
    assert json.loads(notebook.out)["nbformat"] == 4
