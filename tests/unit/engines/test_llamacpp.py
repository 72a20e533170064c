from __future__ import annotations

from pathlib import Path

import pytest

import mooring
from mooring.core.errors import Invalid
from mooring.core.replicas import ReplicaPlace
from mooring.engines import llamacpp, llamacpp_server, load_engine
from mooring.engines.llamacpp_flags import ALIASES, FLAGS, Member, read_flags

RECORDED = Path(__file__).parent / "stderr"
PLACE = ReplicaPlace("rpl-1", Path("/data/replicas/rpl-1"), Path("/run/m/rpl-1.sock"), "s3cret", threads=3)
DEMO = Path(mooring.__file__).parent / "assets" / "mooring-demo.gguf"


@pytest.mark.parametrize("args", [["--ctx-size=2048"], ["--ctx-size", "2048"], ["-c", "2048"], ["-c=2048"]])
def test_a_flag_is_taken_in_every_documented_spelling(args: list[str]) -> None:
    assert read_flags(args) == {"n_ctx": 2048}


def test_the_last_of_two_equal_flags_wins() -> None:
    assert read_flags(["--parallel=2", "-np", "8"]) == {"n_parallel": 8}


def test_a_negative_number_is_a_value_and_not_a_flag() -> None:
    assert read_flags(["--reasoning-budget", "-1"]) == {"sampling.reasoning_budget_tokens": -1}


def test_words_become_members_of_the_engines_enumerations() -> None:
    assert read_flags(["--pooling", "mean", "-fa", "off"]) == {
        "pooling_type": Member("llama_pooling_type", "LLAMA_POOLING_TYPE_MEAN"),
        "flash_attn_type": Member("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_DISABLED"),
    }


def test_every_alias_names_a_flag() -> None:
    assert set(ALIASES.values()) <= set(FLAGS)


@pytest.mark.parametrize(
    "args",
    [
        ["--host", "0.0.0.0"],
        ["--port=1"],
        ["--api-key=x"],
        ["--model=/etc/passwd"],
        ["--lora=/etc/passwd"],
        ["--slot-save-path=/tmp"],
        ["--chat-template-file=/etc/passwd"],
        ["--chat-template={{ evil }}"],
        ["--ctx-size"],
        ["--ctx-size", "--mlock"],
        ["--ctx-size=many"],
        ["--ctx-size=-5"],
        ["--temp=nan"],
        ["--mlock=1"],
        ["positional"],
        ["--chat-template-kwargs=[1]"],
        ["--ctx-size=2", "--parallel=4"],
        ["--jinja"] * 65,
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(args: list[str]) -> None:
    with pytest.raises(Invalid) as refusal:
        llamacpp.check_args(args, {})
    assert "--ctx-size" in refusal.value.next_step
    assert refusal.value.param == "args"


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GGML_CUDA_FORCE_MMQ"])
def test_variables_that_tune_the_engine_may_be_set(name: str) -> None:
    llamacpp.check_args([], {name: "1"})


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "PYTHONPATH",
        "PATH",
        "HOME",
        "GGML_BACKEND_PATH",
        "MOORING_ENGINE_KEY",
        "ggml_x",
        "OMP_NUM_THREADS\n",
    ],
)
def test_variables_that_could_run_code_or_leak_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match="env"):
        llamacpp.check_args([], {name: "1"})


def test_a_plan_names_socket_model_and_threads_and_hides_the_key_from_the_arguments() -> None:
    plan = llamacpp.launch_plan(["--ctx-size=2048"], {"OMP_NUM_THREADS": "2"}, Path("/models/m.gguf"), "m", PLACE)
    assert plan.address == "unix:/run/m/rpl-1.sock"
    assert (plan.served_model, plan.slots) == ("m", 4)
    assert "s3cret" not in " ".join(plan.argv)
    assert "s3cret" in plan.env.values()
    assert plan.env["OMP_NUM_THREADS"] == "2"
    assert "--threads=3" in plan.argv
    assert plan.argv[-1] == "--ctx-size=2048", "the service's own flags come last and win"


def test_a_plans_environment_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    plan = llamacpp.launch_plan([], {}, Path("/models/m.gguf"), "m", PLACE)
    assert set(plan.env) == {"PATH", "LANG", "HOME", "PYTHONPATH", "OMP_WAIT_POLICY", "MOORING_ENGINE_KEY"}


def test_slots_follow_the_parallel_flag() -> None:
    assert llamacpp.launch_plan(["-np", "2"], {}, Path("/m.gguf"), "m", PLACE).slots == 2


def test_the_builtin_model_embeds_too_and_others_when_asked() -> None:
    assert "embedding" in llamacpp.capabilities([], DEMO)
    assert "embedding" not in llamacpp.capabilities([], Path("/models/m.gguf"))
    assert "embedding" in llamacpp.capabilities(["--embeddings"], Path("/models/m.gguf"))


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ("not_gguf", "invalid magic characters: 'lQ?]', expected 'GGUF'"),
        ("empty", "failed to read magic"),
        ("cut_metadata", "failed to read key-value pairs"),
        ("cut_tensors", "data is not within the file bounds, model is corrupted or incomplete"),
        ("out_of_memory", "insufficient memory (attempted to allocate 3906.50 MB)"),
        ("wrong_cache_type", "quantized V cache requires flash_attn to be enabled"),
        ("no_threads", "Resource temporarily unavailable"),
    ],
)
def test_the_cause_of_a_failed_start_is_found_in_what_the_engine_wrote(recorded: str, said: str) -> None:
    found = llamacpp.last_error((RECORDED / f"{recorded}.txt").read_text(errors="replace"))
    assert said in found
    assert "failed to load model" not in found
    assert len(found) < 400


def test_our_own_sentences_are_kept() -> None:
    assert (
        llamacpp.last_error("error: the model file /m.gguf does not exist\n") == "the model file /m.gguf does not exist"
    )


def test_news_is_no_cause() -> None:
    assert llamacpp.last_error("0.01.002.003 I srv  update_slots: all slots are idle\n") == ""


def test_an_engine_that_said_nothing_has_no_last_error() -> None:
    assert llamacpp.last_error("") == ""


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    assert load_engine("llamacpp") is llamacpp
    with pytest.raises(Invalid) as refusal:
        load_engine("tgi")
    assert "llamacpp" in refusal.value.next_step


def test_on_a_cpu_without_avx2_the_engine_says_so_instead_of_dying_of_a_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llamacpp_server, "has_avx2", lambda: False)
    monkeypatch.setenv("MOORING_ENGINE_KEY", "k")
    assert llamacpp_server.main(["--model", "m", "--alias", "a", "--socket", "s"]) == llamacpp_server.EX_UNAVAILABLE
    said = capsys.readouterr().err
    assert said == "error: This CPU has no AVX2: the embedded engine cannot run here.\n"
    assert llamacpp.last_error(said) == "This CPU has no AVX2: the embedded engine cannot run here."
