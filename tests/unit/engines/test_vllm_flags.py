from __future__ import annotations

import pytest

from mooring.core.errors import Invalid
from mooring.engines import vllm
from mooring.engines.vllm_flags import ALIASES, FLAGS, FlagError, read_flags, tokens, write_flags


@pytest.mark.parametrize(
    "args",
    [["--max-model-len=4096"], ["--max-model-len", "4096"], ["--max_model_len=4096"], ["--max_model_len", "4096"]],
)
def test_a_flag_is_taken_in_every_spelling_and_written_in_one(args: list[str]) -> None:
    assert write_flags(read_flags(args)) == ["--max-model-len=4096"]


def test_a_switch_is_turned_on_and_off_and_the_last_one_wins() -> None:
    assert write_flags(read_flags(["--enforce-eager", "--no-enforce-eager"])) == ["--no-enforce-eager"]
    assert write_flags(read_flags(["--no-enable-prefix-caching", "--enable-prefix-caching"])) == [
        "--enable-prefix-caching"
    ]


def test_short_names_are_known() -> None:
    assert write_flags(read_flags(["-tp", "2", "-q", "awq"])) == ["--tensor-parallel-size=2", "--quantization=awq"]
    assert set(ALIASES.values()) <= set(FLAGS)


def test_there_are_many_flags_and_each_has_a_value_it_takes_or_is_a_switch() -> None:
    assert len(FLAGS) > 80
    samples = ["1", "auto", "0.5", "awq", '{"a":1}', "safetensors", "mp", "native", "lru", "weights", "8", "mistral"]
    samples += [
        '{"method":"ngram"}',
        '{"backend":"auto"}',
        '{"normalize":true}',
        "fcfs",
        "linear",
        "hf",
        "embed",
        "eager",
    ]
    samples += ["raw_logits", "sha256", "balanced", "info", "string"]
    for name, flag in FLAGS.items():
        taken = [[]] if flag.read is None else [[text] for text in samples]
        assert any(_takes([name, *value]) for value in taken), name


def _takes(args: list[str]) -> bool:
    try:
        return bool(read_flags(args))
    except FlagError:
        return False


@pytest.mark.parametrize(
    "args",
    [
        ["--host", "0.0.0.0"],
        ["--port=1"],
        ["--uds=/tmp/x"],
        ["--api-key=x"],
        ["--ssl-keyfile=/etc/passwd"],
        ["--root-path=/x"],
        ["--middleware=os.system"],
        ["--logits-processors=os.system"],
        ["--worker-cls=x.Y"],
        ["--worker-extension-cls=x.Y"],
        ["--scheduler-cls=x.Y"],
        ["--tool-parser-plugin=/tmp/x.py"],
        ["--reasoning-parser-plugin=/tmp/x.py"],
        ["--io-processor-plugin=x"],
        ["--chat-template=/etc/passwd"],
        ["--chat-template={{ evil }}"],
        ["--trust-request-chat-template"],
        ["--allowed-local-media-path=/"],
        ["--allowed-origins=['*']"],
        ["--config=/etc/passwd"],
        ["--model=/etc"],
        ["--tokenizer=/etc"],
        ["--hf-config-path=/etc"],
        ["--hf-token=x"],
        ["--download-dir=/etc"],
        ["--served-model-name=other"],
        ["--lora-modules=a=/etc"],
        ["--kv-transfer-config={}"],
        ["--otlp-traces-endpoint=http://evil"],
        ["--tool-server=evil:1"],
        ["--enable-log-outputs"],
        ["--data-parallel-address=1.2.3.4"],
        ["--nnodes=2"],
        ["--max-model"],
        ["--hos=0.0.0.0"],
        ["positional"],
        ["--"],
        ["--no-disable-log-stats"],
        ["--no-dtype"],
    ],
)
def test_a_flag_that_is_not_allowed_is_refused_with_those_that_are(args: list[str]) -> None:
    with pytest.raises(Invalid) as refusal:
        vllm.check_args(args, {})
    assert "--max-model-len" in refusal.value.next_step
    assert refusal.value.param == "args"


@pytest.mark.parametrize(
    "args",
    [
        ["--max-model-len"],
        ["--max-model-len", "--enforce-eager"],
        ["--max-model-len=many"],
        ["--max-model-len=0"],
        ["--gpu-memory-utilization=1.5"],
        ["--gpu-memory-utilization=nan"],
        ["--max-num-seqs=-1"],
        ["--max-num-seqs=1_000"],
        ["--enforce-eager=true"],
        ["--dtype=int8"],
        ["--quantization=../x"],
        ["--load-format=pt"],
        ["--config-format=x.Y"],
        ['--speculative-config={"method":"eagle","model":"/etc"}'],
        ['--speculative-config={"model":"/etc"}'],
        ["--speculative-config=[]"],
        ['--structured-outputs-config={"reasoning_parser_plugin":"/tmp/x.py"}'],
        ['--pooler-config={"normalize":{"a":1}}'],
        ["--override-generation-config=" + "[" * 4000],
        ["--default-chat-template-kwargs=1"],
        ["--reasoning-parser=a\nb"],
        ["--enforce-eager"] * 129,
        ["--reasoning-parser=" + "a" * 5000],
    ],
)
def test_a_value_that_can_not_be_used_is_refused_without_the_list_of_flags(args: list[str]) -> None:
    with pytest.raises(Invalid) as refusal:
        vllm.check_args(args, {})
    assert 0 < len(refusal.value.next_step) < 60
    assert refusal.value.param == "args"


def test_a_mistyped_flag_is_answered_with_the_one_meant() -> None:
    with pytest.raises(Invalid, match=r"did you mean --max-model-len\?"):
        vllm.check_args(["--max-model-length=4096"], {})


@pytest.mark.parametrize(
    "args", [["--trust-remote-code"], ['--hf-overrides={"architectures":["X"]}'], ['-cc={"level":3}']]
)
def test_flags_that_run_code_are_for_administrators(args: list[str]) -> None:
    vllm.check_args(args, {}, administrator=True)
    with pytest.raises(Invalid, match="only an administrator") as refusal:
        vllm.check_args(args, {}, administrator=False)
    assert "administrator" in refusal.value.next_step


def test_a_json_value_is_written_without_spaces() -> None:
    args = ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}']
    assert write_flags(read_flags(args)) == ['--speculative-config={"method":"ngram","num_speculative_tokens":3}']


@pytest.mark.parametrize(
    ("text", "count"),
    [("4096", 4096), ("32k", 32000), ("32K", 32768), ("25.6k", 25600), ("1M", 1 << 20), ("auto", -1), ("-1", -1)],
)
def test_counts_are_read_as_vllm_writes_them(text: str, count: int) -> None:
    assert tokens(text) == count
