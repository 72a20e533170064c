import os
import ssl
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mooring.cli import certificate, main
from mooring.cli.problems import UsageError
from mooring.cli.up import with_tls
from mooring.settings import Settings, load

NOW = datetime(2026, 1, 31, tzinfo=UTC)


class Executed(BaseException):
    """Stands for the moment in which another program takes over the process."""

    def __init__(self, arguments: list[str], environ: dict[str, str]) -> None:
        self.arguments, self.environ = arguments, environ


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stand in an empty folder, without MOORING_ variables, and stop at the exec."""

    def execute(path: str, arguments: list[str], environ: dict[str, str]) -> None:
        raise Executed(arguments, environ)

    for name in list(os.environ):
        if name.startswith("MOORING_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "execve", execute)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def up(*arguments: str) -> Executed:
    with pytest.raises(Executed) as ended:
        main.run(["up", *arguments])
    return ended.value


def test_up_becomes_the_supervisor_with_the_settings_in_its_environment(clean: Path) -> None:
    executed = up("--port", "9000", "--gateway-workers", "2", "--no-demo")
    assert executed.arguments[1:] == ["-m", "mooring.supervise"]
    settings = load(executed.environ)
    assert (settings.port, settings.gateway_workers, settings.demo) == (9000, 2, False)
    assert settings.data_dir == clean / ".mooring"


def test_the_command_of_vllm_and_the_folder_of_models_can_be_chosen(clean: Path) -> None:
    settings = load(up("--vllm-command", "/opt/vllm/bin/vllm serve", "--model-cache", "/srv/models").environ)
    assert (settings.vllm_command, settings.model_cache) == ("/opt/vllm/bin/vllm serve", "/srv/models")


def test_every_flag_is_also_a_variable_and_the_flag_wins(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORING_PORT", "9001")
    monkeypatch.setenv("MOORING_NO_DEMO", "1")
    monkeypatch.setenv("MOORING_MODEL_ROOTS", "/srv/a:/srv/b")
    settings = load(up("--host", "0.0.0.0").environ)
    assert (settings.port, settings.demo, settings.host) == (9001, False, "0.0.0.0")
    assert settings.model_roots == ("/srv/a", "/srv/b")
    assert load(up("--port", "9002").environ).port == 9002


@pytest.mark.parametrize(
    "arguments", [["--port", "0"], ["--tls", "maybe"], ["--tls-cert", "/nowhere"], ["--port", "http"]]
)
def test_wrong_flags_end_with_status_2(clean: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.run(["up", *arguments])
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_setting_that_cannot_be_read_ends_with_one_sentence(
    clean: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOORING_DRAIN_S", "long")
    with pytest.raises(SystemExit) as ended:
        main.run(["up"])
    assert ended.value.code == 2
    assert "MOORING_DRAIN_S='long'" in capsys.readouterr().err


def test_a_self_signed_certificate_is_made_once_and_trusted_as_its_own_authority(tmp_path: Path) -> None:
    files = certificate.ensure(tmp_path / "tls", "0.0.0.0", NOW)
    first = files.certificate.read_bytes()
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert certificate.ensure(tmp_path / "tls", "0.0.0.0", NOW).certificate.read_bytes() == first
    context = ssl.create_default_context(cafile=str(files.certificate))
    assert len(context.get_ca_certs()) == 1
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(files.certificate, files.key)


def test_a_certificate_is_made_anew_for_another_host_and_before_it_ends(tmp_path: Path) -> None:
    first = certificate.ensure(tmp_path, "127.0.0.1", NOW).certificate.read_bytes()
    second = certificate.ensure(tmp_path, "gpu.example", NOW).certificate.read_bytes()
    late = NOW + certificate.VALID - certificate.RENEW_BEFORE + timedelta(days=1)
    third = certificate.ensure(tmp_path, "gpu.example", late).certificate.read_bytes()
    assert len({first, second, third}) == 3


def test_own_and_self_signed_certificates_exclude_each_other(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, tls="self-signed", tls_cert="/c.pem", tls_key="/k.pem")
    with pytest.raises(UsageError):
        with_tls(settings)
    with pytest.raises(UsageError, match="belong together"):
        with_tls(replace(settings, tls="", tls_key=""))


def test_settings_of_a_running_self_signed_platform_can_be_used_again(tmp_path: Path) -> None:
    once = with_tls(Settings(data_dir=tmp_path, tls="self-signed"))
    assert with_tls(once) == once
