from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mooring.core.errors import Invalid, Unavailable
from mooring.core.models import ModelFiles
from mooring.core.replicas import AdapterFiles, LaunchPlan, LaunchRequest, ReplicaPlace
from mooring.engines import vllm
from mooring.engines.memory import GIB, VLLM_PROCESS_BYTES
from mooring.testing.engines.files import write_model_folder, write_peft_adapter

RECORDED = Path(__file__).parent / "stderr" / "vllm"
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 32768,
}  # 128 KiB a token
PLACE = ReplicaPlace("rpl-1", Path("/data/replicas/rpl-1"), Path("/run/m/rpl-1.sock"), "s3cret", threads=3)
PROGRAM = ("/bin/sh", "serve")


def asking(folder: Path, *args: str, config: dict[str, Any] | None = None, **members: Any) -> LaunchRequest:
    path = write_model_folder(folder / "model", config or CONFIG)
    return LaunchRequest(ModelFiles("safetensors", path, 1), "qwen", args, **{"program": PROGRAM, **members})


def planned(request: LaunchRequest, place: ReplicaPlace = PLACE) -> LaunchPlan:
    return vllm.launch_plan(request, place)


def test_a_plan_names_model_and_socket_and_hides_the_key_from_the_arguments(tmp_path: Path) -> None:
    plan = planned(asking(tmp_path, "--max_model_len", "4k", "--max-num-seqs=8"))
    assert plan.argv[:7] == (
        "/bin/sh", "serve", str(tmp_path / "model"), "--uds", "/run/m/rpl-1.sock", "--served-model-name", "qwen",
    )  # fmt: skip
    assert plan.argv[7:] == ("--max-num-seqs=8", "--max-model-len=4k")
    assert (plan.address, plan.served_model, plan.slots) == ("unix:/run/m/rpl-1.sock", "qwen", 8)
    assert "s3cret" not in " ".join(plan.argv)
    assert plan.env["VLLM_API_KEY"] == "s3cret"


def test_the_old_entry_point_takes_the_model_by_a_flag(tmp_path: Path) -> None:
    program = ("/bin/sh", "-m", "vllm.entrypoints.openai.api_server")
    argv = planned(asking(tmp_path, program=program)).argv
    assert argv[3:5] == ("--model", str(tmp_path / "model"))


def test_a_command_without_a_path_is_looked_for(tmp_path: Path) -> None:
    assert planned(asking(tmp_path, program=("sh", "serve"))).argv[0].startswith("/")
    with pytest.raises(Unavailable, match="no-such-vllm") as refusal:
        planned(asking(tmp_path, program=("no-such-vllm", "serve")))
    assert "MOORING_VLLM_COMMAND" in refusal.value.next_step


def test_a_plans_environment_holds_nothing_of_ours_and_reaches_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    env = planned(asking(tmp_path, env={"VLLM_LOGGING_LEVEL": "DEBUG"}, cache=Path("/data/cache"))).env
    assert set(env) == {
        "PATH", "LANG", "HOME", "USER", "TORCHINDUCTOR_CACHE_DIR", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS",
        "DO_NOT_TRACK", "VLLM_HOST_IP", "OMP_NUM_THREADS", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES",
        "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE", "VLLM_API_KEY", "VLLM_LOGGING_LEVEL",
    }  # fmt: skip
    assert (env["HOME"], env["OMP_NUM_THREADS"], env["CUDA_VISIBLE_DEVICES"]) == ("/data/cache", "3", "")
    assert env["PATH"].startswith("/bin:"), "the program's neighbours are found first"
    assert planned(asking(tmp_path)).env["HOME"] == str(PLACE.directory)


def test_a_replica_sees_its_gpus_and_splits_the_model_among_them(tmp_path: Path) -> None:
    place = ReplicaPlace("r", Path("/d"), Path("/d/e.sock"), "k", threads=3, gpus=(2, 3))
    plan = planned(asking(tmp_path, gpus=2), place)
    assert plan.env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "VLLM_CPU_KVCACHE_SPACE" not in plan.env
    assert "--tensor-parallel-size=2" in plan.argv
    argv = planned(asking(tmp_path, "-pp", "2", gpus=2), place).argv
    assert not any(word.startswith("--tensor") for word in argv)
    with pytest.raises(Invalid, match="need 4 GPUs, and the service has 2") as refusal:
        planned(asking(tmp_path, "-tp", "2", "-dp", "2", gpus=2), place)
    assert refusal.value.param == "args"


def test_the_cache_on_a_cpu_holds_one_request_of_full_length(tmp_path: Path) -> None:
    def space(*args: str, **members: Any) -> str:
        return planned(asking(tmp_path, *args, **members)).env["VLLM_CPU_KVCACHE_SPACE"]

    assert space() == "4", "32,768 tokens × 128 KiB"
    assert space("--max-model-len=8192") == "1"
    assert space("--max-model-len=8193") == "2"
    assert space("--dtype=float32") == "8"
    assert space("--max-model-len=auto") == "1"
    assert space(env={"VLLM_CPU_KVCACHE_SPACE": "40"}) == "40"


