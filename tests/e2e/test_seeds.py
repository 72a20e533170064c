"""Programs written for five other platforms run against ours when only host, key and names are changed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import aside
from tests.e2e import seed_examples as seeds
from tests.e2e.conftest import MakePlatform
from tests.e2e.running import Platform, python_environment
from tests.e2e.seed_examples import CHIP, MODEL, put

DOTENV = "python-dotenv==1.2.4"
LANGCHAIN = ("langchain==0.3.30", "langchain-openai==0.3.35", DOTENV)  # later ones have no langchain.callbacks
TIMEOUT_S = 60
SAYS = r"""content=(?:'[^']|"[^"])"""  # as Python shows an object whose content is not empty
STANDARD, STREAMING, REPLY = "----- standard request -----\n", "----- streaming request -----\n", "\n\n***********\n\n"


@pytest.fixture(scope="module")
def tls(make_module_platform: MakePlatform) -> Platform:
    """Return a platform that serves HTTPS with a certificate nobody knows."""
    return make_module_platform("--tls", "self-signed").start()


@pytest.fixture(scope="module")
def access_key(shared: Platform) -> Iterator[str]:
    """Return a key of the shared platform in the form `llmos-…:secret`."""
    made = shared.create("keys", "seeds", {})
    yield made["status"]["accessKey"]
    shared.manage("DELETE", f"keys/{made['id']}")


@pytest.fixture(scope="module")
def packages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, lacks: Callable[[str, str], None]
) -> Callable[..., str]:
    """Return a function that installs packages beside ours and gives their folder, or skips the test by name."""

    def give(name: str, *requirements: str) -> str:
        folder = aside.folder_for(request.config, tmp_path_factory.getbasetemp(), *requirements)
        if lack := aside.install(folder, *requirements):
            lacks(name, lack)
        return str(folder)

    return give


# --- running an example -----------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    return python_environment(no_proxy="*", PYTHONIOENCODING="utf-8", **more)


def output(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(**variables), timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(folder: Path, script: str, **variables: str) -> str:
    """Run an example as the file a reader would make of it; return what it printed."""
    path = folder / "example.py"
    path.write_text(script)
    return output([sys.executable, str(path)], variables)


def shell(script: str, **variables: str) -> str:
    """Run a curl example; return what curl printed."""
    return output(["bash", "-c", script], variables)


def message(answer: str) -> dict[str, Any]:
    """Return the message of a chat's whole answer, which says something."""
    said: dict[str, Any] = json.loads(answer)["choices"][0]["message"]
    assert said["role"] == "assistant" and said["content"].strip()
    return said


def chunks(stream: str) -> list[dict[str, Any]]:
    """Return the events of a chat's stream, which says something, piece by piece, and ends in order."""
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    told: list[dict[str, Any]] = [json.loads(event) for event in events[:-1]]
    pieces = [one["choices"][0]["delta"].get("content") or "" for one in told if one["choices"]]
    assert len(told) > 2 and "".join(pieces).strip()
    return told


def service_id(platform: Platform) -> str:
    return str(platform.manage("GET", f"services/{MODEL}")["id"])


# --- an endpoint by its id (Ark) --------------------------------------------------------------------------


def ark(example: str, platform: Platform, shown: str = seeds.ARK_ENDPOINT, endpoint: str = "") -> str:
    return put(example, {seeds.ARK_HOST: platform.url, shown: endpoint or platform.endpoint})


def test_ark_curl(shared: Platform, requires: Callable[[str], str]) -> None:
    requires("curl")
    message(shell(ark(seeds.ARK_CURL, shared), ARK_API_KEY=shared.key))


@pytest.mark.parametrize("example", [seeds.ARK_OPENAI, seeds.ARK_SDK], ids=["openai", "volcengine"])
def test_ark_sdk(shared: Platform, tmp_path: Path, example: str) -> None:
    printed = python(tmp_path, ark(example, shared), ARK_API_KEY=shared.key)
    whole, streamed = printed.removeprefix(STANDARD).split(STREAMING)
    assert printed.startswith(STANDARD) and whole.strip() not in ("", "None")
    assert streamed.replace("None", "").strip(), "more than pieces without content, which the example prints as None"


def test_ark_unit(shared: Platform, tmp_path: Path) -> None:
    script = ark(seeds.ARK_SDK_UNIT, shared, seeds.ARK_UNIT)
    printed = python(tmp_path, script, ARK_API_KEY=shared.key)
    assert re.match(rf"ChatCompletionMessage\({SAYS}", printed), printed


