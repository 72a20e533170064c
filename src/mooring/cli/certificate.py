"""The certificate that `mooring up --tls self-signed` makes: for this machine's names, in the data dir."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=825)  # the longest that Apple's clients accept
RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files: the certificate (which is its own authority) and its private key (0600)."""

    certificate: Path
    key: Path


def ensure(folder: Path, host: str, now: datetime | None = None) -> CertificateFiles:
    """Return the certificate in `folder`; a new one if there is none, it ends soon, or it lacks `host`.

    Raises:
        OSError: the folder can't be written.
    """
    files = CertificateFiles(folder / "cert.pem", folder / "key.pem")
    moment = now or datetime.now(UTC)
    names = wanted_names(host)
    if not _serves(files, names, moment):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make(files, names, moment)
    return files


def wanted_names(host: str) -> list[x509.GeneralName]:
    """Return the names the certificate is for: loopback, this machine's name, the address we listen on."""
    texts = ["localhost", "127.0.0.1", "::1", socket.gethostname(), host.strip("[]")]
    return [_name(text) for text in dict.fromkeys(texts) if text and text not in ("0.0.0.0", "::")]


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text.encode("idna").decode())


def _serves(files: CertificateFiles, names: list[x509.GeneralName], now: datetime) -> bool:
    try:
        found = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, ValueError, x509.ExtensionNotFound):
        return False
    return files.key.exists() and set(names) <= set(held) and found.not_valid_after_utc - now > RENEW_BEFORE


def _make(files: CertificateFiles, names: list[x509.GeneralName], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Mooring (self-signed)")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # the clocks of the callers differ a little
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(files.key, private, 0o600)
    _write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_suffix(".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
    temporary.replace(path)
