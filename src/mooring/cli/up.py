"""`mooring up`: reads the flags, makes a certificate if asked, and becomes the supervisor."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mooring.cli.problems import CommandError, UsageError
from mooring.cli.session import given_before

if TYPE_CHECKING:
    from mooring.settings import Settings

ModelCache = Annotated[
    str | None,
    typer.Option(
        envvar="MOORING_MODEL_CACHE", help="Folder of the models from hubs (default: models in the data dir)."
    ),
]
VllmCommand = Annotated[
    str | None,
    typer.Option(envvar="MOORING_VLLM_COMMAND", help="How vLLM is started here (default: vllm serve)."),
]


def up(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="MOORING_DATA_DIR", help="Where everything lives (default: ./.mooring).", callback=given_before
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(envvar="MOORING_HOST", help="Address to listen on (default: 127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None, typer.Option(envvar="MOORING_PORT", min=1, max=65535, help="Public port (default: 8080).")
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(envvar="MOORING_PUBLIC_URL", help="URL that callers are told, where a proxy stands before us."),
    ] = None,
    internal_url: Annotated[
        str | None,
        typer.Option(envvar="MOORING_INTERNAL_URL", help="URL that callers in the same network are told."),
    ] = None,
    gateway_workers: Annotated[
        int | None,
        typer.Option(envvar="MOORING_GATEWAY_WORKERS", min=1, help="Gateway processes (default: 1)."),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(envvar="MOORING_DATABASE_URL", help="postgresql://… (default: SQLite in the data dir)."),
    ] = None,
    tls: Annotated[
        str | None,
        typer.Option(envvar="MOORING_TLS", metavar="self-signed", help="HTTPS with a certificate made here."),
    ] = None,
    tls_cert: Annotated[
        str | None, typer.Option(envvar="MOORING_TLS_CERT", help="HTTPS with this certificate chain (PEM).")
    ] = None,
    tls_key: Annotated[str | None, typer.Option(envvar="MOORING_TLS_KEY", help="Its private key (PEM).")] = None,
    model_roots: Annotated[
        str | None,
        typer.Option(envvar="MOORING_MODEL_ROOTS", help="Folders with local models, separated by ':'."),
    ] = None,
    model_cache: ModelCache = None,
    vllm_command: VllmCommand = None,
    no_demo: Annotated[
        bool, typer.Option("--no-demo", envvar="MOORING_NO_DEMO", help="Start without the demo model.")
    ] = False,
) -> None:
    """Start the platform here, in the foreground. Ctrl-C stops it.

    Example: [bold]mooring up --port 9000[/bold]
    """
    from mooring import settings

    try:
        chosen = settings.load(
            data_dir=data_dir,
            host=host,
            port=port,
            public_url=public_url,
            internal_url=internal_url,
            gateway_workers=gateway_workers,
            database_url=database_url,
            tls=tls,
            tls_cert=tls_cert,
            tls_key=tls_key,
            model_roots=tuple(part for part in model_roots.split(":") if part) if model_roots else None,
            model_cache=model_cache,
            vllm_command=vllm_command,
            demo=False if no_demo else None,
        )
    except settings.SettingError as error:
        raise UsageError(str(error)) from None
    chosen = with_tls(replace(chosen, data_dir=chosen.data_dir.absolute()))
    environ = {**os.environ, **settings.environment(chosen)}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "mooring.supervise"], environ)


def with_tls(settings: Settings) -> Settings:
    """Return the settings with the files of the certificate to use, made first if it is ours to make.

    Raises:
        UsageError: the TLS flags contradict each other, or name files that can't be read.
        CommandError: the certificate can't be written.
    """
    if settings.tls and (settings.tls_cert or settings.tls_key):
        files = (str(settings.data_dir / "tls" / "cert.pem"), str(settings.data_dir / "tls" / "key.pem"))
        if (settings.tls_cert, settings.tls_key) != files:
            raise UsageError("Give --tls self-signed, or --tls-cert and --tls-key, not both.")
    if settings.tls:
        if settings.tls != "self-signed":
            raise UsageError(f"--tls is '{settings.tls}'.", "The only value is self-signed.")
        from mooring.cli import certificate

        try:
            made = certificate.ensure(settings.data_dir / "tls", settings.host)
        except OSError as error:
            raise CommandError(
                f"The certificate can't be written to {settings.data_dir}: {error.strerror}.",
                "Choose another folder with --data-dir.",
            ) from None
        return replace(settings, tls_cert=str(made.certificate), tls_key=str(made.key))
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise UsageError("--tls-cert and --tls-key belong together.", "Give both.")
    for flag, path in (("--tls-cert", settings.tls_cert), ("--tls-key", settings.tls_key)):
        if path and not os.access(path, os.R_OK):
            raise UsageError(f"{flag}: {path} can't be read.", "Check the path and its permissions.")
    return settings