def test_adapters_are_models_beside_the_model(tmp_path: Path) -> None:
    adapters = (
        AdapterFiles("a", write_peft_adapter(tmp_path / "a", rank=9)),
        AdapterFiles("b", write_peft_adapter(tmp_path / "b", rank=4, rank_pattern={"q_proj": 20})),
    )
    argv = planned(asking(tmp_path, adapters=adapters)).argv
    assert {"--enable-lora", "--max-lora-rank=32", "--max-loras=2"} <= set(argv)
    named = argv[argv.index("--lora-modules") + 1 :]
    assert [json.loads(entry)["name"] for entry in named] == ["qwen:a", "qwen:b"]
    assert json.loads(named[0])["path"] == str(tmp_path / "a")


@pytest.mark.parametrize("rank", [0, -1, 513, "8", None])
def test_an_adapter_of_an_impossible_rank_is_refused(tmp_path: Path, rank: Any) -> None:
    folder = write_peft_adapter(tmp_path / "a")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    with pytest.raises(Invalid, match="rank") as refusal:
        planned(asking(tmp_path, adapters=(AdapterFiles("a", folder),)))
    assert refusal.value.param == "adapters"


def test_an_adapter_in_gguf_format_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(Invalid, match="PEFT") as refusal:
        planned(asking(tmp_path, adapters=(AdapterFiles("a", tmp_path / "a.gguf"),)))
    assert "llamacpp" in refusal.value.next_step


def test_a_model_in_another_format_is_refused_with_a_way_out() -> None:
    request = LaunchRequest(ModelFiles("gguf", Path("/models/m.gguf"), 1), "m", program=PROGRAM)
    for ask in (vllm.memory_need, planned):
        with pytest.raises(Invalid, match="safetensors") as refusal:
            ask(request)
        assert "llamacpp" in refusal.value.next_step


@pytest.mark.parametrize(
    ("architecture", "args", "types", "answers"),
    [
        ("Qwen3ForCausalLM", (), (), {"chat", "completion"}),
        ("Qwen3ForCausalLM", (), ("chat",), {"chat"}),
        ("Qwen3ForCausalLM", (), ("embedding",), {"embedding"}),
        ("Qwen3ForCausalLM", ("--runner=pooling",), (), {"embedding", "rerank"}),
        ("BertModel", (), (), {"embedding", "rerank"}),
        ("BertModel", ("--runner=generate",), (), {"chat", "completion"}),
        ("BertForSequenceClassification", (), (), {"rerank"}),
    ],
)
def test_what_is_answered_follows_what_is_asked_else_the_model(
    tmp_path: Path, architecture: str, args: tuple[str, ...], types: tuple[str, ...], answers: set[str]
) -> None:
    request = asking(tmp_path, *args, config=CONFIG | {"architectures": [architecture]}, types=types)
    assert vllm.capabilities(request) == answers
    argv = planned(request).argv
    assert ("--runner=pooling" in argv) == bool(answers & {"embedding", "rerank"})
    assert ("--convert=embed" in argv) == ("embedding" in answers)


def test_a_sentence_embedder_embeds(tmp_path: Path) -> None:
    request = asking(tmp_path)
    (request.model.path / "modules.json").write_text("[]")
    assert vllm.capabilities(request) == {"embedding", "rerank"}


@pytest.mark.parametrize(
    ("args", "types"),
    [
        ((), ("chat", "embedding")),
        ((), ("image",)),
        (("--runner=pooling",), ("chat",)),
        (("--runner=generate",), ("embedding",)),
    ],
)
def test_kinds_that_no_single_run_answers_are_refused(
    tmp_path: Path, args: tuple[str, ...], types: tuple[str, ...]
) -> None:
    with pytest.raises(Invalid, match="kinds of call") as refusal:
        planned(asking(tmp_path, *args, types=types))
    assert "two services" in refusal.value.next_step


def test_the_need_for_memory_on_a_cpu(tmp_path: Path) -> None:
    need = vllm.memory_need(asking(tmp_path, "--max-model-len=8192"))
    assert need.device == "memory"
    assert dict(need.parts) == {"weights": 2048, "KV cache": GIB, "the engine itself": 3 * VLLM_PROCESS_BYTES}
    wide = dict(vllm.memory_need(asking(tmp_path, "-tp", "2", "--dtype=float32", "--max-model-len=8192")).parts)
    assert wide == {"weights": 4096, "KV cache": 2 * 2 * GIB, "the engine itself": 4 * VLLM_PROCESS_BYTES}


