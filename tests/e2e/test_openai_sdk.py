"""The OpenAI SDK, the newest and an old one, against the gateway and the real engine; and what no SDK offers."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import aside
from tests.e2e.running import Platform, python_environment, until
from tests.integration.test_demo_model import SHOWN

CALLER = Path(__file__).with_name("sdk_caller.py")
OLD_SDK = ("openai==1.40.0", "httpx<0.28")
ANSWER = "9.8 is greater than 9.11."
THOUGHT = "Integer parts are both 9. Pad the decimals to 11 and 80: 80 > 11. So 9.8 > 9.11."


@pytest.fixture(scope="module", params=["newest", "1.40"])
def sdk(
    request: pytest.FixtureRequest,
    shared: Platform,
    tmp_path_factory: pytest.TempPathFactory,
    lacks: Callable[[str, str], None],
) -> dict[str, Any]:
    """Return what every call came to, made with one version of the SDK."""
    environment = python_environment()
    if request.param != "newest":
        folder = aside.folder_for(request.config, tmp_path_factory.getbasetemp(), *OLD_SDK)
        if lack := aside.install(folder, *OLD_SDK):
            lacks("old-openai-sdk", lack)
        environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, str(CALLER), f"{shared.url}/v1", shared.key, shared.endpoint],
        capture_output=True,
        text=True,
        env={**environment, "no_proxy": "*"},
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["version"].startswith("3." if request.param == "newest" else "1.40.")
    return result


# --- answers ----------------------------------------------------------------------------------------------


def test_chat_with_reasoning_apart(sdk: dict[str, Any]) -> None:
    chat = sdk["chat"]
    assert (chat["content"], chat["reasoning"].strip()) == (ANSWER, THOUGHT)
    assert (chat["role"], chat["finish"], chat["object"]) == ("assistant", "stop", "chat.completion")
    assert chat["model"] == "mooring-demo"
    prompt, completion, total = chat["usage"]
    assert prompt > 0 and completion > 0 and total == prompt + completion


def test_a_stream_says_the_same(sdk: dict[str, Any]) -> None:
    stream = sdk["stream"]
    assert (stream["content"], stream["reasoning"].strip()) == (ANSWER, THOUGHT)
    assert stream["finish"] == "stop"
    assert stream["ids"] == 1
    assert stream["chunks"] > 10, "it comes piece by piece"
    assert stream["usages"] == [], "nobody asked for usage"


def test_usage_at_the_end_of_a_stream_when_asked_for(sdk: dict[str, Any]) -> None:
    stream = sdk["stream_with_usage"]
    assert stream["choices_of_last"] == 0
    assert stream["usage"] == sdk["chat"]["usage"]
    assert stream["others"] == []


def test_thinking_can_be_switched_off(sdk: dict[str, Any]) -> None:
    assert sdk["thinking_off"] == {"content": ANSWER, "reasoning": ""}


def test_max_tokens_ends_an_answer(sdk: dict[str, Any]) -> None:
    assert sdk["stopped_by_length"] == {"finish": "length", "completion": 5}


def test_several_choices_are_all_counted(sdk: dict[str, Any]) -> None:
    several = sdk["several_choices"]
    assert several["indexes"] == [0, 1, 2]
    prompt, completion, total = several["usage"]
    assert completion == 12 and total == prompt + completion


def test_a_completion(sdk: dict[str, Any]) -> None:
    completion = sdk["completion"]
    assert completion["object"] == "text_completion" and completion["id"].startswith("cmpl-")
    assert completion["text"] and completion["usage"][1] == 5


def test_completions_of_a_list_of_prompts(sdk: dict[str, Any]) -> None:
    completions = sdk["completions_of_two_prompts_twice"]
    assert completions["indexes"] == [0, 1, 2, 3]
    assert completions["usage"][1] == 12


def test_a_streamed_completion(sdk: dict[str, Any]) -> None:
    stream = sdk["completion_stream"]
    assert stream["text"] == sdk["completion"]["text"]
    assert stream["usage"] == sdk["completion"]["usage"]
    assert stream["choices_of_last"] == 0


def test_embeddings_in_both_encodings(sdk: dict[str, Any]) -> None:
    embeddings = sdk["embeddings"]
    assert embeddings["sizes"] == [256] * 4
    assert embeddings["apart"] < 1e-5
    assert embeddings["indexes"] == [0, 1]
    assert embeddings["usage"][0] == embeddings["usage"][1] > 0


def test_models_are_listed_and_told(sdk: dict[str, Any], shared: Platform) -> None:
    models = sdk["models"]
    assert {shared.endpoint, "mooring-demo"} <= set(models["ids"])
    assert (models["one"], models["object"]) == (shared.endpoint, "model")


def test_fifty_callers_at_once(sdk: dict[str, Any]) -> None:
    assert sdk["fifty_at_once"] == ["This is a test."] * 50


def test_the_request_id_leads_to_the_usage_record(sdk: dict[str, Any], shared: Platform) -> None:
    path = f"usage/requests?requestId={sdk['request_id_header']}"
    (record,) = until(lambda: shared.manage("GET", path)["items"], "the usage record", 2)
    assert (record["endpointId"], record["status"], record["ended"]) == (shared.endpoint, 200, "complete")
    assert record["completionTokens"] == 1


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "kind", "code"),
    [
        ("wrong_key", "AuthenticationError", "invalid_api_key"),
        ("unknown_model", "NotFoundError", "model_not_found"),
        ("unknown_model_retrieved", "NotFoundError", "model_not_found"),
        ("wrong_type", "BadRequestError", None),
        ("out_of_range", "BadRequestError", None),
        ("no_messages", "BadRequestError", None),
        ("too_long", "BadRequestError", "context_length_exceeded"),
        ("too_long_stream", "BadRequestError", "context_length_exceeded"),
        ("unknown_path", "NotFoundError", "path_not_found"),
    ],
)
def test_each_refusal_is_the_exception_that_programs_expect(
    sdk: dict[str, Any], case: str, kind: str, code: str | None
) -> None:
    refused = sdk[case]
    assert isinstance(refused, dict), refused
    assert refused["class"] == kind
    assert refused["message"] and refused["type"]
    assert code in (None, refused["code"])


def test_a_wrong_parameter_is_named(sdk: dict[str, Any]) -> None:
    assert sdk["out_of_range"]["param"] == "temperature"
    assert "temperature" in sdk["wrong_type"]["message"]


def raw_status(platform: Platform, headers: dict[str, str], body: bytes = b"") -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=10)
    try:
        connection.putrequest("POST", "/v1/chat/completions")
        for name, value in {"Authorization": f"Bearer {platform.key}", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["error"]
    finally:
        connection.close()


def test_a_body_that_is_too_large_is_refused_by_its_announcement(shared: Platform) -> None:
    status, error = raw_status(shared, {"Content-Type": "application/json", "Content-Length": str(1 << 30)})
    assert (status, error["code"]) == (413, "request_too_large")


def test_a_body_that_is_not_json_is_refused(shared: Platform) -> None:
    status, error = raw_status(shared, {"Content-Type": "text/plain", "Content-Length": "2"}, b"{}")
    assert (status, error["code"]) == (415, "unsupported_media_type")
    status, error = raw_status(shared, {"Content-Type": "application/json", "Content-Length": "2"}, b"{]")
    assert (status, error["code"]) == (400, "invalid_json")


# --- the demo model, and what no SDK offers ---------------------------------------------------------------


def test_the_documented_questions_through_the_gateway(shared: Platform) -> None:
    told = {question: (answer, thought) for question, answer, thought in SHOWN}
    heard = {}
    for question in told:
        message = shared.chat(question, max_tokens=300).json["choices"][0]["message"]
        heard[question] = (message["content"], message["reasoning_content"].strip())
    assert heard == told


def test_the_endpoint_the_service_and_the_served_model_are_the_same_model(shared: Platform) -> None:
    answers = {name: shared.chat("Hello", model=name).json for name in (shared.endpoint, "mooring-demo")}
    assert {answer["choices"][0]["message"]["content"] for answer in answers.values()} == {
        "Hello! How can I help you today?"
    }
    assert {answer["model"] for answer in answers.values()} == {"mooring-demo"}


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_tokenize_and_detokenize_are_inverse(shared: Platform, prefix: str) -> None:
    text = "Hello, 你好！ 9.11 🙂"
    tokens = shared.call("POST", f"{prefix}/tokenize", {"model": shared.endpoint, "prompt": text}).json
    assert tokens["count"] == len(tokens["tokens"]) > 0
    assert tokens["max_model_len"] == 2048
    sent = {"model": shared.endpoint, "tokens": tokens["tokens"]}
    assert shared.call("POST", f"{prefix}/detokenize", sent).json == {"prompt": text}


def test_tokenize_counts_a_conversation_as_the_engine_does(shared: Platform) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    tokens = shared.call("POST", "/tokenize", {"model": shared.endpoint, "messages": messages}).json
    assert tokens["count"] == shared.chat("Hello", max_tokens=1).json["usage"]["prompt_tokens"]
