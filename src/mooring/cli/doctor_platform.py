"""What `mooring doctor` asks the running platform: gateway, management, certificate, clock, services, endpoints."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from mooring import __version__
from mooring.cli.checks import Check, check
from mooring.cli.client import Client, Json, is_loopback
from mooring.cli.doctor_machine import is_running
from mooring.cli.kinds import API
from mooring.cli.problems import CommandError, NotFoundError, RefusedKeyError
from mooring.cli.session import Format, connect
from mooring.cli.waiting import has_trouble, rolled_back, unfit, where_to_look

TIMEOUT_S = 5.0
SLOW_S = 1.0
SKEW_S, BAD_SKEW_S = 5.0, 300.0
EXPIRY_DAYS = 30


def check_platform(url: str, key: str, data_dir: Path) -> Iterator[Check]:
    """Yield what the running platform says of itself; only why not, where it does not answer."""
    try:
        client = connect(url, key, data_dir, Format.table).client
        client.timeout_s = TIMEOUT_S
        headers = client.head("/health")
    except CommandError as error:
        yield _not_running(data_dir, error) if not url else Check("Platform", "BAD", error.message, error.next_step)
        return
    yield Check("Gateway", "ok", f"answers at {client.base_url}")
    yield from check_clock(headers.get("Date") or headers.get("date") or "", time.time())
    yield from _check_certificate(client.base_url)
    try:
        yield from _check_management(client)
        yield from _check_objects(client, data_dir if is_loopback(client.base_url) else None)
    except RefusedKeyError as error:
        advice = f"Give another with --key. Is it lost? mooring admin reset --data-dir {data_dir}"
        yield Check("Management API", "BAD", error.message, advice)
    except CommandError as error:
        advice = error.next_step or "Look at the platform's log: control restarts, or its database is away."
        yield Check("Management API", "BAD", error.message, advice)


def check_clock(date: str, now: float) -> Iterator[Check]:
    """Yield whether the platform's clock agrees with this machine's."""
    try:
        skew = abs(parsedate_to_datetime(date).timestamp() - now)
    except (ValueError, TypeError):
        return  # it tells no time
    found = "agrees with this machine's" if skew <= SKEW_S else f"is {skew:.0f} s off this machine's"
    advice = "Keys expire and usage is counted by the platform's clock: run NTP on both machines."
    yield check("Clock", skew <= SKEW_S, found, advice, otherwise="BAD" if skew > BAD_SKEW_S else "note")


def check_expiry(ends: datetime, now: datetime) -> Check:
    """Return whether a certificate is still good, and for long."""
    days = (ends - now).days
    found = f"valid until {ends:%Y-%m-%d} ({days} days)" if ends > now else f"expired on {ends:%Y-%m-%d}"
    advice = "Renew it and restart the platform; one made by --tls self-signed is renewed by a restart."
    level = "BAD" if ends <= now else "note"
    return check("Certificate", ends > now and days >= EXPIRY_DAYS, found, advice, otherwise=level)


def check_service(service: Json, *, started: bool) -> Check:
    """Return how a service stands; `started` says whether it has an engine whose log can be looked at."""
    name, status = f"Service {service['metadata']['name']}", service["status"]
    reason = f": {reason}" if (reason := unfit(service) or status.get("reason")) else ""
    found = status["state"] + reason
    if has_trouble(service):
        return Check(name, "BAD", found, where_to_look(service, started=started))
    at_rest = status["state"] in ("stopped", "sleeping")
    if rolled_back(service) or (not at_rest and (status["state"] != "healthy" or reason)):
        return Check(name, "note", found, f"Watch: mooring services events -f {service['metadata']['name']}")
    return Check(name, "ok", found)


def check_endpoint(endpoint: Json, told: Collection[tuple[str, str]] = ()) -> Check | None:
    """Return how an endpoint stands; None if there is nothing to say.

    Args:
        told: (project, name) of the services whose reasons stand above and are not repeated.
    """
    name, status, project = endpoint["metadata"]["name"], endpoint["status"], endpoint["metadata"].get("project", "")
    targets = [target["name"] for target in endpoint["spec"].get("services", [])]
    if targets and all((project, target) in told for target in targets):
        reason = f", see above: Service {', '.join(targets)}"
    else:
        reason = f": {status['reason']}" if status.get("reason") else ""
    advice = f"See: mooring endpoints get {name}"
    level = {"Abnormal": "BAD", "Scheduling": "note"}.get(status["state"])
    return None if level is None else Check(f"Endpoint {name}", level, status["state"] + reason, advice)  # type: ignore[arg-type]


def _not_running(data_dir: Path, error: CommandError) -> Check:
    if is_running(data_dir):
        advice = f"It starts, or it is stuck: look at what it wrote where it was started. {error.message}"
        return Check("Platform", "BAD", f"a platform holds {data_dir} and its gateway does not answer", advice)
    return Check("Platform", "BAD", error.message, error.next_step)


def _check_management(client: Client) -> Iterator[Check]:
    begun = time.monotonic()
    version = str(client.get(f"{API}/version").get("version"))
    took_s = time.monotonic() - begun
    advice = "The machine is short of processor or disk; look at: mooring services list"
    yield check("Management API", took_s < SLOW_S, f"answers in {took_s * 1000:.0f} ms", advice, otherwise="note")
    found = version if version == __version__ else f"the platform runs {version}, this command is {__version__}"
    advice = "Use the command of the same installation, or restart the platform to run the new version."
    yield check("Version", version == __version__, found, advice, otherwise="note")


def _check_objects(client: Client, data_dir: Path | None) -> Iterator[Check]:
    begun = time.monotonic()
    services = client.items(f"{API}/services") + client.items(f"{API}/external-services")
    endpoints = client.items(f"{API}/endpoints")
    took = f"answers in {(time.monotonic() - begun) * 1000:.0f} ms"
    yield Check("Database", "ok", f"{took}; {len(services)} services, {len(endpoints)} endpoints")
    replicas: set[str] = set()
    told: set[tuple[str, str]] = set()
    for service in services:
        items = _replicas(client, service) if service["kind"] == "ModelService" else []
        replicas |= {item["id"] for item in items}
        found = check_service(service, started=bool(items))
        yield found
        if found.level != "ok":
            told.add((service["metadata"].get("project", ""), service["metadata"]["name"]))
        yield from (_replica(service, item) for item in items if item["state"] != "ready" and _adds(item, found))
    yield from (found for endpoint in endpoints if (found := check_endpoint(endpoint, told)) is not None)
    if data_dir is not None:
        yield from _check_orphans(data_dir, replicas)


def _replicas(client: Client, service: Json) -> list[Json]:
    try:
        return client.get(f"{API}/services/{service['id']}/replicas")["items"]
    except NotFoundError:  # deleted meanwhile
        return []


def _adds(item: Json, service: Check) -> bool:
    """Whether a replica's reason says more than its service's."""
    return bool(item.get("reason")) and item["reason"] not in service.found


def _replica(service: Json, item: Json) -> Check:
    name = service["metadata"]["name"]
    advice = f"See: mooring services logs {name} --replica {item['id']}"
    level = "BAD" if item["state"] == "failed" else "note"
    return Check(f"Replica {item['id']} of {name}", level, f"{item['state']}: {item['reason']}", advice)


def _check_orphans(data_dir: Path, known: set[str]) -> Iterator[Check]:
    """Yield a note about folders of replicas that no service has: leftovers of an interrupted clean-up."""
    folders = [path.name for path in (data_dir / "replicas").glob("*") if path.is_dir()]
    orphans = sorted(set(folders) - known)
    if orphans:
        advice = "The platform clears them away by itself within a minute; if they stay, restart it."
        yield Check("Replica folders", "note", f"no service has {', '.join(orphans[:3])}", advice)


def _check_certificate(base_url: str) -> Iterator[Check]:
    parts = urlsplit(base_url)
    if parts.scheme != "https":
        return
    from cryptography import x509

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # also one that has expired is to be told of
    host, port = parts.hostname or "", parts.port or 443
    try:
        with (
            socket.create_connection((host, port), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            found = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError) as error:
        yield Check("Certificate", "note", f"can't be looked at: {error}")
        return
    yield check_expiry(found.not_valid_after_utc, datetime.now(UTC))
