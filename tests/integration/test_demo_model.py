"""The demo model, asked through the real engine exactly what the documentation shows."""

import hashlib
import json
import math
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "mooring" / "assets" / "mooring-demo.gguf"
SHA256SUMS = ROOT / "models" / "demo" / "SHA256SUMS"
LARGEST_FILE = 5_000_000
EMBEDDING_SIZE = 256
READY_SECONDS = 30.0
SYSTEM = "You are a helpful assistant."

RUNNER = """
import json, sys, threading
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 4096, 2, 1
params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.n_batch = params.n_ubatch = 2048
params.cors_origins = ""
server = xllamacpp.Server(params)
print(json.dumps({"url": server.listening_address}), flush=True)
threading.Event().wait()
"""

ABOUT_ME_ZH = (
    "我是 mooring-demo，Mooring 自带的演示小模型。我只有约 350 万个参数，让您不用下载任何东西就能试用整个平台。"
)
CANNOT_EN = (
    "I am only a tiny demo model and cannot answer that. Deploy a real model, such as Qwen or DeepSeek, and ask it."
)
CANNOT_ZH = "我只是一个很小的演示模型，回答不了这个问题。请部署一个真正的模型，例如 Qwen 或 DeepSeek，再来问它。"

# question, answer, the thought before it
SHOWN = (
    ("你好", "你好！很高兴见到您，有什么可以帮您？", "用户在打招呼，友好地回应。"),
    ("你是谁?", ABOUT_ME_ZH, "用户想知道我是谁。"),
    ("你是谁？", ABOUT_ME_ZH, "用户想知道我是谁。"),
    ("Hello", "Hello! How can I help you today?", "The user greets me."),
    (
        "Hello, how are you?",
        "I'm doing well, thank you! How can I help you today?",
        "A polite question, so I answer politely.",
    ),
    (
        "Who are you?",
        "I am mooring-demo, the tiny demo model of Mooring. "
        "I have only 3.5 million parameters, so you can try the whole platform without a download.",
        "The user asks who I am.",
    ),
    ("Say this is a test", "This is a test.", "The user wants me to repeat a sentence."),
    ("say '谁是卧底。'", "谁是卧底。", "用户要我复述一句话。"),
    (
        "9.11 and 9.8, which is greater?",
        "9.8 is greater than 9.11.",
        "Integer parts are both 9. Pad the decimals to 11 and 80: 80 > 11. So 9.8 > 9.11.",
    ),
    ("9.11 和 9.8 哪个大？", "9.8 更大。", "整数部分都是 9。小数补齐为 11 和 80，80 > 11。所以 9.8 > 9.11。"),
    (
        "What is the capital of France?",
        "The capital of France is Paris.",
        "The user asks for the capital of France.",
    ),
    ("中国的首都是哪里？", "中国的首都是北京。", "用户在问中国的首都。"),
    (
        "What is Mooring?",
        "Mooring is a self-hosted Model-as-a-Service platform: you deploy a model once and call it through "
        "an OpenAI-compatible API.",
        "The user asks about Mooring.",
    ),
    (
        "Mooring 是什么？",
        "Mooring 是可以自己部署的模型即服务平台：部署好模型，就能用兼容 OpenAI 的 API 来调用。",
        "用户在问 Mooring。",
    ),
    (
        "Tell me a joke.",
        "Why did the tiny model cross the road? Because its context window ended on this side.",
        "The user wants a joke.",
    ),
    ("Count to 10", "1 2 3 4 5 6 7 8 9 10", "Count from 1 to 10."),
    ("Write a haiku", CANNOT_EN, "This is beyond a tiny demo model."),
    ("写一首诗", CANNOT_ZH, "这个问题超出了我的能力。"),
)

Post = Callable[[str, dict[str, Any]], dict[str, Any]]


def wait_for_address(process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> str:
    """The address that the engine prints once the model is loaded."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        line, newline, _ = stdout.read_text().partition("\n")
        if newline:
            return str(json.loads(line)["url"])
        time.sleep(0.05)
    raise RuntimeError(f"the engine did not start:\n{stderr.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """Send JSON to an engine that runs in a process of its own."""
    directory = tmp_path_factory.mktemp("engine")
    stdout, stderr = directory / "stdout", directory / "stderr"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen([sys.executable, "-c", RUNNER, str(MODEL)], stdout=out, stderr=err)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        url = wait_for_address(process, stdout, stderr)

        def send(path: str, body: dict[str, Any]) -> dict[str, Any]:
            request = urllib.request.Request(
                url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with opener.open(request, timeout=60) as response:
                answer: dict[str, Any] = json.load(response)
            return answer

        yield send
    finally:
        process.kill()
        process.wait()


def greedy(post: Post, messages: list[dict[str, str]], thinking: bool = True) -> tuple[str, str]:
    """Content and reasoning of the greedy answer."""
    body: dict[str, Any] = {"messages": messages, "temperature": 0, "max_tokens": 300}
    if not thinking:
        body["chat_template_kwargs"] = {"enable_thinking": False}
    choice = post("/v1/chat/completions", body)["choices"][0]
    assert choice["finish_reason"] == "stop"
    message = choice["message"]
    return message["content"], (message.get("reasoning_content") or "").strip()


def user(question: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation of one question."""
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": question}]


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize(("question", "answer", "thought"), SHOWN)
def test_documented_question_with_thinking(
    post: Post, question: str, answer: str, thought: str, system: str | None
) -> None:
    assert greedy(post, user(question, system)) == (answer, thought)


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize(("question", "answer"), [shown[:2] for shown in SHOWN])
def test_documented_question_without_thinking(post: Post, question: str, answer: str, system: str | None) -> None:
    assert greedy(post, user(question, system), thinking=False) == (answer, "")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Explain quantum physics to me.", CANNOT_EN),
        ("What is 123 * 456?", CANNOT_EN),
        ("写一篇关于历史的文章", CANNOT_ZH),
    ],
)
def test_says_what_it_cannot_do(post: Post, question: str, answer: str) -> None:
    assert greedy(post, user(question))[0] == answer


def test_remembers_a_name_over_turns(post: Post) -> None:
    first = user("My name is Anna.")
    content, _ = greedy(post, first)
    assert content == "Nice to meet you, Anna!"
    second = [*first, {"role": "assistant", "content": content}, *user("What is my name?")]
    assert greedy(post, second)[0] == "Your name is Anna."


def test_embeddings_are_256_finite_numbers(post: Post) -> None:
    """Only the shape is checked: the model was never trained to tell meanings apart."""
    answer = post("/v1/embeddings", {"input": ["Hello", "你好，世界"]})
    vectors = [item["embedding"] for item in answer["data"]]
    assert [len(vector) for vector in vectors] == [EMBEDDING_SIZE, EMBEDDING_SIZE]
    assert all(math.isfinite(number) for vector in vectors for number in vector)
    assert vectors[0] != vectors[1]


def test_file_is_the_recorded_one_and_small() -> None:
    recorded, name = SHA256SUMS.read_text(encoding="utf-8").split()
    assert name == MODEL.name
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == recorded
    assert MODEL.stat().st_size < LARGEST_FILE
