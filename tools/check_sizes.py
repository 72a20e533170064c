"""Refuse what has grown too large: `python -m tools.check_sizes`. CONTRIBUTING.md names the limits."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "tools", "models", "benchmarks")
FILE_LINES = 600
FUNCTION_LINES = 80
FOLDER_FILES = 12
# One file per noun, page, command or story: these folders grow with the product, not with sloppiness.
NOUN_FOLDERS = frozenset(
    {"core", "store", "control", "admin", "console", "cli", "versions", "migrations", "integration", "e2e"}
)
BANNED = frozenset({"utils", "util", "common", "helpers", "helper", "managers", "manager", "misc"})


def main() -> int:
    """Print every breach; return 1 if there is one."""
    breaches = [breach for folder in FOLDERS for breach in check(ROOT / folder)]
    for breach in breaches:
        print(breach)
    print(f"Sizes: {len(breaches)} too large." if breaches else "Sizes: all within the limits.")
    return 1 if breaches else 0


def check(top: Path) -> Iterator[str]:
    """Yield one sentence for each breach below `top`; nothing if the folder does not exist."""
    for path in sorted(top.rglob("*.py")):
        if "migrations" not in path.parts:
            yield from _check_file(path)
    for folder in sorted(path for path in [top, *top.rglob("*")] if path.is_dir()):
        yield from _check_folder(folder)


def _check_file(path: Path) -> Iterator[str]:
    shown = path.relative_to(ROOT)
    if path.stem in BANNED:
        yield f"{shown}: '{path.stem}' says nothing about what is inside; name the noun."
    source = path.read_text(encoding="utf-8")
    lines = source.count("\n")
    if lines > FILE_LINES:
        yield f"{shown}: {lines} lines, {FILE_LINES} allowed; split it by noun."
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{shown}:{node.lineno}: {node.name} has {length} lines, {FUNCTION_LINES} allowed."


def _check_folder(folder: Path) -> Iterator[str]:
    if folder.name in NOUN_FOLDERS:
        return
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    if len(files) > FOLDER_FILES:
        shown = folder.relative_to(ROOT)
        yield f"{shown}/: {len(files)} files, {FOLDER_FILES} allowed; make a folder of what belongs together."


if __name__ == "__main__":
    sys.exit(main())
