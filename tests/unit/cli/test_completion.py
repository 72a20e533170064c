"""Completion, by really sourcing the script in a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.scripted import Script, run

import mooring

SOURCE = """
source <(mooring completion bash)
COMP_WORDS=({words}) COMP_CWORD={last}
_mooring_completion mooring
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which `mooring` is a program on the PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "mooring").write_text(f'#!/bin/sh\nexec {sys.executable} -m mooring "$@"\n')
    (programs / "mooring").chmod(0o755)
    source = str(Path(mooring.__file__).parents[1])
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": source}


def complete(environ: dict[str, str], *words: str) -> list[str]:
    quoted = " ".join(f"'{word}'" for word in words)
    script = SOURCE.format(words=quoted, last=len(words) - 1)
    done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=True)
    return [line for line in done.stdout.splitlines() if line]


def test_bash_completes_commands_options_kinds_and_names(script: Script, shell: dict[str, str]) -> None:
    script.on(
        "GET", "/manage/v1/services", {"items": [{"metadata": {"name": "qwen3"}}, {"metadata": {"name": "demo"}}]}
    )
    script.on("GET", "/manage/v1/external-services", {"items": [{"metadata": {"name": "qwen-far"}}]})
    assert complete(shell, "mooring", "serv") == ["services"]
    assert complete(shell, "mooring", "deploy", "--token-") == ["--token-secret"]
    assert complete(shell, "mooring", "get", "endp") == ["endpoint"]
    assert complete(shell, "mooring", "services", "get", "qw") == ["qwen-far", "qwen3"]
    assert complete(shell, "mooring", "get", "service", "d") == ["demo"]


def test_without_a_platform_no_name_is_offered_and_nothing_is_said(
    tmp_path: Path, shell: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {**shell, "MOORING_URL": "http://127.0.0.1:1", "MOORING_API_KEY": "mk-x"}
    assert complete(environ, "mooring", "services", "get", "q") == []


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("completion", shell_name) == 0
    assert f"_MOORING_COMPLETE=complete_{shell_name}" in capsys.readouterr().out
