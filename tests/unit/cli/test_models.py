"""What the user means by a model."""

from pathlib import Path

import pytest

from mooring.cli.models import Hub, HubOptions, find_token, plan_adapter, plan_model, same_model, stem
from mooring.cli.problems import UsageError

PLAIN = HubOptions()


def test_a_bare_name_is_a_model_that_ships_with_the_platform() -> None:
    assert plan_model("mooring-demo", PLAIN) == {"source": "builtin", "name": "mooring-demo"}


def test_a_repository_comes_from_the_hub_with_all_that_was_said_about_it() -> None:
    assert plan_model("Qwen/Qwen3-0.6B", PLAIN) == {"source": "huggingface", "name": "Qwen/Qwen3-0.6B"}
    options = HubOptions(Hub.modelscope, "v1", "*q8_0.gguf", "http://127.0.0.1:1", "hub")
    assert plan_model("Qwen/Qwen3-0.6B", options) == {
        "source": "modelscope",
        "name": "Qwen/Qwen3-0.6B",
        "revision": "v1",
        "file": "*q8_0.gguf",
        "mirror": "http://127.0.0.1:1",
        "tokenSecret": "hub",
    }


def test_a_file_is_meant_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "My.Model.gguf").touch()
    monkeypatch.chdir(tmp_path)
    found = plan_model("./My.Model.gguf", PLAIN)
    assert found == {"source": "local", "path": str(tmp_path / "My.Model.gguf")}
    assert stem(found) == "My.Model"


def test_what_looks_like_a_repository_and_exists_here_is_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "repo.v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = plan_model("org/repo.v1", PLAIN)
    assert found == {"source": "local", "path": str(tmp_path / "org" / "repo.v1")}
    assert stem(found) == "repo.v1"


@pytest.mark.parametrize("model", ["./missing.gguf", "missing.gguf", "/no/where", "models/missing.gguf", "a/b/c"])
def test_a_missing_file_is_refused(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no file"):
        plan_model(model, PLAIN)


def test_a_path_on_another_machine_is_not_looked_for_here() -> None:
    assert plan_model("/srv/models/a.gguf", PLAIN, elsewhere=True)["path"] == "/srv/models/a.gguf"
    with pytest.raises(UsageError, match="no file"):
        plan_model("./a.gguf", PLAIN, elsewhere=True)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(UsageError, match=r"not a \.gguf file"):
        plan_model(str(tmp_path / "model.bin"), PLAIN)


@pytest.mark.parametrize("flag", ["revision", "file", "mirror"])
def test_what_is_for_hubs_is_refused_elsewhere(flag: str) -> None:
    with pytest.raises(UsageError, match=f"--{flag} is for models from a hub"):
        plan_model("mooring-demo", HubOptions(**{flag: "x"}))


def test_an_adapter_is_a_path_or_a_repository(tmp_path: Path) -> None:
    (tmp_path / "poems").mkdir()
    local = plan_adapter(f"poems={tmp_path}/poems", PLAIN)
    assert local == {"name": "poems", "model": {"source": "local", "path": f"{tmp_path}/poems"}}
    options = HubOptions(revision="of the model", file="of the model", mirror="http://m", token_secret="hub")
    hub = plan_adapter("poems=org/poems", options)["model"]
    assert hub == {"source": "huggingface", "name": "org/poems", "mirror": "http://m", "tokenSecret": "hub"}


@pytest.mark.parametrize("text", ["poems", "=org/poems", "poems=", "poems=./missing", "poems=word"])
def test_what_is_no_adapter_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--lora"):
        plan_adapter(text, PLAIN)


def test_a_token_comes_from_the_command_line_before_the_hubs_own_variable() -> None:
    environ = {"HF_TOKEN": "hf_a", "MODELSCOPE_API_TOKEN": " "}
    assert find_token("given", Hub.huggingface, environ) == ("given", "--token")
    assert find_token("", Hub.huggingface, environ) == ("hf_a", "HF_TOKEN")
    assert find_token("", Hub.modelscope, environ) == ("", "")


def test_the_credential_makes_no_other_model() -> None:
    model = {"source": "huggingface", "name": "a/b"}
    assert same_model(model, {**model, "tokenSecret": "hub"})
    assert not same_model(model, {**model, "revision": "v1"})
