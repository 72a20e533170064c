"""The keys that `mooring deploy` made: which one opens an endpoint, and which ones open nothing any more."""

from __future__ import annotations

from dataclasses import dataclass

from mooring.cli.client import Client, Json
from mooring.cli.deployment import free_label, label_for, made_for
from mooring.cli.kinds import API, find_kind, object_path
from mooring.cli.output import say
from mooring.cli.problems import NotFoundError


@dataclass(frozen=True)
class Access:
    """How an endpoint is opened.

    Attributes:
        label: of the key that opens it, or of the one to make.
        opens: whether that key exists.
        useless: keys that `mooring deploy` made for this service and that open no endpoint that exists.
    """

    label: str
    opens: bool
    useless: tuple[Json, ...] = ()


def find_access(client: Client, service: str, endpoint: Json, project: str) -> Access:
    """Return which key opens a service's endpoint, or what label a new one is to have."""
    keys = client.items(f"{API}/keys", project=project)
    ours = [key for key in keys if key["metadata"]["name"] == label_for(service) or made_for(key, service)]
    for key in ours:
        if opens(key, {endpoint["id"], endpoint["metadata"]["name"]}):
            return Access(key["metadata"]["name"], opens=True)
    useless = useless_keys(keys, service, existing_endpoints(client, project)) if ours else []
    taken = {key["metadata"]["name"] for key in keys} - {key["metadata"]["name"] for key in useless}
    return Access(free_label(service, taken), opens=False, useless=tuple(useless))


def useless_keys(keys: list[Json], service: str, endpoints: set[str]) -> list[Json]:
    """Return the keys that `mooring deploy` made for a service and that open none of `endpoints` (names and ids)."""
    return [key for key in keys if made_for(key, service) and not opens(key, endpoints)]


def opens(key: Json, endpoints: set[str]) -> bool:
    """Whether a key opens one of the endpoints; a key without a scope opens all of its project."""
    scope = key["spec"].get("endpoints")
    return not scope or bool(endpoints & set(scope))


def existing_endpoints(client: Client, project: str) -> set[str]:
    """Return the names and ids of the endpoints of a project."""
    items = client.items(f"{API}/endpoints", project=project)
    return {ref for item in items for ref in (item["id"], item["metadata"]["name"])}


def delete_key(client: Client, key: Json) -> None:
    """Delete a key and say so."""
    try:
        client.delete(object_path(find_kind("key"), key["id"]))
    except NotFoundError:  # somebody else was quicker
        return
    say(f"Deleted the API key {key['metadata']['name']} ({key['id']}): it opened nothing any more.")
