"""What `mooring deploy` orders: the documents for a model, and how they go together with what exists already."""

from __future__ import annotations

import re
from typing import Any

from mooring.cli.models import difference, is_hub, same_model, same_source, stem
from mooring.cli.problems import CommandError, UsageError

Json = dict[str, Any]
NEVER_RAN = ("failed", "pending", "downloading")
MADE = "made by mooring deploy"  # begins the description of keys made here
_FLAGS = {
    "spec.model.file": "--file",
    "spec.model.tokenSecret": "--token or --token-secret",
    "spec.model.revision": "--revision",
    "spec.model.mirror": "--mirror",
    "spec.resources.memory": "--memory",
}


def plan_documents(model: Json, name: str, given: Json, project: str) -> list[Json]:
    """Return the ModelService and the Endpoint for a model.

    Args:
        model: `spec.model`.
        name: of both; "" to name them after the model.
        given: the other fields of the service's spec that the user has named.
    """
    chosen = name or name_for(stem(model))
    metadata = {"name": chosen, "project": project}
    return [
        {"kind": "ModelService", "metadata": metadata, "spec": {"model": model, **given}},
        {"kind": "Endpoint", "metadata": metadata, "spec": {"services": [{"name": chosen}]}},
    ]


def with_token(service: Json, token: str) -> tuple[Json, Json]:
    """Return the secret for a hub's token, and the service whose hub models use it."""
    name, project = service["metadata"]["name"], service["metadata"]["project"]
    secret = secret_for(name)
    spec = {**service["spec"], "model": _using(service["spec"]["model"], secret)}
    if "adapters" in spec:
        spec["adapters"] = [{**adapter, "model": _using(adapter["model"], secret)} for adapter in spec["adapters"]]
    metadata = {"name": secret, "project": project}
    return {"kind": "Secret", "metadata": metadata, "spec": {"stringData": {"token": token}}}, {**service, "spec": spec}


def secret_for(service: str) -> str:
    """Return the name of the secret that holds the hub's token of a service."""
    return f"{service[:53].rstrip('-.')}-hub-token"


def needs_token(service: Json) -> bool:
    """Whether anything of a service comes from a hub."""
    spec = service["spec"]
    return any(is_hub(model) for model in (spec["model"], *(part["model"] for part in spec.get("adapters", []))))


def merge_service(existing: Json, wanted: Json, *, update: bool) -> Json:
    """Return the existing service with what is wanted of it; what was set on it besides stays.

    Raises:
        CommandError: more than the number of replicas would change of a service that has run, or the model of any,
            and `update` is not asked for.
    """
    name, before, spec = wanted["metadata"]["name"], existing["spec"], dict(wanted["spec"])
    update = update or (never_ran(existing) and same_source(before["model"], spec["model"]))
    if not same_model(before["model"], spec["model"]) and not update:
        raise CommandError(
            f"The service '{name}' exists and runs {difference(before['model'], spec['model'])}.",
            "Add --update to replace what it runs, or choose another name with --name.",
        )
    if same_source(before["model"], spec["model"]) and before["model"].get("tokenSecret"):
        spec["model"] = {"tokenSecret": before["model"]["tokenSecret"], **spec["model"]}
    if "resources" in spec:
        spec["resources"] = {**(before.get("resources") or {}), **spec["resources"]}
    others = [field for field in spec if field not in ("model", "replicas") and spec[field] != before.get(field)]
    if others and not update:
        raise CommandError(
            f"The service '{name}' exists and is set otherwise: {', '.join(others)}.",
            "Add --update to change it, or choose another name with --name.",
        )
    return {**wanted, "metadata": existing["metadata"], "spec": {**before, **spec}}


def never_ran(service: Json) -> bool:
    """Whether nothing of a service has served yet, so that nobody misses what it was before."""
    status = service.get("status", {})
    return status.get("state") in NEVER_RAN and not status.get("readyReplicas")


def merge_endpoint(existing: Json, wanted: Json, *, update: bool) -> Json:
    """Return the existing endpoint, pointed at the service only if it was not there and `update` is asked for.

    Raises:
        CommandError: it leads elsewhere and `update` is not asked for.
    """
    name, targets = wanted["metadata"]["name"], [target["name"] for target in existing["spec"]["services"]]
    spec = existing["spec"]
    if name not in targets:
        if not update:
            raise CommandError(
                f"The endpoint '{name}' exists and leads to {', '.join(targets)}.",
                "Add --update to point it at this model, or choose another name with --name.",
            )
        spec = {**spec, **wanted["spec"]}
    return {**wanted, "metadata": existing["metadata"], "spec": spec}


def plan_key(label: str, endpoint: str, project: str) -> Json:
    """Return the document of the key that is made for an endpoint."""
    spec = {"description": f"{MADE} for {endpoint}"[:100], "endpoints": [endpoint]}
    return {"kind": "ApiKey", "metadata": {"name": label, "project": project}, "spec": spec}


def label_for(service: str) -> str:
    """Return the label of a service's key: labels have no dots."""
    return f"{service.replace('.', '-')}-key"


def made_for(key: Json, service: str) -> bool:
    """Whether `mooring deploy` made a key for a service."""
    labelled = re.fullmatch(rf"{re.escape(label_for(service))}(-\d+)?", key["metadata"]["name"])
    return bool(labelled) and str(key["spec"].get("description") or "").startswith(MADE)


def free_label(service: str, taken: set[str]) -> str:
    """Return the label of a service's key, numbered from 2 where the plain one is taken."""
    first = label_for(service)
    numbered = (f"{first}-{number}" for number in range(2, len(taken) + 3))
    return first if first not in taken else next(label for label in numbered if label not in taken)


def flags_for(text: str) -> str:
    """Return which flags stand for the fields that a text speaks of, "" where it speaks of none."""
    flags = [flag for field, flag in _FLAGS.items() if field in text]
    return f" (With mooring deploy: {', '.join(flags)}.)" if flags else ""


def name_for(text: str) -> str:
    """Return a valid object name made from a model's name: lower case, a–z 0–9 . - only."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:63].rstrip("-.") or "model"


def pairs(flag: str, texts: list[str]) -> dict[str, str]:
    """Return the KEY=VALUE texts of a repeatable option as a mapping.

    Raises:
        UsageError: one is not of that form.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            # The text is not repeated: it may be a secret without its name.
            raise UsageError(f"What stands behind {flag} is not of the form KEY=VALUE.", f"Write {flag} KEY=VALUE.")
        found[name] = value
    return found


def _using(model: Json, secret: str) -> Json:
    return {**model, "tokenSecret": secret} if is_hub(model) else model