CATCHING = """
import json, os
from volcenginesdkarkruntime import Ark
from volcenginesdkarkruntime._exceptions import ArkNotFoundError
client = Ark(base_url="https://ark.cn-beijing.volces.com/api/v3", api_key=os.environ.get("ARK_API_KEY"))
try:
    client.chat.completions.create(
        model="ep-s-xxx",
        messages=[{"role": "user", "content": "你好"}],
        extra_headers={"X-Client-Request-Id": "asked-by-me"},
    )
except ArkNotFoundError as error:
    print(json.dumps([error.code, error.request_id, error.message]))
"""


def test_ark_refuses_as_its_sdk_expects(shared: Platform, tmp_path: Path) -> None:
    script = ark(CATCHING, shared, endpoint="ep-unknown")
    code, request_id, text = json.loads(python(tmp_path, script, ARK_API_KEY=shared.key))
    assert (code, request_id) == ("InvalidEndpointOrModel.NotFound", "asked-by-me")
    assert "ep-unknown" in text


# --- a service by its id (ModelArts) ----------------------------------------------------------------------


def infers(example: str, platform: Platform, host: str = seeds.INFERS_HOST) -> str:
    return put(
        example,
        {
            host: platform.url,
            seeds.INFERS_ID: service_id(platform),
            seeds.INFERS_KEY: platform.key,
            seeds.INFERS_MODEL: MODEL,
        },
    )


def test_infers_requests_over_an_unknown_certificate(tls: Platform, tmp_path: Path) -> None:
    status, answer = python(tmp_path, infers(seeds.INFERS_REQUESTS, tls, seeds.INFERS_REQUESTS_HOST)).split("\n", 1)
    assert status == "200"
    message(answer)


def test_infers_curl_streams_with_usage(shared: Platform, requires: Callable[[str], str]) -> None:
    requires("curl")
    script = put(seeds.INFERS_CURL, {seeds.INFERS_HOST: shared.url, "DeepSeek-R1": MODEL})
    *_, last = chunks(shell(script, API_KEY=shared.key))
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0


def test_infers_openai_sdk(shared: Platform, tmp_path: Path) -> None:
    assert python(tmp_path, infers(seeds.INFERS_OPENAI, shared)).strip() not in ("", "None")


def test_infers_reasoning(shared: Platform, tmp_path: Path) -> None:
    thought, said = python(tmp_path, infers(seeds.INFERS_REASONING, shared)).split("content:", 2)[1:]
    thought = thought.removesuffix("\n").strip()
    assert thought not in ("", "None") and said.strip() not in ("", "None")


def ask(example: str, platform: Platform, service: str) -> Any:
    """Send a request that is shown as HTTP; return the answer."""
    changes = {seeds.INFERS_HOST: "", seeds.INFERS_ID: service, "YOUR_API_KEY": platform.key}
    if seeds.INFERS_MODEL in example:
        changes[seeds.INFERS_MODEL] = MODEL
    head, _, body = put(example, changes).partition("\n\n")
    first, *lines = head.splitlines()
    method, path, _ = first.split()
    headers = dict(line.split(": ", 1) for line in lines)
    return platform.call(method, path, body.encode() or None, key="", headers=headers)


def test_infers_http(shared: Platform) -> None:
    service = service_id(shared)
    models = ask(seeds.INFERS_HTTP_MODELS, shared, service)
    assert models.status == 200 and MODEL in [model["id"] for model in models.json["data"]]
    message(ask(seeds.INFERS_HTTP_CHAT, shared, service).body.decode())
    completion = ask(seeds.INFERS_HTTP_COMPLETION, shared, service).json
    assert completion["object"] == "text_completion" and completion["choices"][0]["text"].strip()


def test_infers_refuses_in_its_own_words(shared: Platform) -> None:
    refused = ask(seeds.INFERS_HTTP_CHAT, shared, "svc-unknown")
    assert (refused.status, refused.json["error_code"]) == (404, "ModelArts.81009")
    assert refused.json["error_msg"] and set(refused.json) == {"error_code", "error_msg"}


# --- a model on a chip (GenStudio) ------------------------------------------------------------------------


def maas(example: str, platform: Platform) -> str:
    return put(example, {seeds.MAAS_HOST: platform.url, seeds.MAAS_MODEL: MODEL, seeds.MAAS_CHIP: CHIP})


