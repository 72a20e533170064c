"""The documentation says what is: generated pages, commands, links, paths and examples."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from mooring.cli.main import app
from mooring.core import errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(group: object = None, path: str = "mooring") -> dict[str, object]:
    group = get_command(app) if group is None else group
    below = getattr(group, "commands", None)
    if below is None:
        return {path: group}
    found: dict[str, object] = {path: group}
    for name, child in below.items():
        found |= commands(child, f"{path} {name}")
    return found


def test_generated_pages_are_up_to_date() -> None:
    code = (
        "import json; from tools.write_reference import PAGES, FOLDER;"
        "print(json.dumps([n for n, p in PAGES.items() if (FOLDER / n).read_text(encoding='utf-8') != p()]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == [], "run: python -m tools.write_reference"


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{shown(page)} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
            assert heading in slugs, f"{shown(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_make_targets_named_in_the_docs_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^\$ |`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_commands_and_options_named_in_the_docs_exist(page: Path) -> None:
    known = commands()
    lines = re.findall(r"(?:^\$ (?:\.venv/bin/)?|`)(mooring [a-z][^`\n]*)", page.read_text(encoding="utf-8"), re.M)
    for line in lines:
        words = line.partition("#")[0].split()
        if "|" in words[-1] or "…" in line:
            continue
        path = words[0]
        for word in words[1:]:
            if f"{path} {word}" not in known:
                break
            path = f"{path} {word}"
        command = known[path]
        assert getattr(command, "commands", None) is None, f"{shown(page)}: {line}: no such command"
        options = {option for part in command.params for option in part.opts} | {"-h", "--help"}  # type: ignore[attr-defined]
        used = set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", " ".join(words)))
        assert used <= options, f"{shown(page)}: {line}"


@pytest.mark.parametrize("path", [path for path, command in commands().items() if path != "mooring"])
def test_every_command_explains_itself_with_an_example(path: str) -> None:
    command = commands()[path]
    if getattr(command, "commands", None) is not None:
        assert command.help  # type: ignore[attr-defined]
        return
    example = re.search(r"Example: \[bold\](.+?)\[/bold\]", command.help or "")  # type: ignore[attr-defined]
    assert example is not None
    assert example.group(1).startswith(path)
    for part in command.params:  # type: ignore[attr-defined]
        assert part.help, f"{path}: {part.name} has no help"


def test_the_readmes_begin_with_what_a_newcomer_needs() -> None:
    for readme in READMES:
        screen = "\n".join(readme.read_text(encoding="utf-8").splitlines()[:45])
        for needed in ("make up", "curl http://127.0.0.1:8080/v1/chat/completions", "make test", "reconcile"):
            assert needed in screen, f"{shown(readme)}: {needed}"


def test_the_readmes_say_the_same_in_the_same_order() -> None:
    def outline(readme: Path) -> tuple[list[str], list[str], set[str], int]:
        text = readme.read_text(encoding="utf-8")
        levels = re.findall(r"^(#+) ", text, re.MULTILINE)
        lines = re.findall(r"^\$ \.venv/bin/mooring (\w+(?: [a-z][\w-]*)?)", text, re.MULTILINE)
        links = set(re.findall(r"\]\(([^)\s]+)\)", text)) - {"README.md", "README.zh.md"}
        return levels, lines, links, text.count("```")

    assert outline(READMES[0]) == outline(READMES[1])


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"^[├└│─ ]*(\w+) +(\d{3}) (\w+)( +\(retryable\))?$", errors.__doc__ or "", re.MULTILINE)
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.MooringError)]
    told = {(name, int(status), code, bool(retryable)) for name, status, code, retryable in drawn}
    assert told == {(c.__name__, c.status, c.code, c.retryable) for c in classes}
    assert len({c.code for c in classes}) == len(classes)


@pytest.mark.parametrize("package", ["mooring.engines"])
def test_registered_extensions_can_be_imported(package: str) -> None:
    registry = importlib.import_module(package).REGISTRY
    assert registry
    for name, dotted in registry.items():
        assert importlib.import_module(dotted), name


def test_files_named_in_the_map_exist() -> None:
    text = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`((?:[a-z]+/)*[a-z_]+\.py)`", text)):
        assert any((base / name).exists() for base in (ROOT, ROOT / "src" / "mooring")), name


def test_every_folder_of_the_package_is_on_the_map() -> None:
    text = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    for path in (ROOT / "src" / "mooring").iterdir():
        if (path / "__init__.py").exists():
            assert f"`{path.name}/`" in text, path.name


def test_examples_are_valid_documents_of_known_kinds() -> None:
    from mooring.control.orders import RULES
    from mooring.core.objects import read

    examples = sorted((ROOT / "examples").rglob("*.yaml"))
    assert examples
    for path in examples:
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            assert read(RULES[document["kind"]].model, document).kind == document["kind"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=shown)
def test_documents_shown_in_the_how_tos_are_valid(page: Path) -> None:
    from mooring.control.orders import RULES
    from mooring.core.objects import read

    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for document in yaml.safe_load_all(block):
            read(RULES[document["kind"]].model, document)


def test_tested_versions_lie_within_the_ranges() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        name = requirement.name.lower()
        version = {key.lower(): value for key, value in pinned.items()}[name]
        assert version in requirement.specifier, name
