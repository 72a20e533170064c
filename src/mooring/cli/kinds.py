"""The kinds of the management API as the command line names, lists and shows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mooring.cli.client import Client, Json
from mooring.cli.problems import CommandError, NotFoundError, UsageError

API = "/manage/v1"
Column = tuple[str, Callable[[Json], Any]]


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Attributes:
        name: as in `kind:` of a document.
        words: what the user may type for it.
        collection: its path below /manage/v1.
        columns: title and value of each column of its table.
    """

    name: str
    words: tuple[str, ...]
    collection: str
    columns: tuple[Column, ...]

    @property
    def told(self) -> str:
        """The kind in a sentence, without article."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name).lower()
        return words.replace("api key", "API key")


def _at(*path: str) -> Callable[[Json], Any]:
    def value(item: Json) -> Any:
        found: Any = item
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        return "" if found is None else found

    return value


def _replicas(item: Json) -> str:
    status = item.get("status", {})
    return f"{status.get('readyReplicas', 0)}/{status.get('replicas', 0)}" if item["kind"] == "ModelService" else "–"


def _targets(item: Json) -> str:
    targets = item["spec"].get("services", [])
    if len(targets) == 1:
        return str(targets[0]["name"])
    return ", ".join(f"{target['name']}:{target.get('weight', 1)}" for target in targets)


def _state(item: Json) -> str:
    state = str(item.get("status", {}).get("state", ""))
    return f"{state}, disabled" if item["spec"].get("enabled") is False else state


def _kind(item: Json) -> str:
    return "model" if item["kind"] == "ModelService" else "external"


def _expiry(item: Json) -> str:
    return str(item["spec"].get("expiresAt") or "never")[:10]


def _first_sentence(item: Json) -> str:
    """Return the beginning of the reason: all of it would push aside what an endpoint leads to."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", str(item.get("status", {}).get("reason") or ""), maxsplit=1)[0]


def _scope(item: Json) -> str:
    return ", ".join(item["spec"].get("endpoints") or ["all"])


NAME: Column = ("NAME", _at("metadata", "name"))
ID: Column = ("ID", _at("id"))
STATE: Column = ("STATE", _at("status", "state"))
REASON: Column = ("REASON", _at("status", "reason"))
SERVICES: tuple[Column, ...] = (
    NAME, ID, ("KIND", _kind), ("STATE", _state), ("READY", _replicas), ("MODEL", _at("status", "servedModel")), REASON,
)  # fmt: skip
_SERVICE = tuple(column for column in SERVICES if column[0] != "KIND")

KINDS = (
    Kind(
        "Project",
        ("project", "projects"),
        "projects",
        (NAME, ID, ("DESCRIPTION", _at("spec", "description"))),
    ),
    Kind("User", ("user", "users"), "users", (NAME, ID, ("ROLE", _at("spec", "role")), STATE)),
    Kind("Secret", ("secret", "secrets"), "secrets", (NAME, ID, ("TYPE", _at("spec", "type")))),
    Kind("ModelService", ("service", "services", "svc", "modelservice", "modelservices"), "services", _SERVICE),
    Kind(
        "ExternalService",
        ("external-service", "external-services", "external", "externalservice", "externalservices"),
        "external-services",
        _SERVICE,
    ),
    Kind(
        "Endpoint",
        ("endpoint", "endpoints", "ep"),
        "endpoints",
        (NAME, ID, STATE, ("SERVICES", _targets), ("REASON", _first_sentence)),
    ),
    Kind(
        "ApiKey",
        ("key", "keys", "api-key", "apikey", "apikeys"),
        "keys",
        (
            ("LABEL", _at("metadata", "name")),
            ID,
            STATE,
            ("ACCESS", _at("spec", "access")),
            ("EXPIRES", _expiry),
            ("ENDPOINTS", _scope),
        ),
    ),
)
_BY_WORD = {word: kind for kind in KINDS for word in (*kind.words, kind.name)}


def find_kind(word: str) -> Kind:
    """Return the kind that `word` names.

    Raises:
        UsageError: none does.
    """
    kind = _BY_WORD.get(word) or _BY_WORD.get(word.lower())
    if kind is None:
        raise UsageError(f"There is no kind '{word}'.", "Kinds: " + ", ".join(kind.collection for kind in KINDS))
    return kind


def object_path(kind: Kind, name: str) -> str:
    """Return the path of one object, by id or by name."""
    return f"{API}/{kind.collection}/{quote(name, safe='')}"


def get_object(client: Client, kind: Kind, name: str, project: str) -> Json:
    """Return the object with this id, or with this name in `project`.

    Raises:
        NotFoundError: there is none.
    """
    try:
        return client.get(object_path(kind, name), project=project)
    except NotFoundError:
        raise NotFoundError(
            f"There is no {kind.told} '{name}' in project '{project}'.",
            f"See what exists with: mooring get {kind.words[0]}",
        ) from None


def get_service(client: Client, name: str, project: str) -> tuple[Kind, Json]:
    """Return a model service or an external service by id or name: their names are unique over both.

    Raises:
        CommandError: there is none.
    """
    for kind in (find_kind("ModelService"), find_kind("ExternalService")):
        try:
            return kind, get_object(client, kind, name, project)
        except NotFoundError:
            continue
    raise NotFoundError(f"There is no service '{name}' in project '{project}'.", "See: mooring services list")


def names_of(client: Client, *words: str) -> dict[str, str]:
    """Return the names of all objects of some kinds by id; {} if this key may not look."""
    names: dict[str, str] = {}
    for word in words:
        try:
            items = client.items(f"{API}/{find_kind(word).collection}")
        except CommandError:
            continue
        names |= {item["id"]: item["metadata"]["name"] for item in items}
    return names


def apply_documents(client: Client, documents: list[Json], *, dry_run: bool = False) -> list[Json]:
    """Apply documents in one transaction and return the objects with their `action`.

    Raises:
        CommandError: one was refused; nothing was applied.
    """
    answer = client.post(f"{API}/apply", {"items": documents}, dryRun="true" if dry_run else None)
    return answer["items"]
