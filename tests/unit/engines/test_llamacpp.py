from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mooring
from mooring.core.errors import Invalid
from mooring.core.models import ModelFiles
from mooring.core.replicas import AdapterFiles, LaunchRequest, ReplicaPlace
from mooring.engines import llamacpp, llamacpp_server, load_engine
from mooring.engines.llamacpp_flags import ALIASES, FLAGS, Member, read_flags
from mooring.testing.engines.files import write_gguf

RECORDED = Path(__file__).parent / "stderr"
PLACE = ReplicaPlace("rpl-1", Path("/data/replicas/rpl-1"), Path("/run/m/rpl-1.sock"), "s3cret", threads=3)
DEMO = Path(mooring.__file__).parent / "assets" / "mooring-demo.gguf"
MIB = 1 << 20
ADAPTER = {"general.type": "adapter", "adapter.type": "lora"}


def asking(*args: str, model: Path = Path("/models/m.gguf"), **members: Any) -> LaunchRequest:
    return LaunchRequest(ModelFiles("gguf", model, 1), "m", args, **members)


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
        ["positional"],
    ],
)
def test_a_flag_that_is_not_allowed_is_refused_with_those_that_are(args: list[str]) -> None:
    with pytest.raises(Invalid) as refusal:
        llamacpp.check_args(args, {})
    assert "--ctx-size" in refusal.value.next_step
    assert refusal.value.param == "args"


def test_a_mistyped_flag_is_answered_with_the_one_meant() -> None:
    for typed in ("--ctx-sise=2048", "--ctx_size", "--ctxsize"):
        with pytest.raises(Invalid, match=r"did you mean --ctx-size\?"):
            llamacpp.check_args([typed], {})


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--chat-template={{ evil }}"], "--chat-template={{ evil }}: the name chatml is needed"),
        (["--ctx-size"], "--ctx-size needs a value"),
        (["--ctx-size", "--mlock"], "--ctx-size needs a value"),
        (["--ctx-size=many"], "--ctx-size=many: the value can not be read"),
        (["--ctx-size=-5"], "--ctx-size=-5: a whole number from 0"),
        (["--temp=nan"], "--temp=nan: a number from 0 to 100 is needed"),
        (["--mlock=1"], "--mlock takes no value"),
        (["--chat-template-kwargs=[1]"], "a JSON object is needed"),
        (["--ctx-size=2", "--parallel=4"], "shared by 4 slots"),
        (["--jinja"] * 65, "at most 64 arguments"),
    ],
)
def test_a_value_that_can_not_be_used_is_refused_without_the_list_of_flags(args: list[str], told: str) -> None:
    with pytest.raises(Invalid) as refusal:
        llamacpp.check_args(args, {})
    assert told in refusal.value.message
    assert 0 < len(refusal.value.next_step) < 60
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
    plan = llamacpp.launch_plan(asking("--ctx-size=2048", env={"OMP_NUM_THREADS": "2"}), PLACE)
    assert plan.address == "unix:/run/m/rpl-1.sock"
    assert (plan.served_model, plan.slots) == ("m", 4)
    assert "s3cret" not in " ".join(plan.argv)
    assert "s3cret" in plan.env.values()
    assert plan.env["OMP_NUM_THREADS"] == "2"
    assert "--threads=3" in plan.argv
    assert plan.argv[-1] == "--ctx-size=2048", "the service's own flags come last and win"


def test_a_plans_environment_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    plan = llamacpp.launch_plan(asking(), PLACE)
    assert set(plan.env) == {"PATH", "LANG", "HOME", "PYTHONPATH", "OMP_WAIT_POLICY", "MOORING_ENGINE_KEY"}


@pytest.mark.parametrize(
    ("args", "threads"),
    [((), 256), (("-np", "8"), 256), (("--parallel=64",), 288), (("--parallel=256",), 1024)],
)
def test_there_are_more_threads_than_the_gateway_makes_connections(args: tuple[str, ...], threads: int) -> None:
    plan = llamacpp.launch_plan(asking("--ctx-size=65536", *args), PLACE)
    assert read_flags([word for word in plan.argv if word.startswith("--threads-http")]) == {"n_threads_http": threads}


def test_the_services_own_number_of_threads_wins() -> None:
    argv = llamacpp.launch_plan(asking("--threads-http=7"), PLACE).argv
    assert [word for word in argv if word.startswith("--threads-http")][-1] == "--threads-http=7"


def test_slots_follow_the_parallel_flag() -> None:
    assert llamacpp.launch_plan(asking("-np", "2"), PLACE).slots == 2


def test_the_builtin_model_embeds_too_and_others_when_asked() -> None:
    assert "embedding" in llamacpp.capabilities(asking(model=DEMO))
    assert "embedding" not in llamacpp.capabilities(asking())
    assert "embedding" in llamacpp.capabilities(asking("--embeddings"))


def test_a_model_asked_to_embed_is_started_so_and_keeps_its_own_way_to_pool(tmp_path: Path) -> None:
    plain, encoder = tmp_path / "plain.gguf", tmp_path / "encoder.gguf"
    write_gguf(plain, {"general.architecture": "llama"})
    write_gguf(encoder, {"general.architecture": "bert", "bert.pooling_type": 2})
    request = asking(model=plain, types=("embedding",))
    assert llamacpp.capabilities(request) == {"embedding"}
    assert {"--embeddings", "--pooling=mean"} <= set(llamacpp.launch_plan(request, PLACE).argv)
    argv = llamacpp.launch_plan(asking(model=encoder, types=("embedding",)), PLACE).argv
    assert "--embeddings" in argv
    assert "--pooling=mean" not in argv


