"""How to call a service or an endpoint: addresses, paths and code, for each dialect that the gateway speaks.

`DIALECTS` is the registry: a dialect is one entry, and is listed only when the gateway serves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any
from urllib.parse import quote

from mooring.control.events import get_any_service
from mooring.control.samples import SAMPLES
from mooring.core import external_services, services
from mooring.core.endpoints import Endpoint
from mooring.core.objects import slug
from mooring.core.services import ModelService
from mooring.settings import Settings
from mooring.store.database import Database, Transaction
from mooring.store.endpoints import endpoints_using, get_endpoint
from mooring.store.services import AnyService, find_service

LANGUAGES = ("curl", "python-openai", "python-requests", "python-langchain", "node")
SERVICES = ("ModelService", "ExternalService")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be called."""

    id: str
    name: str
    kind: str
    project: str
    model: str  # what callers put into `model`
    types: tuple[str, ...]  # kinds of call that it takes
    deployed: bool  # everything behind it runs here
    closed: bool = False  # takes no calls that address it itself
    note: str = ""  # what a caller should know first
    served: str = ""  # a service's name for its model
    chip: str = ""  # of a service


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the gateway is: for callers outside, and inside the network or cluster."""

    api: str
    internal: str


@dataclass(frozen=True, slots=True)
class Path:
    """One path of a dialect. `needs` names the kinds of call of which the subject must take one; () = none."""

    method: str
    path: str
    operation: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """One wire format. `base`, `model` and `paths` may hold {id}, {project}, {slug}, {model}, {served} and {chip}."""

    name: str
    title: str
    base: str  # what an SDK takes as base URL, below the gateway's
    paths: tuple[Path, ...]
    model: str = "{model}"
    kinds: tuple[str, ...] = (*SERVICES, "Endpoint")
    languages: tuple[str, ...] = LANGUAGES


_INFERS = "/v1/infers/{id}"
_MAAS = "/maas/{served}/{chip}"
_CLUSTER = "/api/v1/namespaces/{project}/services/modelservice-{slug}:http/proxy"
DIALECTS = (
    Dialect(
        name="openai",
        title="OpenAI",
        base="/v1",
        paths=(
            Path("POST", "/v1/chat/completions", "chat", ("chat",)),
            Path("POST", "/v1/completions", "completion", ("completion",)),
            Path("POST", "/v1/embeddings", "embedding", ("embedding",)),
            Path("POST", "/v1/tokenize", "tokenize", ("chat", "completion")),
            Path("POST", "/v1/detokenize", "detokenize", ("chat", "completion")),
            Path("GET", "/v1/models", "models"),
        ),
    ),
    Dialect(
        name="cluster",
        title="One service by its path",
        base=f"{_CLUSTER}/v1",
        paths=(
            Path("POST", f"{_CLUSTER}/v1/chat/completions", "chat", ("chat",)),
            Path("POST", f"{_CLUSTER}/v1/completions", "completion", ("completion",)),
            Path("POST", f"{_CLUSTER}/v1/embeddings", "embedding", ("embedding",)),
            Path("POST", f"{_CLUSTER}/tokenize", "tokenize", ("chat", "completion")),
            Path("POST", f"{_CLUSTER}/detokenize", "detokenize", ("chat", "completion")),
            Path("GET", f"{_CLUSTER}/v1/models", "models"),
            Path("GET", f"{_CLUSTER}/health", "health"),
            Path("GET", f"{_CLUSTER}/openapi.json", "openapi"),
        ),
        kinds=SERVICES,
    ),
    Dialect(
        name="ark",
        title="Ark",
        base="/api/v3",
        paths=(
            Path("POST", "/api/v3/chat/completions", "chat", ("chat",)),
            Path("POST", "/api/v3/completions", "completion", ("completion",)),
            Path("POST", "/api/v3/embeddings", "embedding", ("embedding",)),
            Path("GET", "/api/v3/models", "models"),
        ),
        kinds=("Endpoint",),
        languages=("curl", "python-ark", *LANGUAGES[1:]),
    ),
    Dialect(
        name="modelarts",
        title="ModelArts",
        base=f"{_INFERS}/v1",
        paths=(
            Path("POST", f"{_INFERS}/v1/chat/completions", "chat", ("chat",)),
            Path("POST", f"{_INFERS}/v1/completions", "completion", ("completion",)),
            Path("GET", f"{_INFERS}/v1/models", "models"),
        ),
        model="{served}",
        kinds=SERVICES,
    ),
    Dialect(
        name="genstudio",
        title="GenStudio",
        base=_MAAS,
        paths=(
            Path("POST", f"{_MAAS}/chat/completions", "chat", ("chat",)),
            Path("GET", f"{_MAAS}/models", "models"),
        ),
        model="{served}",
        kinds=SERVICES,
    ),
)


def instructions(subject: Subject, urls: Urls, dialects: tuple[Dialect, ...] = DIALECTS) -> dict[str, Any]:
    """Return all of it, JSON-ready."""
    spoken = () if subject.closed else (dialect for dialect in dialects if subject.kind in dialect.kinds)
    return {
        "id": subject.id,
        "name": subject.name,
        "kind": subject.kind,
        "project": subject.project,
        "note": subject.note,
        "urls": {"api": urls.api, "internal": urls.internal},
        "dialects": [_spoken(dialect, subject, urls) for dialect in spoken],
    }


def _spoken(dialect: Dialect, subject: Subject, urls: Urls) -> dict[str, Any]:
    known = {
        "id": subject.id,
        "project": subject.project,
        "slug": slug(subject.name),
        "model": subject.model,
        "served": subject.served or subject.model,
        "chip": subject.chip or "cpu",
    }
    quoted = {name: quote(value, safe="") for name, value in known.items()}

    def fill(template: str) -> str:
        return template.format(**quoted)

    paths = [path for path in dialect.paths if not path.needs or set(path.needs) & set(subject.types)]
    operations = {path.operation for path in paths}
    base, model = urls.api + fill(dialect.base), dialect.model.format(**known)
    return {
        "name": dialect.name,
        "title": dialect.title,
        "baseUrl": base,
        "internalBaseUrl": urls.internal + fill(dialect.base),
        "model": model,
        "paths": [{"method": path.method, "path": fill(path.path), "operation": path.operation} for path in paths],
        "samples": [
            sample.filled(base, model)
            for sample in SAMPLES
            if sample.language in dialect.languages and sample.operation in operations
        ],
    }


def urls_of(settings: Settings) -> Urls:
    """Return where the gateway of this installation is."""
    return Urls(settings.api_url, settings.internal_api_url)


async def get_service_subject(db: Database, ref: str, project: str) -> Subject:
    """Return the service of either kind with this id, or of this name in the project, as something to call.

    Raises:
        NotFound: there is none.
    """
    service = await get_any_service(db, ref, project)
    async with db.read() as tx:
        fronts = await endpoints_using(tx, service.metadata.project, service.metadata.name)
    return Subject(
        id=service.id,
        name=service.metadata.name,
        kind=service.kind,
        project=service.metadata.project,
        model=service.metadata.name,
        types=tuple(service.status.types),
        deployed=service.kind == "ModelService",
        closed=not service.spec.direct_access,
        note=_service_note(service, fronts),
        served=_served_model(service),
        chip=service.spec.chip,
    )


async def get_endpoint_subject(db: Database, ref: str, project: str) -> Subject:
    """Return the endpoint with this id, or of this name in the project, as something to call.

    Raises:
        NotFound: there is none.
    """
    async with db.read() as tx:
        endpoint = await get_endpoint(tx, ref, project)
        services = await _services_behind(tx, endpoint)
    return Subject(
        id=endpoint.id,
        name=endpoint.metadata.name,
        kind=endpoint.kind,
        project=endpoint.metadata.project,
        model=endpoint.id,
        types=_common_types(services),
        deployed=all(service.kind == "ModelService" for service in services),
        note="" if endpoint.spec.enabled else "The endpoint is switched off: calls are refused until it is enabled.",
    )


async def _services_behind(tx: Transaction, endpoint: Endpoint) -> list[AnyService]:
    """Return the services that get calls."""
    names = [target.name for target in endpoint.spec.services if target.weight > 0]
    found = [await find_service(tx, name, endpoint.metadata.project) for name in names]
    return [service for service in found if service is not None]


def _common_types(services: list[AnyService]) -> tuple[str, ...]:
    """Return the kinds of call that every service takes: the endpoint may hand a call to any of them."""
    lists = [service.status.types for service in services]
    return tuple(reduce(lambda common, types: [kind for kind in common if kind in types], lists)) if lists else ()


def _served_model(service: AnyService) -> str:
    """Return the name that the service's engine answers to, or will once it has started."""
    if isinstance(service, ModelService):
        return service.status.served_model or services.served_model(service.metadata.name, service.spec)
    return external_services.served_model(service.metadata.name, service.spec)


def _service_note(service: AnyService, fronts: list[str]) -> str:
    if not service.spec.direct_access:
        instead = f"Call an endpoint in front of it: {', '.join(fronts)}." if fronts else "No endpoint leads to it."
        return f"The service takes no direct calls. {instead}"
    return "" if service.spec.enabled else "The service is switched off: calls are refused until it is enabled."
