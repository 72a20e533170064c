"""Deleting a service together with what `mooring deploy` made around it: endpoints, keys, the hub's token."""

from __future__ import annotations

from dataclasses import dataclass

from mooring.cli.access import useless_keys
from mooring.cli.client import Client, Json
from mooring.cli.deployment import secret_for
from mooring.cli.kinds import API, find_kind, get_object, object_path
from mooring.cli.output import say
from mooring.cli.problems import CommandError, NotFoundError

CONFLICT = 409


@dataclass(frozen=True)
class Removal:
    """What goes: the endpoints that lead only to the service, the service, its keys and its secret, in this order."""

    endpoints: tuple[Json, ...]
    service: Json
    keys: tuple[Json, ...]
    secret: Json | None

    @property
    def items(self) -> list[Json]:
        """All of it, in the order in which it can be deleted."""
        return [*self.endpoints, self.service, *self.keys, *([self.secret] if self.secret else [])]


def find_removal(client: Client, service: Json) -> Removal:
    """Return what goes with a service.

    Raises:
        CommandError: an endpoint leads to the service and to others too.
    """
    name, project = service["metadata"]["name"], service["metadata"]["project"]
    endpoints = client.items(f"{API}/endpoints", project=project)
    leading = [item for item in endpoints if name in _targets(item)]
    if shared := [item["metadata"]["name"] for item in leading if len(_targets(item)) > 1]:
        raise CommandError(
            f"The service '{name}' shares the endpoint(s) {', '.join(shared)} with other services.",
            f"Point them at the others first: mooring endpoints point {shared[0]} -s …",
        )
    left = {ref for item in endpoints if item not in leading for ref in (item["id"], item["metadata"]["name"])}
    keys = useless_keys(client.items(f"{API}/keys", project=project), name, left)
    return Removal(tuple(leading), service, tuple(keys), _secret(client, service))


def remove(client: Client, removal: Removal) -> None:
    """Delete all of it and say so; a secret that something else uses stays."""
    for item in removal.items:
        try:
            client.delete(object_path(find_kind(item["kind"]), item["id"]))
        except NotFoundError:  # somebody else was quicker
            continue
        except CommandError as error:
            if item is not removal.secret or error.answered != CONFLICT:
                raise
            say(f"Kept the secret {item['metadata']['name']}: {error.message}")
            continue
        say(f"Deleted {told(item)}.")


def told(item: Json) -> str:
    """Return how an object is called in a sentence: kind, name and id."""
    return f"the {find_kind(item['kind']).told} {item['metadata']['name']} ({item['id']})"


def _targets(endpoint: Json) -> list[str]:
    return [target["name"] for target in endpoint["spec"]["services"]]


def _secret(client: Client, service: Json) -> Json | None:
    if service["kind"] != "ModelService":
        return None
    name, project = service["metadata"]["name"], service["metadata"]["project"]
    try:
        return get_object(client, find_kind("secret"), secret_for(name), project)
    except NotFoundError:
        return None
