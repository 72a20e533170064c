"""Reading what `mooring apply` takes: YAML or JSON, one or several documents per file, a folder, or stdin."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mooring.cli.problems import CommandError, UsageError

SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Placed:
    """A document and where it stands: its file and, if the file holds several, its number there, from 1."""

    document: dict[str, Any]
    place: str


def read_placed(sources: list[str]) -> list[Placed]:
    """Return all documents of files, folders and "-" (stdin), in the order given; files of a folder by name.

    Raises:
        UsageError: a source does not exist or holds no document.
        CommandError: a document is not valid YAML or not an object with a `kind`.
    """
    documents: list[Placed] = []
    for source in sources:
        found = [placed for path in _files(source) for placed in _place(path, _parse(path))]
        if not found:
            raise UsageError(f"{source} holds no document.", "A document starts with a line such as: kind: Endpoint")
        documents += found
    return documents


def name_places(error: CommandError, placed: list[Placed]) -> CommandError:
    """Return a refusal that names files instead of counting documents over all of them."""
    places = [each.place for each in placed]

    def name(match: re.Match[str]) -> str:
        number = int(match[1])
        return places[number - 1] if 0 < number <= len(places) else match[0]

    if len({place.partition(", document ")[0] for place in places}) > 1:
        error.message = re.sub(r"\b[Dd]ocument (\d+)", name, error.message)
    for fault in error.faults:
        index = fault.get("index")
        fault["place"] = places[index] if isinstance(index, int) and len(places) > 1 else ""
    return error


def _place(path: str, documents: list[dict[str, Any]]) -> list[Placed]:
    shown = "stdin" if path == "-" else path
    several = len(documents) > 1
    return [
        Placed(document, f"{shown}, document {number}" if several else shown)
        for number, document in enumerate(documents, 1)
    ]


def _files(source: str) -> list[str]:
    if source == "-" or Path(source).is_file():
        return [source]
    if Path(source).is_dir():
        return [str(path) for path in sorted(Path(source).iterdir()) if path.suffix in SUFFIXES]
    raise UsageError(f"There is no file {source}.", "Give a file, a folder, or - for stdin.")


def _parse(path: str) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        parsed = list(yaml.load_all(text, _Loader))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} can't be read: {error}.") from None
    except yaml.YAMLError as error:
        raise CommandError(f"{path} is not valid YAML: {error}") from None
    documents: list[dict[str, Any]] = []
    for part in parsed:
        if isinstance(part, dict) and isinstance(part.get("items"), list):
            documents += part["items"]  # what `-o json` printed can be applied again
        elif part is not None:
            documents.append(part)
    for number, document in enumerate(documents, 1):
        if not isinstance(document, dict) or "kind" not in document:
            raise CommandError(f"{path}: document {number} is not an object with a 'kind'.")
    return documents


class _Loader(yaml.SafeLoader):
    """Dates stay text, as the API takes them."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (yaml's own class attribute)
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
