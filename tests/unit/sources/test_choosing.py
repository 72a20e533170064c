"""Which files an order means."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.models import FetchOrder, Wanted
from mooring.sources.choosing import PREFERRED, Choice, choose_files
from mooring.sources.hub import FetchFailed, HubFile, Listing

TRANSFORMERS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "merges.txt", "chat_template.jinja", "model.safetensors.index.json",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
)  # fmt: skip


def listing(*paths: str, sizes: dict[str, int] | None = None) -> Listing:
    files = tuple(
        HubFile(path, (sizes or {}).get(path, 10 + number), f"sha256:{number:064x}", f"http://hub/{path}")
        for number, path in enumerate(paths)
    )
    return Listing("c0ffee", files, "http://hub")


def order(file: str = "", want: Wanted = "model") -> FetchOrder:
    return FetchOrder("huggingface", "org/model", file=file, want=want)


def chosen(choice: Choice) -> set[str]:
    return {file.path for file in choice.files}


def refused(files: Listing, asked: FetchOrder) -> str:
    with pytest.raises(FetchFailed) as refusal:
        choose_files(files, asked)
    assert refusal.value.final and refusal.value.code == "no_matching_file" and refusal.value.next_step
    return refusal.value.message


def test_safetensors_come_with_all_that_an_engine_reads_and_nothing_twice() -> None:
    extra = ("README.md", ".gitattributes", "pytorch_model.bin", "original/consolidated.00.pth", "onnx/model.onnx",
             "onnx/config.json", "consolidated.safetensors", "model.fp16.safetensors", "figure.png")  # fmt: skip
    choice = choose_files(listing(*TRANSFORMERS, *extra), order())
    assert (choice.format, choice.main, chosen(choice)) == ("safetensors", "", set(TRANSFORMERS))
    assert choice.weight_bytes == 18 + 19


def test_sentence_transformers_bring_their_modules_and_templates() -> None:
    modules = ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors")
    choice = choose_files(listing("config.json", "model.safetensors", *modules), order())
    assert chosen(choice) == {"config.json", "model.safetensors", *modules}
    assert "additional_chat_templates/tool.jinja" in chosen(
        choose_files(listing("config.json", "model.safetensors", "additional_chat_templates/tool.jinja"), order())
    )


def test_the_engine_decides_between_two_formats() -> None:
    both = listing(*TRANSFORMERS, "model-q8_0.gguf")
    assert choose_files(both, order()).format == "safetensors"
    assert choose_files(both, order(want="safetensors")).format == "safetensors"
    assert chosen(choose_files(both, order(want="gguf"))) == {"model-q8_0.gguf"}
    only = listing("model-q8_0.gguf", "config.json")
    assert choose_files(only, order(want="safetensors")).format == "gguf"
    assert "needs a GGUF file" in refused(listing(*TRANSFORMERS), order(want="gguf"))


def test_consolidated_weights_are_taken_where_they_are_the_only_ones() -> None:
    choice = choose_files(listing("config.json", "consolidated.safetensors"), order())
    assert chosen(choice) == {"config.json", "consolidated.safetensors"}


def test_the_preferred_quantisation_is_taken_whatever_the_order_of_the_files() -> None:
    names = [f"m-7b.{quantisation.upper()}.gguf" for quantisation in PREFERRED] + ["m-7b.IQ2_XXS.gguf"]
    random.Random(1).shuffle(names)
    for wanted in PREFERRED:
        assert chosen(choose_files(listing(*names), order())) == {f"m-7b.{wanted.upper()}.gguf"}
        names.remove(f"m-7b.{wanted.upper()}.gguf")
    assert chosen(choose_files(listing(*names), order())) == {"m-7b.IQ2_XXS.gguf"}


def test_without_a_preferred_quantisation_the_smallest_is_taken() -> None:
    sizes = {"m.Q2_K.gguf": 30, "m.IQ3_XS.gguf": 20, "m.Q3_K_L.gguf": 40}
    assert chosen(choose_files(listing(*sizes, sizes=sizes), order())) == {"m.IQ3_XS.gguf"}


def test_the_parts_of_a_split_model_come_together() -> None:
    parts = [f"Q4_K_M/m-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    choice = choose_files(listing("m-Q8_0.gguf", *reversed(parts)), order())
    assert (chosen(choice), choice.main) == (set(parts), parts[0])
    choice = choose_files(listing("m-Q8_0.gguf", *parts), order("*-00002-of-*"))
    assert (chosen(choice), choice.main) == (set(parts), parts[0])
    assert "1 part(s)" in refused(listing(*parts[1:]), order())
    assert "1 part(s)" in refused(listing("config.json", TRANSFORMERS[-1]), order())


def test_a_pattern_knows_no_capitals_and_means_the_path_or_the_name() -> None:
    files = listing("sub/Model-Q8_0.gguf", "Model-Q4_K_M.gguf")
    for pattern in ("*q8_0.GGUF", "sub/*", "model-q8_0.gguf", "SUB/model-q8_0.gguf"):
        assert chosen(choose_files(files, order(pattern))) == {"sub/Model-Q8_0.gguf"}


def test_a_pattern_for_safetensors_brings_the_configuration_too() -> None:
    files = listing("config.json", "tokenizer.json", "a.safetensors", "b.safetensors", "m.gguf")
    choice = choose_files(files, order("b.safetensors"))
    assert (choice.format, chosen(choice)) == ("safetensors", {"config.json", "tokenizer.json", "b.safetensors"})


def test_what_is_not_one_model_is_refused_with_the_list() -> None:
    several = listing("m-Q4_K_M.gguf", "m-Q8_0.gguf")
    assert "matches 2 different GGUF models" in refused(several, order("*.gguf"))
    assert "m-Q4_K_M.gguf, m-Q8_0.gguf" in refused(several, order("*.gguf"))
    assert "several different GGUF models" in refused(listing("a-7b-Q8_0.gguf", "b-13b-Q8_0.gguf"), order())
    assert "2 GGUF models in Q8_0" in refused(listing("x/m-Q8_0.gguf", "y/m-Q8_0.gguf"), order())
    assert "No weights match 'x*'" in refused(several, order("x*"))
    assert "pytorch_model.bin" in refused(listing("config.json", "pytorch_model.bin"), order())
    assert "no such files" in refused(listing("README.md"), order())


def test_projectors_and_matrices_are_no_models_unless_named() -> None:
    files = listing("mmproj-m-f16.gguf", "m-Q8_0.gguf", "m.imatrix.gguf")
    assert chosen(choose_files(files, order())) == {"m-Q8_0.gguf"}
    assert chosen(choose_files(files, order("*.gguf"))) == {"m-Q8_0.gguf"}
    assert chosen(choose_files(files, order("mmproj*"))) == {"mmproj-m-f16.gguf"}


def test_a_long_list_is_cut() -> None:
    message = refused(listing(*(f"model-{number}.gguf" for number in range(50))), order("*.gguf"))
    assert "and 20 more" in message and len(message) < 1000


# --- adapters ---------------------------------------------------------------------------------------------


def test_an_adapter_is_its_configuration_and_weights() -> None:
    files = listing("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "checkpoint-9/optimizer.pt",
                    "checkpoint-9/adapter_config.json", "checkpoint-9/adapter_model.safetensors")  # fmt: skip
    choice = choose_files(files, order(want="adapter"))
    assert (choice.format, choice.main) == ("safetensors", "")
    assert chosen(choice) == {"adapter_config.json", "adapter_model.safetensors"}
    choice = choose_files(files, order("checkpoint-9/*", want="adapter"))
    assert (choice.main, len(choice.files)) == ("checkpoint-9", 2)


def test_an_adapter_may_be_one_gguf_file() -> None:
    choice = choose_files(listing("lora-f16.gguf", "README.md"), order(want="adapter"))
    assert (choice.format, choice.main, chosen(choice)) == ("gguf", "lora-f16.gguf", {"lora-f16.gguf"})
    assert "but 2 where an adapter" in refused(listing("a.gguf", "b.gguf"), order(want="adapter"))
    assert "neither one GGUF" in refused(listing("adapter_config.json", "adapter_model.bin"), order(want="adapter"))


# --- properties -------------------------------------------------------------------------------------------

names = st.lists(
    st.sampled_from(
        [*TRANSFORMERS, "a-Q4_K_M.gguf", "a-Q8_0.gguf", "b-Q8_0.gguf", "a-Q8_0-00001-of-00002.gguf", "README.md",
         "a-Q8_0-00002-of-00002.gguf", "mmproj-a.gguf", "pytorch_model.bin", "x/y.gguf", "adapter_config.json",
         "adapter_model.safetensors", "consolidated.safetensors"]
    ),
    unique=True,
)  # fmt: skip
wants = st.sampled_from(["model", "gguf", "safetensors", "adapter"])
patterns = st.sampled_from(["", "*", "*.gguf", "*Q8_0*", "a*", "*.safetensors", "[", "nothing"])


@given(names, wants, patterns, st.randoms())
def test_every_choice_is_whole_of_one_format_and_independent_of_the_order_of_the_listing(
    paths: list[str], want: Wanted, pattern: str, dice: random.Random
) -> None:
    files, asked = listing(*paths), order(pattern, want)
    shuffled = list(files.files)
    dice.shuffle(shuffled)
    again = Listing(files.revision, tuple(shuffled), files.base_url)
    try:
        choice = choose_files(files, asked)
    except FetchFailed as refusal:
        assert refusal.final and refusal.code == "no_matching_file"
        with pytest.raises(FetchFailed, match=r"There are|no such files"):
            choose_files(again, asked)
        return
    assert chosen(choice) == chosen(choose_files(again, asked))
    assert chosen(choice) <= set(paths) and choice.weight_bytes > 0
    endings = {path.rpartition(".")[2] for path in chosen(choice)}
    if choice.format == "gguf":
        assert endings == {"gguf"} and choice.main in chosen(choice)
        parts = {path for path in chosen(choice) if "-of-" in path}
        assert len(parts) in (0, 2) and (not parts or parts == chosen(choice))
        assert len(chosen(choice) - parts) <= 1
    else:
        assert want != "gguf" and "safetensors" in endings and "gguf" not in endings
        assert {"config.json", "adapter_config.json"} & chosen(choice)
