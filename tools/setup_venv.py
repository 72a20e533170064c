"""Set up ./.venv from the package index: `python tools/setup_venv.py .venv runtime|test|dev`.

Standard library only, because it runs before anything is installed. Uses uv when it is there, else pip;
wheels only, so no compiler is needed; versions as in constraints.txt. Ends by touching make's stamps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Each set holds those before it, so that having a later one spares installing an earlier one.
EXTRAS = {"runtime": [], "test": ["test"], "dev": ["dev", "test"]}


class SetupError(Exception):
    """The environment can't be set up; the text says why and what to do."""


def main(arguments: list[str]) -> int:
    """Set up the environment `arguments[0]` with the package set `arguments[1]`; return the exit status."""
    venv, chosen = Path(arguments[0]), arguments[1]
    print(f"Setting up {venv} ({chosen}) with {sys.version.split()[0]}; this is done once.", flush=True)
    try:
        uv = shutil.which("uv")
        if uv:
            _install_with_uv(uv, venv, chosen)
        else:
            _install_with_pip(venv, chosen)
    except SetupError as error:
        print(f"\nSetting up failed: {error}", file=sys.stderr)
        return 1
    _compile(venv)
    for held in list(EXTRAS)[: list(EXTRAS).index(chosen) + 1]:
        (venv / f".{held}").touch()
    return 0


def requirements(chosen: str) -> list[str]:
    """Return the requirements of one package set as pyproject.toml states them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for name in EXTRAS[chosen] for line in extras[name])]


def _install_with_pip(venv: Path, chosen: str) -> None:
    python = venv / "bin" / "python"
    if not _works(python, "pip"):
        _run(
            [sys.executable, "-m", "venv", "--clear", str(venv)],
            "this Python can't make virtual environments. Install the package python3-venv, or install uv.",
        )
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--only-binary", ":all:", "-c", str(ROOT / "constraints.txt")]
    _run([*install, *requirements(chosen)], _INDEX_ADVICE)
    # Itself without its dependencies: these are installed, and the editable build is no wheel of an index.
    _run([*pip, "install", "--quiet", "--no-deps", "--editable", str(ROOT)], _INDEX_ADVICE)


def _install_with_uv(uv: str, venv: Path, chosen: str) -> None:
    python = venv / "bin" / "python"
    environ = {**os.environ, **pip_configuration()}
    if not _works(python, "sys"):
        create = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)]
        _run(create, "uv could not make the virtual environment; the lines above say why.", environ)
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    wheels = ["--only-binary", ":all:", "-c", str(ROOT / "constraints.txt")]
    _run([*install, *wheels, *requirements(chosen)], _INDEX_ADVICE, environ)
    _run([*install, "--no-deps", "--editable", str(ROOT)], _INDEX_ADVICE, environ)


_INDEX_ADVICE = (
    "the packages could not be installed (the lines above say which). Check that the package index is "
    "reachable; behind a mirror set PIP_INDEX_URL, behind a proxy HTTPS_PROXY."
)


def pip_configuration() -> dict[str, str]:
    """Return pip's configured indexes as uv's variables, so that a mirror set up for pip serves uv too."""
    asked = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    configured: dict[str, str] = {}
    for line in asked.stdout.splitlines():
        name, _, value = line.partition("=")
        # "global.index-url" and ":env:.index-url"; what comes from the environment is listed last and wins.
        configured[name.rpartition(".")[2]] = value.strip("'\"")
    translated = {
        "index-url": ("UV_DEFAULT_INDEX", " "),
        "extra-index-url": ("UV_INDEX", " "),
        "find-links": ("UV_FIND_LINKS", ","),
        "cert": ("SSL_CERT_FILE", ""),
        "trusted-host": ("UV_INSECURE_HOST", " "),
    }
    result: dict[str, str] = {}
    for name, (variable, separator) in translated.items():
        value = configured.get(name, "").replace("\\n", " ")
        if value and variable not in os.environ:
            result[variable] = separator.join(value.split()) if separator else value
    if "UV_INDEX" in result:
        # pip looks at all its indexes alike; uv would stop at the first that knows the name.
        result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return result


def _works(python: Path, module: str) -> bool:
    if not python.exists():
        return False
    check = f"import sys, {module}; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([str(python), "-c", check], capture_output=True, check=False).returncode == 0


def _run(command: list[str], advice: str, environ: dict[str, str] | None = None) -> None:
    if subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode != 0:
        raise SetupError(advice)


def _compile(venv: Path) -> None:
    # Some machines forbid Python to write bytecode at run time: every start would compile everything anew.
    python = venv / "bin" / "python"
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [str(python), "-m", "compileall", "-q", "-j", "0", str(venv / "lib"), str(ROOT / "src")]
    subprocess.run(command, env=environ, capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
