"""External: a service that runs elsewhere and speaks OpenAI HTTP. Where it may be, and how it is asked.

A registered URL is dialled from inside the platform's network, so it could be aimed at things callers must not reach
(SSRF). Cloud metadata, link-local, unspecified and multicast addresses are refused to everybody; loopback and
private ones are for administrators. `judge_address` is the pure rule; `check_url` applies it to every address a
name resolves to, and `probe` again each time, because a name may move.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from mooring.core.errors import Forbidden, Invalid
from mooring.core.replicas import Probe
from mooring.engines.ask import NoAnswer, Target, get_json

CAPABILITIES: frozenset[str] = frozenset({"chat", "completion", "embedding", "rerank"})

Verdict = Literal["public", "private", "forbidden"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure's wire server
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
)
_METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_RESOLVE_TIMEOUT_S = 5.0
_NEXT_STEP = "Give a base URL like https://models.example.com/v1."


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """A base URL taken apart. `host` is lower-case ASCII without brackets; `path` has no slash at its end."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Return the value of a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def judge_address(address: Address | str) -> Verdict:
    """Return whether an IP address may be dialled: by all, by an administrator's order, or never."""
    ip = ipaddress.ip_address(address) if isinstance(address, str) else address
    verdicts = {_judge_plain(candidate) for candidate in (ip, *_embedded(ip))}
    if "forbidden" in verdicts:
        return "forbidden"
    return "private" if "private" in verdicts else "public"


def _judge_plain(ip: Address) -> Verdict:
    if ip in _METADATA or ip.is_link_local or ip.is_unspecified or ip.is_multicast:
        return "forbidden"
    if isinstance(ip, ipaddress.IPv4Address):
        if ip in _THIS_NETWORK or (ip.is_reserved and not ip.is_loopback):
            return "forbidden"
    elif ip.ipv4_mapped or ip in _NAT64:
        return "public"  # the address inside decides
    return "public" if ip.is_global else "private"


def _embedded(ip: Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that packets to this IPv6 address may end at."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, ip.teredo[1] if ip.teredo else None]
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 0xFFFF):
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [inner for inner in found if inner is not None]


def literal_address(host: str) -> Address | None:
    """Return the address a host spells, in any spelling a resolver takes (127.1, 0x7f000001, 2130706433), else None."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def read_url(url: str) -> BaseUrl:
    """Take a base URL apart.

    Raises:
        Invalid: not http(s), or with user information, query, fragment, spaces or a port that is none.
    """
    if any(character <= " " or character in '\\"<>\x7f' for character in url):
        raise _invalid("The URL holds a space, a backslash or another character that a URL can't have.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _invalid(f"The URL can't be read: {error}.") from None
    if parts.scheme not in ("http", "https"):
        raise _invalid("The URL must start with http:// or https://.")
    if "@" in parts.netloc:
        raise _invalid("The URL must not hold a user name or password; put the key into a Secret instead.")
    if "#" in url or "?" in url:
        raise _invalid("The URL must not have a query or a fragment.")
    if not host or port == 0:
        raise _invalid("The URL names no host or no usable port.")
    tls = parts.scheme == "https"
    return BaseUrl(tls, _ascii(host), port or (443 if tls else 80), parts.path.rstrip("/"))


def _ascii(host: str) -> str:
    try:
        plain = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise _invalid("The host name can't be written in ASCII (IDNA).") from None
    return plain.rstrip(".").lower()


def _invalid(message: str) -> Invalid:
    return Invalid(message, next_step=_NEXT_STEP, param="urls")


async def check_url(url: str, *, administrator: bool) -> None:
    """Refuse a URL that may not be registered. Resolves names; a name unknown today passes for an administrator.

    Raises:
        Invalid: the URL has the wrong form, or (for others) its name can't be resolved and so not be judged.
        Forbidden: it leads to an address that nobody, or only an administrator, may register.
    """
    target = read_url(url)
    _refuse_name(target.host)
    try:
        addresses = await resolve(target.host, target.port)
    except OSError:
        if administrator:
            return
        raise Invalid(
            f"The host name '{target.host}' can't be resolved.",
            next_step="Correct the name, or register the service once its name exists.",
            param="urls",
        ) from None
    for address in addresses:
        _refuse_address(target.host, address, administrator)


def _refuse_name(host: str) -> None:
    if host in _METADATA_NAMES:
        raise _forbidden(host)


def _refuse_address(host: str, address: Address, administrator: bool) -> None:
    verdict = judge_address(address)
    if verdict == "forbidden":
        raise _forbidden(host)
    if verdict == "private" and not administrator:
        raise Forbidden(
            f"'{host}' is a loopback or private address; only an administrator may register it.",
            next_step="Ask an administrator to register this service, or use its public address.",
            param="urls",
        )


def _forbidden(host: str) -> Forbidden:
    return Forbidden(
        f"'{host}' is a metadata, link-local, unspecified or multicast address; no service may be registered there.",
        next_step="Use the address the model service itself listens on.",
        param="urls",
    )


async def resolve(host: str, port: int) -> list[Address]:
    """Return every address of a host.

    Raises:
        OSError: the name is unknown or the resolver did not answer in time (TimeoutError).
    """
    literal = literal_address(host)
    if literal is not None:
        return [literal]
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


async def probe(url: str, key: str, *, timeout_s: float = 5.0) -> Probe:
    """Ask `GET {url}/models`. Ready on 200; `reason` then lists the served models."""
    try:
        base = read_url(url)
        _refuse_name(base.host)
        addresses = await resolve(base.host, base.port)
        for address in addresses:
            _refuse_address(base.host, address, administrator=True)
        target = Target(base.authority, address=str(addresses[0]), port=base.port, tls=base.tls)
        status, body = await get_json(target, f"{base.path}/models", key=key, timeout_s=timeout_s)
    except (Invalid, Forbidden) as error:
        return Probe("unreachable", error.message)
    except (NoAnswer, OSError) as error:
        return Probe("unreachable", str(error))
    return read_models(status, body)


def read_models(status: int, body: Any) -> Probe:
    """Turn the answer of `/models` into a probe. A service without that path (404, 405) is taken as ready."""
    if status in (401, 403):
        return Probe("stranger", f"The service refused the key (HTTP {status}). Check apiKeySecret.")
    if status in (404, 405):
        return Probe("ready", "The service does not list its models.")
    if status == 503:
        return Probe("starting", "The service answers, but is not ready yet (HTTP 503).")
    if status != 200:
        return Probe("unreachable", f"GET /models answered HTTP {status}.")
    models = [entry for entry in _entries(body) if isinstance(entry.get("id"), str)]
    names = ", ".join(str(entry["id"]) for entry in models[:8])
    lengths = [length for entry in models if isinstance(length := entry.get("max_model_len"), int)]
    return Probe("ready", f"serves {names}" if names else "", context_length=max(lengths, default=0))


def _entries(body: Any) -> list[dict[str, Any]]:
    data = body.get("data") if isinstance(body, dict) else None
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
