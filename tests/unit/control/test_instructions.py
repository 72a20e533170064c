"""How to call something: pure, from what is known of it to addresses, paths and code."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import nbformat
import pytest

from mooring.control.instructions import DIALECTS, LANGUAGES, Dialect, Path, Subject, Urls, instructions, urls_of
from mooring.control.notebook import notebook
from mooring.control.samples import SAMPLES
from mooring.core.errors import Conflict
from mooring.gateway.dialects import find_route
from mooring.settings import SettingError, Settings, load

ALL = ("chat", "completion", "embedding")
URLS = Urls("https://models.example.com", "http://10.0.0.7:8080")
SERVICE = Subject(
    "svc-1", "qwen.big", "ModelService", "team", "qwen.big", ALL, deployed=True, served="o/Qwen", chip="A 100"
)
ENDPOINT = replace(SERVICE, id="ep-1", name="chat", kind="Endpoint", model="ep-1", served="", chip="")


def sources(subject: Subject) -> str:
    return "\n".join(cell["source"] for cell in notebook(subject, URLS)["cells"])


def test_openai_is_told_with_both_urls_and_the_name_callers_use() -> None:
    for subject, model in ((SERVICE, "qwen.big"), (ENDPOINT, "ep-1")):
        told = instructions(subject, URLS)
        names = [one["name"] for one in told["dialects"]]
        assert names == (["openai", "ark"] if subject is ENDPOINT else ["openai", "cluster", "modelarts", "genstudio"])
        assert (told["id"], told["name"], told["kind"]) == (subject.id, subject.name, subject.kind)
        dialect = told["dialects"][0]
        assert (dialect["title"], dialect["model"]) == ("OpenAI", model)
        assert dialect["baseUrl"] == "https://models.example.com/v1"
        assert dialect["internalBaseUrl"] == "http://10.0.0.7:8080/v1"


def test_a_service_is_also_told_by_its_path() -> None:
    cluster = instructions(SERVICE, URLS)["dialects"][1]
    root = "/api/v1/namespaces/team/services/modelservice-qwen-big:http/proxy"
    assert cluster["baseUrl"] == f"https://models.example.com{root}/v1"
    assert cluster["internalBaseUrl"] == f"http://10.0.0.7:8080{root}/v1"
    assert {"method": "POST", "path": f"{root}/tokenize", "operation": "tokenize"} in cluster["paths"]
    assert all(cluster["baseUrl"] in sample["code"] for sample in cluster["samples"])


@pytest.mark.parametrize(
    ("subject", "name", "base", "model"),
    [
        (ENDPOINT, "ark", "/api/v3", "ep-1"),
        (SERVICE, "modelarts", "/v1/infers/svc-1/v1", "o/Qwen"),
        (SERVICE, "genstudio", "/maas/o%2FQwen/A%20100", "o/Qwen"),
        (replace(SERVICE, served="", chip=""), "genstudio", "/maas/qwen.big/cpu", "qwen.big"),
    ],
)
def test_each_dialect_is_told_with_its_place_and_its_model(subject: Subject, name: str, base: str, model: str) -> None:
    told = next(one for one in instructions(subject, URLS)["dialects"] if one["name"] == name)
    assert (told["baseUrl"], told["internalBaseUrl"]) == (URLS.api + base, URLS.internal + base)
    assert told["model"] == model
    operations = {path["operation"] for path in told["paths"]}
    for sample in told["samples"]:
        assert told["baseUrl"] in sample["code"]
        assert sample["title"] != "Embeddings" or "embedding" in operations
    languages = {sample["language"] for sample in told["samples"]}
    assert languages == {*LANGUAGES, "python-ark"} if name == "ark" else languages == {*LANGUAGES}


def test_the_ark_sdk_has_whole_programs() -> None:
    ark = instructions(ENDPOINT, URLS)["dialects"][1]
    samples = [sample for sample in ark["samples"] if sample["language"] == "python-ark"]
    assert [sample["title"] for sample in samples] == ["Chat, the reasoning apart", "Chat, streamed", "Embeddings"]
    for sample in samples:
        compile(sample["code"], sample["title"], "exec")
        assert 'Ark(base_url="https://models.example.com/api/v3"' in sample["code"] and '"ep-1"' in sample["code"]


@pytest.mark.parametrize("subject", [SERVICE, ENDPOINT], ids=["service", "endpoint"])
def test_the_gateway_serves_every_path_that_is_told(subject: Subject) -> None:
    for dialect in instructions(subject, URLS)["dialects"]:
        for told in dialect["paths"]:
            route = find_route(told["method"].encode(), told["path"].encode())
            assert (route.refusal, route.operation == "relay") == (None, False), told
            assert told["method"] == "GET" or route.operation == told["operation"], told


@pytest.mark.parametrize(
    ("types", "operations"),
    [
        (("chat",), {"chat", "tokenize", "detokenize", "models"}),
        (("embedding",), {"embedding", "models"}),
        (("rerank",), {"models"}),
        ((), {"models"}),
    ],
)
def test_only_what_the_service_takes_is_told(types: tuple[str, ...], operations: set[str]) -> None:
    dialect = instructions(replace(SERVICE, types=types), URLS)["dialects"][0]
    assert {path["operation"] for path in dialect["paths"]} == operations
    wanted = [
        (sample.language, sample.title)
        for sample in SAMPLES
        if sample.operation in types and sample.language in LANGUAGES
    ]
    assert [(sample["language"], sample["title"]) for sample in dialect["samples"]] == wanted


def test_every_language_has_chat_whole_and_streamed() -> None:
    for language in {sample.language for sample in SAMPLES}:
        chats = [sample.title for sample in SAMPLES if (sample.language, sample.operation) == (language, "chat")]
        assert len(chats) == 2 and "Chat, streamed" in chats, language


def test_no_sample_holds_a_key_and_each_names_where_it_comes_from() -> None:
    for sample in instructions(SERVICE, URLS)["dialects"][0]["samples"]:
        assert "MOORING_API_KEY" in sample["code"]
        assert "@BASE@" not in sample["code"] and "@MODEL@" not in sample["code"]


def test_odd_characters_stay_inside_their_quotes() -> None:
    for model in ("it's", 'a"b', "a\\b"):
        dialect = instructions(replace(SERVICE, model=model), URLS)["dialects"][0]
        for sample in dialect["samples"]:
            if sample["language"].startswith("python"):
                compile(sample["code"], sample["title"], "exec")
            elif sample["language"] == "curl":
                words = shlex.split(sample["code"].replace("\\\n", " "))
                assert json.loads(words[words.index("-d") + 1])["model"] == model


def test_another_dialect_is_one_entry() -> None:
    base = "/another/{project}/{slug}/v1"
    paths = (Path("POST", base + "/chat/completions", "chat", ("chat",)),)
    other = Dialect("another", "Another", base, paths, kinds=("ModelService",), languages=("curl",))
    told = instructions(SERVICE, URLS, (*DIALECTS, other))["dialects"][-1]
    assert told["baseUrl"] == "https://models.example.com/another/team/qwen-big/v1"
    assert told["paths"][0]["path"] == "/another/team/qwen-big/v1/chat/completions"
    assert {sample["language"] for sample in told["samples"]} == {"curl"}
    assert all(told["baseUrl"] in sample["code"] for sample in told["samples"])
    assert len(instructions(ENDPOINT, URLS, (*DIALECTS, other))["dialects"]) == 2


def test_what_takes_no_calls_has_no_dialects() -> None:
    closed = replace(SERVICE, closed=True, note="Call another.")
    told = instructions(closed, URLS)
    assert (told["dialects"], told["note"]) == ([], "Call another.")
    with pytest.raises(Conflict, match="Call another"):
        notebook(closed, URLS)


def test_a_notebook_has_what_its_service_takes() -> None:
    nbformat.validate(nbformat.from_dict(notebook(SERVICE, URLS)))
    everything = sources(SERVICE)
    for part in ("/chat/completions", "/completions", "/embeddings", "/tokenize", "/models", "getpass", "stream=True"):
        assert part in everything
    assert 'BASE_URL = "https://models.example.com/v1"' in everything and 'MODEL = "qwen.big"' in everything
    embeds = sources(replace(SERVICE, types=("embedding",)))
    assert "/chat/completions" not in embeds and "/tokenize" not in embeds and "/embeddings" in embeds
    assert "/tokenize" not in sources(replace(SERVICE, kind="ExternalService", deployed=False)), "it may not have that"
    assert "switched off" in sources(replace(SERVICE, note="It is switched off."))


def test_urls_are_made_of_host_and_port_unless_the_operator_names_them() -> None:
    assert urls_of(Settings(port=9)) == Urls("http://127.0.0.1:9", "http://127.0.0.1:9")
    named = load({"MOORING_PUBLIC_URL": "https://a.example/", "MOORING_INTERNAL_URL": "http://b:1"})
    assert urls_of(named) == Urls("https://a.example", "http://b:1")
    with pytest.raises(SettingError, match="MOORING_PUBLIC_URL"):
        load({"MOORING_PUBLIC_URL": "models.example.com"})