@pytest.mark.parametrize("example", [seeds.MAAS_CURL, seeds.MAAS_CURL_SYSTEM], ids=["user", "system"])
def test_maas_curl(shared: Platform, requires: Callable[[str], str], example: str) -> None:
    requires("curl")
    message(shell(maas(example, shared), API_KEY=shared.key))


def test_maas_curl_streams(shared: Platform, requires: Callable[[str], str]) -> None:
    requires("curl")
    chunks(shell(maas(seeds.MAAS_CURL_STREAM, shared), API_KEY=shared.key))


def test_maas_curl_of_several_turns(shared: Platform, requires: Callable[[str], str]) -> None:
    requires("curl")
    shown = maas(seeds.MAAS_CURL_TURNS, shared)
    body = shown.partition("-d '")[2].rpartition("'")[0]
    refused = shell(shown.replace("curl ", "curl -w '\\n%{http_code}' ", 1), API_KEY=shared.key)
    answer, status = refused.rsplit("\n", 1)
    error = json.loads(answer)["error"]
    assert (status, error["code"]) == ("400", "invalid_json")
    position = len(body[: body.rindex("]")].encode())
    assert f"trailing comma in array (byte {position})" in error["message"]
    message(shell(put(shown, {seeds.MAAS_TRAILING_COMMA: "}\n]"}), API_KEY=shared.key))


def maas_settings(folder: Path, platform: Platform) -> str:
    """Write the file `.env` that the examples read; return the base URL."""
    base = f"{platform.url}/maas/{MODEL}/{CHIP}/"
    folder.joinpath(".env").write_text(
        f"OPENAI_API_KEY={platform.key}\nOPENAI_API_KEY1={platform.key}\nOPENAI_API_BASE={base}\n"
    )
    return base


def test_maas_openai_sdk(shared: Platform, tmp_path: Path, packages: Callable[..., str]) -> None:
    base = maas_settings(tmp_path, shared)
    script = put(seeds.MAAS_OPENAI, {seeds.MAAS_SDK_MODEL: MODEL})
    printed = python(tmp_path, script, PYTHONPATH=packages("dotenv", DOTENV))
    _, told, said = printed.split("\n", 2)
    assert told == base and said.strip() not in ("", "None")


def test_maas_langchain_with_streaming_callbacks(
    shared: Platform, tmp_path: Path, packages: Callable[..., str]
) -> None:
    base = maas_settings(tmp_path, shared)
    printed = python(tmp_path, seeds.MAAS_LANGCHAIN, PYTHONPATH=packages("langchain", *LANGCHAIN))
    streamed, whole, second = printed.partition(f"{base}\n")[2].split(REPLY)
    assert streamed.strip() and f"content={streamed!r} " in whole
    assert re.search(rf"\s{SAYS}", second), second


# --- a service of a project (a cluster's proxy path) ------------------------------------------------------


def cluster(example: str, platform: Platform, shown_key: str, key: str) -> str:
    host = f"127.0.0.1:{platform.port}"
    service = f"modelservice-{MODEL}"
    names = {seeds.CLUSTER_SERVICE: service, seeds.CLUSTER_MODEL: MODEL}
    return put(example, {seeds.CLUSTER_HOST: host, shown_key: key, **names})


def test_cluster_curl_without_a_scheme(shared: Platform, access_key: str, requires: Callable[[str], str]) -> None:
    requires("curl")
    message(shell(cluster(seeds.CLUSTER_CURL, shared, seeds.CLUSTER_CURL_KEY, access_key)))


def test_cluster_curl_without_a_scheme_is_told_that_the_port_speaks_https(
    tls: Platform, requires: Callable[[str], str]
) -> None:
    requires("curl")
    shown = cluster(seeds.CLUSTER_CURL, tls, seeds.CLUSTER_CURL_KEY, tls.key)
    answer, status = shell(shown.replace("curl -k", "curl -k -w '\\n%{http_code}'", 1)).rsplit("\n", 1)
    assert status == "400" and "this port speaks HTTPS" in json.loads(answer)["error"]["message"]
    message(shell(shown.replace("API_BASE=", "API_BASE=https://", 1)))


def test_cluster_openai_sdk_over_an_unknown_certificate(tls: Platform, tmp_path: Path) -> None:
    key = tls.create("keys", "seeds", {})["status"]["accessKey"]
    printed = python(tmp_path, cluster(seeds.CLUSTER_OPENAI, tls, seeds.CLUSTER_KEY, key))
    assert printed.strip() not in ("", "None")