def test_the_need_for_memory_on_each_gpu(tmp_path: Path) -> None:
    need = vllm.memory_need(asking(tmp_path, "--kv-cache-dtype=fp8", gpus=2))
    assert need.device == "GPU memory"
    parts = dict(need.parts)
    assert parts["weights"] == 1024
    assert parts["KV cache of one request"] == GIB, "32,768 tokens × 128 KiB, in 8 bits, on two GPUs"


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "VLLM_LOGGING_LEVEL", "NCCL_P2P_DISABLE", "PYTORCH_ALLOC_CONF"])
def test_variables_that_tune_the_engine_may_be_set(name: str) -> None:
    vllm.check_args([], {name: "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "1") for name in (
            "LD_PRELOAD", "PYTHONPATH", "PATH", "HOME", "VLLM_API_KEY", "VLLM_PLUGINS", "VLLM_SERVER_DEV_MODE",
            "VLLM_PORT",
            "VLLM_HOST_IP", "VLLM_CACHE_ROOT", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_ALLOW_INSECURE_SERIALIZATION",
            "HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "CUDA_VISIBLE_DEVICES", "NCCL_TOPO_FILE", "NCCL_NET_PLUGIN",
            "NCCL_DEBUG_FILE", "CC", "CXX", "TRITON_CACHE_DIR", "MOORING_ENGINE_KEY", "OMP_NUM_THREADS\n",
        )),
        ("OMP_NUM_THREADS", "1" * 300),
        ("OMP_NUM_THREADS", "1\n2"),
        ("VLLM_CPU_KVCACHE_SPACE", "0"),
        ("VLLM_CPU_KVCACHE_SPACE", "much"),
    ],
)  # fmt: skip
def test_variables_that_could_run_code_leak_or_fail_are_refused(name: str, value: str) -> None:
    with pytest.raises(Invalid, match="env") as refusal:
        vllm.check_args([], {name: value})
    assert refusal.value.param == "env"


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ("too_long", "User-specified max_model_len (4096) is greater than the derived max_model_len"),
        ("broken_weights", "SafetensorError: Error while deserializing header: incomplete metadata"),
        ("unknown_architecture", "The checkpoint you are trying to load has model type `nosuch`"),
        ("unknown_flag", "unrecognized arguments: --no-such-flag 1"),
        ("no_parser", "KeyError: \"Reasoning parser 'nosuch' not found."),
        ("cache_too_small", "No available memory for the cache blocks."),
    ],
)
def test_the_cause_of_a_failed_start_is_found_in_what_vllm_wrote(recorded: str, said: str) -> None:
    found = vllm.last_error((RECORDED / f"{recorded}.txt").read_text())
    assert found.startswith(said)
    assert len(found) <= 400
    assert "\n" not in found


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("", ""),
        ("(APIServer pid=1) INFO 11-25 16:34:17 [model.py:733] Resolved architecture: X\n", ""),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n", "OutOfMemoryError: CUDA out of"),
        ("RuntimeError: Engine core initialization failed. See root cause above.\n", ""),
        ("error: can't start /opt/vllm: No such file or directory\n", "can't start /opt/vllm: No such file"),
        ("importlib.metadata.PackageNotFoundError: vllm\n", "PackageNotFoundError: vllm"),
        ("AssertionError\n", "AssertionError"),
        ("found ulimit, this can cause errors like `OSError: [Errno 24]`\n", ""),
    ],
)
def test_single_lines_of_failure(stderr: str, said: str) -> None:
    assert vllm.last_error(stderr).startswith(said)
    assert bool(vllm.last_error(stderr)) == bool(said)


def test_each_step_of_a_recorded_start_is_told() -> None:
    seen: list[str] = []
    lines = (RECORDED / "started.txt").read_text().splitlines()
    for count in range(len(lines)):
        step = vllm.progress("\n".join(lines[: count + 1]))
        if step and step not in seen:
            seen.append(step)
    assert seen == [
        "Reading the configuration",
        "Starting the engine",
        "Loading the weights",
        "Loading safetensors checkpoint shards 0/1",
        "Loading safetensors checkpoint shards 1/1",
        "Weights loaded",
        "Compiling",
        "Setting up the KV cache",
        "Loaded",
    ]


def test_bars_that_write_over_themselves_are_read() -> None:
    bars = ("Capturing CUDA graphs (mixed prefill-decode): 0%|  | 0/5", "Capturing CUDA graphs (mixed): 40%|## | 2/5")
    assert vllm.progress("\r".join(bars)) == "Capturing CUDA graphs 40 %"
    assert vllm.progress("nothing of interest") == ""


@pytest.mark.parametrize(
    ("metrics", "count"),
    [
        ('vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_waiting{engine="0"} 1.0\n', 3),
        ('vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_running{engine="1"} 1.0\n', 3),
        ("vllm:num_requests_running 4\nvllm:num_requests_waiting_by_reason{reason=\"capacity\"} 9\n", 4),
        ("# HELP vllm:num_requests_running Number\n", None),
        ("vllm:num_requests_running nan\n", None),
        ("vllm:num_requests_running 1e999\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_requests_under_way_are_summed_over_engines(metrics: str, count: int | None) -> None:
    assert vllm.read_in_flight(metrics) == count
