from __future__ import annotations

import ipaddress

import pytest

from mooring.core.errors import Forbidden, Invalid
from mooring.engines import external


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_everybody_may_register_a_public_address(address: str) -> None:
    assert external.judge_address(address) == "public"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
    ],
)
def test_loopback_and_private_addresses_are_private_in_every_disguise(address: str) -> None:
    assert external.judge_address(address) == "private"


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fe80::1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "ff02::1",
        "240.0.0.1",
        "255.255.255.255",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
    ],
)
def test_metadata_link_local_unspecified_and_multicast_addresses_are_forbidden_in_every_disguise(address: str) -> None:
    assert external.judge_address(address) == "forbidden"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0xa9fea9fe", "169.254.169.254"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_addresses_are_recognised_in_every_spelling_a_resolver_takes(host: str, address: str) -> None:
    assert external.literal_address(host) == ipaddress.ip_address(address)


def test_a_name_is_not_an_address() -> None:
    assert external.literal_address("models.example.com") is None


@pytest.mark.parametrize(
    "url",
    [
        "ftp://models.example.com/v1",
        "models.example.com/v1",
        "http:///v1",
        "http://h:0/v1",
        "http://h:70000/v1",
        "http://user@h/v1",
        "http://user:secret@h/v1",
        "http://h/v1#part",
        "http://h/v1?x=1",
        "http://h /v1",
        "http://h\\@evil/v1",
        "http://h/\nv1",
        "file:///etc/passwd",
        "http://[::1/v1",
        "",
    ],
)
def test_a_url_of_another_form_is_refused_with_a_next_step(url: str) -> None:
    with pytest.raises(Invalid) as refusal:
        external.read_url(url)
    assert refusal.value.next_step
    assert "secret" not in refusal.value.message


def test_a_url_is_taken_apart() -> None:
    base = external.read_url("HTTPS://Models.Example.COM./serve/v1/")
    assert (base.tls, base.host, base.port, base.path) == (True, "models.example.com", 443, "/serve/v1")
    assert external.read_url("http://[2001:db8::1]:9000/v1").authority == "[2001:db8::1]:9000"


def test_full_width_digits_become_plain_ones_before_they_are_judged() -> None:
    assert external.read_url("http://１２７.0.0.1/v1").host == "127.0.0.1"


@pytest.mark.parametrize("administrator", [True, False])
@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://2852039166/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://0/",
        "http://[::]/",
        "http://metadata.google.internal/",
        "http://METADATA.google.internal./computeMetadata",
    ],
)
async def test_nobody_may_register_a_metadata_address(url: str, administrator: bool) -> None:
    with pytest.raises(Forbidden) as refusal:
        await external.check_url(url, administrator=administrator)
    assert refusal.value.next_step


async def test_a_private_address_is_for_administrators() -> None:
    await external.check_url("http://127.0.0.1:9000/v1", administrator=True)
    with pytest.raises(Forbidden, match="administrator"):
        await external.check_url("http://127.0.0.1:9000/v1", administrator=False)


async def test_a_name_is_judged_by_every_address_it_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        return [ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("169.254.169.254")]

    monkeypatch.setattr(external, "resolve", resolve)
    with pytest.raises(Forbidden):
        await external.check_url("https://rebind.example.com/v1", administrator=True)
    probe = await external.probe("https://rebind.example.com/v1", "")
    assert probe.state == "unreachable"


async def test_an_unknown_name_passes_for_an_administrator_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        raise OSError("unknown")

    monkeypatch.setattr(external, "resolve", resolve)
    await external.check_url("https://later.example.com/v1", administrator=True)
    with pytest.raises(Invalid, match="resolved"):
        await external.check_url("https://later.example.com/v1", administrator=False)


def test_the_list_of_models_tells_state_and_context() -> None:
    probe = external.read_models(200, {"data": [{"id": "a", "max_model_len": 4096}, {"id": "b"}, "noise"]})
    assert (probe.state, probe.reason, probe.context_length) == ("ready", "serves a, b", 4096)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (401, "stranger"),
        (403, "stranger"),
        (404, "ready"),
        (503, "starting"),
        (500, "unreachable"),
        (302, "unreachable"),
    ],
)
def test_the_status_of_the_list_of_models_becomes_a_state(status: int, state: str) -> None:
    assert external.read_models(status, None).state == state
