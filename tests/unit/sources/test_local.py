"""Models on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mooring.core.errors import Unprocessable
from mooring.core.models import ModelFiles
from mooring.sources.builtin import find_builtin
from mooring.sources.local import find_local, find_local_adapter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path.resolve() / "models"
    made.mkdir()
    return made


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x" * 10)
    return folder


def refused(path: Path | str, *roots: Path, find: Callable[..., object] = find_local) -> str:
    with pytest.raises(Unprocessable) as refusal:
        find(str(path), [str(root) for root in roots])
    assert refusal.value.param == ("spec.model.path" if find is find_local else "spec.adapters")
    assert "MOORING_MODEL_ROOTS" in refusal.value.next_step
    return refusal.value.message


def test_a_file_and_a_folder_with_one_model_are_found(root: Path) -> None:
    put(root, "a.gguf")
    found = ModelFiles("gguf", root / "a.gguf", 10)
    assert find_local(str(root / "a.gguf"), [str(root)]) == found
    assert find_local(str(root), ["/elsewhere", str(root)]) == found


def test_the_parts_of_a_split_model_count_as_one_and_must_all_be_there(root: Path) -> None:
    put(root, "a-00001-of-00002.gguf", "a-00002-of-00002.gguf")
    found = ModelFiles("gguf", root / "a-00001-of-00002.gguf", 20)
    assert find_local(str(root), [str(root)]) == found
    assert find_local(str(root / "a-00002-of-00002.gguf"), [str(root)]) == found
    (root / "a-00002-of-00002.gguf").unlink()
    assert "1 part(s)" in refused(root, root)
    assert "1 part(s)" in refused(root / "a-00001-of-00002.gguf", root)


def test_a_split_model_behind_links_keeps_the_names_its_parts_find_each_other_by(root: Path) -> None:
    blobs = put(root / "blobs", "1", "2")
    for number in ("1", "2"):
        (root / f"a-0000{number}-of-00002.gguf").symlink_to(blobs / number)
    assert find_local(str(root), [str(root)]).path == root / "a-00001-of-00002.gguf"


def test_a_folder_with_safetensors_is_a_model(root: Path) -> None:
    put(root, "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert find_local(str(root), [str(root)]) == ModelFiles("safetensors", root, 20)
    (root / "model-00001-of-00002.safetensors").unlink()
    assert "1 part(s)" in refused(root, root)
    (root / "model-00002-of-00002.safetensors").unlink()
    assert "no *.safetensors" in refused(root, root)


def test_what_is_no_model_is_refused(root: Path) -> None:
    put(root, "a.txt")
    assert "it holds 0" in refused(root, root)
    assert "must be a .gguf file" in refused(root / "a.txt", root)
    put(root, "b.gguf", "c.gguf")
    assert "it holds 2 GGUF models: b.gguf, c.gguf" in refused(root, root)


def test_nothing_outside_of_the_roots_is_read(root: Path, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", "secret.gguf", "config.json", "model.safetensors")
    (root / "link.gguf").symlink_to(outside / "secret.gguf")
    assert "outside of the model roots" in refused(root / "link.gguf", root)
    assert "leads out" in refused(root, root)
    (root / "link.gguf").unlink()
    (root / "folder").symlink_to(outside)
    assert "outside of the model roots" in refused(root / "folder", root)
    assert "outside of the model roots" in refused(f"{root}/../outside/secret.gguf", root)
    whole = put(root / "whole", "config.json", "model.safetensors")
    (whole / "tokenizer.json").symlink_to(outside / "config.json")
    assert "leads out" in refused(whole, root)


def test_paths_that_can_not_be_read_are_refused(root: Path) -> None:
    assert "can't be read" in refused(f"{root}/a\0.gguf", root)
    (root / "loop.gguf").symlink_to(root / "loop.gguf")
    assert refused(root / "loop.gguf", root)
    assert "does not exist" in refused(root / "none.gguf", root)
    assert "not an absolute path" in refused("a.gguf", root)
    assert "no model roots are set" in refused(root / "a.gguf")


def test_adapters_are_found_the_same_way(root: Path, tmp_path: Path) -> None:
    assert find_local_adapter(str(put(root / "one", "lora.gguf")), [str(root)]) == root / "one" / "lora.gguf"
    assert find_local_adapter(str(root / "one" / "lora.gguf"), [str(root)]) == root / "one" / "lora.gguf"
    peft = put(root / "peft", "adapter_config.json", "adapter_model.safetensors")
    assert find_local_adapter(str(peft), [str(root)]) == peft
    assert "it holds 0" in refused(put(root / "pickle", "adapter_config.json", "adapter_model.bin"), root,
                                   find=find_local_adapter)  # fmt: skip
    assert "must be a .gguf" in refused(peft / "adapter_config.json", root, find=find_local_adapter)
    (root / "pickle" / "adapter_model.safetensors").symlink_to(put(tmp_path / "o", "w") / "w")
    assert "leads out" in refused(root / "pickle", root, find=find_local_adapter)


def test_the_built_in_model_is_there_and_no_other() -> None:
    found = find_builtin("mooring-demo")
    assert found.format == "gguf" and found.path.stat().st_size == found.bytes > 1 << 20
    with pytest.raises(Unprocessable, match="no built-in model 'x'") as refusal:
        find_builtin("x")
    assert refusal.value.param == "spec.model.name" and "mooring-demo" in refusal.value.next_step
