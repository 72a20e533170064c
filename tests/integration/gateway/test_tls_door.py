"""The HTTPS port: TLS callers are served, plain ones are told, silent ones are let go."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mooring.gateway.http1.tls_door import TlsDoor
from mooring.gateway.server import ClientConnection
from mooring.testing.raw_client import CHAT, RawClient


def make_certificate(folder: Path) -> Path:
    """Write a key and a certificate of its own for 127.0.0.1 into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "both.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
async def door(gateway, tmp_path):
    """Return the port of a TLS door in front of the gateway, and the context that trusts it."""
    pem = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    parts = gateway.parts
    opened = TlsDoor(listener, context, lambda: ClientConnection(parts), first_byte_s=0.2, max_waiting=3)
    opened.open()
    yield listener.getsockname()[1], ssl.create_default_context(cafile=str(pem)), opened
    opened.close()


async def test_a_tls_caller_is_served_and_may_come_again(door):
    port, trusting, _ = door
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    client = RawClient(reader, writer)
    for _ in range(2):
        answer = await client.ask(CHAT)
        assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, "hi")
    client.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n" + b"x" * 200_000,
        b"\x00\x01garbage",
    ],
)
async def test_a_plain_caller_is_told(door, sent):
    port, _, _ = door
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"this port speaks HTTPS. Put https:// in front of the address." in answer
    assert b'"code":"https_required"' in answer
    writer.close()


async def test_silent_callers_are_let_go_and_do_not_shut_others_out(door):
    port, trusting, _ = door
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    assert [await asyncio.wait_for(reader.read(), 5) for reader, _ in silent] == [b"", b"", b""]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    client = RawClient(reader, writer)
    assert (await client.ask(CHAT)).status == 200
    client.close()
    for _, writer in silent:
        writer.close()


async def test_a_broken_handshake_harms_nobody(door):
    port, trusting, _ = door
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x16\x03\x01\x00\x05hello")
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    client = RawClient(reader, writer)
    assert (await client.ask(CHAT)).status == 200
    client.close()


async def test_a_closed_door_takes_nobody_and_keeps_who_is_inside(door):
    port, trusting, opened = door
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    client = RawClient(reader, writer)
    opened.close()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
    assert (await client.ask(CHAT)).status == 200
    client.close()
