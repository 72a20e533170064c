"""The cluster dialect: one service by its place in a cluster, as Kubernetes' proxy path names it.

    /api/v1/namespaces/{project}/services/modelservice-{name}:http/proxy/v1/chat/completions

The service's name is written with dashes for dots, as a cluster's own names are; its id does as well. The path
chooses the service, so the body's `model` is ignored and may be missing. Bodies and errors are OpenAI's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mooring.core.snapshot import KeyEntry, ServiceEntry
from mooring.gateway.dialects import openai
from mooring.gateway.dialects.route import Address, adapter_text, path_text

if TYPE_CHECKING:
    from mooring.gateway.routing import Target
    from mooring.gateway.snapshot import Table

NAME: str = "cluster"
status = openai.status
error_body = openai.error_body
error_event = openai.error_event

_PATHS: dict[bytes, str] = {
    b"v1/chat/completions": "chat",
    b"v1/completions": "completion",
    b"v1/embeddings": "embedding",
    b"v1/models": "service_models",
    b"tokenize": "tokenize",
    b"detokenize": "detokenize",
    b"health": "service_health",
    b"openapi.json": "service_openapi",
}
_START, _END = "modelservice-", ":http"


def parse(path: bytes) -> tuple[str, Address | None] | None:
    """Return the operation at a path and the service it names; None where there is nothing."""
    parts = path.split(b"/", 8)  # "", api, v1, namespaces, project, services, service, proxy, path
    if len(parts) < 9 or parts[5] != b"services" or parts[7] != b"proxy":
        return None
    operation = _PATHS.get(parts[8])
    service = path_text(parts[6])
    if operation is None or not (service.startswith(_START) and service.endswith(_END)):
        return None
    return operation, Address(path_text(parts[4]), service[len(_START) : -len(_END)])


def find_target(table: Table, key: KeyEntry, address: Address | None, model: bytes) -> Target:
    """Return the service that the path names; see Table.resolve_address."""
    assert address is not None
    return table.resolve_address(key, address, adapter_text(model))


def service_root(entry: ServiceEntry) -> str:
    """Return the path below which a service's paths stand."""
    return f"/api/v1/namespaces/{entry.project}/services/{_START}{entry.name.replace('.', '-')}{_END}/proxy"