def test_a_reranker_reranks_and_nothing_else() -> None:
    request = asking(types=("rerank",))
    assert llamacpp.capabilities(request) == {"rerank"}
    assert "--pooling=rank" in llamacpp.launch_plan(request, PLACE).argv
    for types in (("rerank", "chat"), ("image",)):
        with pytest.raises(Invalid, match="kinds of call") as refusal:
            llamacpp.launch_plan(asking(types=types), PLACE)
        assert refusal.value.param == "types"


def test_a_model_in_another_format_is_refused_with_ways_out() -> None:
    request = LaunchRequest(ModelFiles("safetensors", Path("/models/m"), 1), "m")
    for ask in (llamacpp.memory_need, lambda asked: llamacpp.launch_plan(asked, PLACE)):
        with pytest.raises(Invalid, match="GGUF") as refusal:
            ask(request)
        assert "vllm" in refusal.value.next_step


def test_adapters_are_given_to_the_runner_in_their_order_and_with_no_key_beside_them(tmp_path: Path) -> None:
    adapters = []
    for name in ("b", "a"):
        write_gguf(tmp_path / f"{name}.gguf", ADAPTER | {"general.architecture": "qwen3"})
        adapters.append(AdapterFiles(name, tmp_path / f"{name}.gguf"))
    plan = llamacpp.launch_plan(asking("--cache-prompt", model=DEMO, adapters=tuple(adapters)), PLACE)
    given = [word for word in plan.argv if word.startswith("--lora")]
    assert given == [f"--lora={tmp_path}/b.gguf", f"--lora={tmp_path}/a.gguf"]
    assert plan.argv[-2:] == ("--no-cache-prompt", "--cache-ram=0"), "prompts are not shared between adapters"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"general.architecture": "qwen3"}, "is no LoRA adapter"),
        ({**ADAPTER, "general.architecture": "llama"}, "is for llama models, and this model is qwen3"),
        (None, "PEFT"),
    ],
)
def test_what_is_no_adapter_of_this_model_is_refused_with_how_to_convert_it(
    tmp_path: Path, header: dict[str, Any] | None, said: str
) -> None:
    path = tmp_path if header is None else tmp_path / "a.gguf"
    if header is not None:
        write_gguf(path, header)
    with pytest.raises(Invalid, match=said) as refusal:
        llamacpp.launch_plan(asking(model=DEMO, adapters=(AdapterFiles("a", path),)), PLACE)
    assert "convert_lora_to_gguf.py" in refusal.value.next_step


def parts(*args: str, **members: Any) -> dict[str, int]:
    return dict(llamacpp.memory_need(asking(*args, model=DEMO, **members)).parts)


def test_the_need_for_memory_follows_the_flags() -> None:
    assert parts()["KV cache"] == 16 * MIB, "4 layers × 2 KV heads × 2 × 64 numbers × 2 bytes × 8192 tokens"
    assert parts("--ctx-size=32768")["KV cache"] == 64 * MIB
    assert parts("--ctx-size=0", "--parallel=1")["KV cache"] == 4 * MIB, "the model was trained for 2048 tokens"
    assert parts("--ctx-size=32768", "-ctk", "q8_0", "-ctv", "q8_0")["KV cache"] == 34 * MIB
    assert parts("--ctx-size=1000", "--parallel=3")["KV cache"] == 3 * 512 * 2048, "a slot is rounded up to 256"
    assert parts("--flash-attn=off")["compute buffers"] > parts()["compute buffers"]
    assert "saved prompts" not in parts("--cache-ram=0")
    assert parts()["saved prompts"] == 256 * MIB
    assert 3 * MIB < parts()["weights"] < 4 * MIB


def test_the_estimate_is_near_what_was_measured() -> None:
    # Resident memory of the real engine when ready, in MiB; see engines/memory.py.
    for args, measured in (
        ((), 64),
        (("--ctx-size=32768",), 114),
        (("--ctx-size=131072",), 310),
        (("--ctx-size=131072", "--cache-type-k=q8_0", "--cache-type-v=q8_0"), 190),
    ):
        told = parts("--cache-ram=0", *args)
        idle = (sum(told.values()) - told["compute buffers"]) / MIB
        assert measured <= idle <= measured * 1.35, args


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        ("", ""),
        ("something else\n", ""),
        ("0.00.075.693 I srv    load_model: loading model '/m.gguf'\n", "Reading the model"),
        ("0.00.034 I load_tensors:   CPU_Mapped model buffer size = 3 MiB\nnoise\n", "Loading the weights"),
        ("0.00.035 I llama_kv_cache:        CPU KV buffer size =    16.00 MiB\n", "Setting up the KV cache"),
        ("0.00.119.851 I cmn          init: llama threadpool init, n_threads = 1\n", "Warming up"),
        ("0.00.134.695 I srv          init: model loaded\n", "Loaded"),
    ],
)
def test_the_last_step_of_loading_is_told(stderr: str, told: str) -> None:
    assert llamacpp.progress(stderr) == told


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
    news = "0.01.002.003 I srv  update_slots: all slots are idle\n"
    assert llamacpp.last_error(news) == ""
    assert llamacpp.last_error(f"listening on unix:///run/m/rpl-1.sock\n{news}") == "", "our own news is none either"
    assert llamacpp.last_error(f"Killed by hand\nlistening on unix:///run/m/rpl-1.sock\n{news}") == "Killed by hand"


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
