"""The one shape of everything, and how a bad object is explained."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.endpoints import Endpoint
from mooring.core.errors import InvalidDocument
from mooring.core.external_services import ExternalService
from mooring.core.keys import ApiKey
from mooring.core.objects import NAME_PATTERN, read, slug, to_wire
from mooring.core.projects import Project
from mooring.core.secrets import Secret, token_key
from mooring.core.services import ModelService
from mooring.core.users import User

EXAMPLES: list[tuple[type[Any], dict[str, Any]]] = [
    (Project, {"kind": "Project", "metadata": {"name": "p"}, "spec": {"limits": {"rpm": 1}}}),
    (User, {"kind": "User", "metadata": {"name": "u"}}),
    (
        Secret,
        {
            "kind": "Secret",
            "metadata": {"name": "elsewhere-key", "project": "default"},
            "spec": {"type": "Opaque", "stringData": {"token": "sk-upstream"}},
        },
    ),
    (
        ModelService,
        {
            "kind": "ModelService",
            "metadata": {"name": "demo2", "project": "default", "tags": {"team": "search"}},
            "spec": {
                "model": {"source": "builtin", "name": "mooring-demo"},
                "engine": "auto",
                "args": ["--ctx-size=2048"],
                "env": {},
                "resources": {"cpu": 1, "memory": "1Gi", "gpus": 0},
                "chip": "cpu",
                "replicas": 1,
            },
        },
    ),
    (
        ModelService,
        {
            "metadata": {"name": "hub"},
            "spec": {
                "model": {
                    "source": "huggingface",
                    "name": "org/repo",
                    "revision": "main",
                    "file": "*q8_0.gguf",
                    "mirror": "https://hub.example.com",
                    "tokenSecret": "hf",
                },
                "engine": "vllm",
            },
        },
    ),
    (
        ExternalService,
        {
            "kind": "ExternalService",
            "metadata": {"name": "elsewhere", "project": "default"},
            "spec": {
                "urls": ["http://127.0.0.1:9000/v1"],
                "servedModel": "some-model",
                "apiKeySecret": "elsewhere-key",
                "chip": "nvidia",
                "types": ["chat", "completion"],
            },
        },
    ),
    (
        Endpoint,
        {
            "kind": "Endpoint",
            "metadata": {"name": "chat", "project": "default", "tags": {"tier": "gold"}},
            "spec": {
                "services": [{"name": "elsewhere", "weight": 1}],
                "limits": {"rpm": 600, "tpm": 100000, "concurrency": 32},
                "moderation": {"enabled": False},
                "enabled": True,
            },
        },
    ),
    (
        ApiKey,
        {
            "kind": "ApiKey",
            "metadata": {"name": "app-key", "project": "default"},
            "spec": {"description": "for the app", "endpoints": ["chat"]},
        },
    ),
]


@pytest.mark.parametrize(("model", "document"), EXAMPLES)
def test_an_example_is_read_and_what_is_written_reads_back_the_same(model: type[Any], document: dict[str, Any]) -> None:
    noun = read(model, document)
    wire = to_wire(noun)
    assert list(wire) == ["kind", "id", "metadata", "spec", "status"]
    assert read(model, wire) == noun


ENDPOINT = {"metadata": {"name": "e"}, "spec": {"services": [{"name": "s"}]}}


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"spec": {**ENDPOINT["spec"], "limit": 1}}, "spec.limit", "limits"),
        ({"spec": {"services": [{"name": "s", "wait": 1}]}}, "spec.services.0.wait", "weight"),
        ({"spec": {**ENDPOINT["spec"], "reserve_tokens": 1}}, "spec.reserve_tokens", "reserveTokens"),
        ({"spec": {}}, "spec.services", "required"),
        ({"spec": {"services": [{"name": "s", "weight": 0}]}}, "spec", "above 0"),
        ({"spec": {"services": [{"name": "s"}, {"name": "s"}]}}, "spec", "twice"),
        ({"metadata": {"name": "Big"}}, "metadata.name", "a-z 0-9"),
        ({"metadata": {"name": "a\n"}}, "metadata.name", "a-z 0-9"),
        ({"metadata": {"name": 3}}, "metadata.name", "string"),
        ({"metadata": {"name": "e", "tags": {"a:b": "c"}}}, "metadata.tags.a:b.[key]", "pattern"),
        ({"kind": "Secret"}, "kind", "Endpoint"),
        ({"extra": 1}, "extra", "kind, id, metadata, spec, status"),
    ],
)
def test_a_fault_is_named_with_its_field_and_what_would_be_right(change: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(InvalidDocument) as refusal:
        read(Endpoint, {**ENDPOINT, **change})
    assert refusal.value.param == field
    assert told in refusal.value.message
    assert refusal.value.problems[0]["field"] == field


def test_words_of_pydantic_are_not_shown() -> None:
    def told(model: dict[str, Any] | str) -> str:
        with pytest.raises(InvalidDocument) as refusal:
            read(ModelService, {"metadata": {"name": "s"}, "spec": {"model": model}})
        return refusal.value.message

    assert told({"source": "ftp"}) == "spec.model.source: must be 'builtin', 'local', 'huggingface' or 'modelscope'."
    assert told({"name": "a"}) == "spec.model.source: must be 'builtin', 'local', 'huggingface' or 'modelscope'."
    assert told({"source": "local"}) == "spec.model.path: this field is required."
    assert told({"source": "local", "path": "/a", "pth": 1}).startswith("spec.model.pth: unknown field 'pth'")
    with pytest.raises(InvalidDocument, match=r"spec\.services\.0: must be an object like \{name: …, weight: …\}\."):
        read(Endpoint, {**ENDPOINT, "spec": {"services": ["s"]}})


def test_several_faults_are_named_in_one_sentence() -> None:
    with pytest.raises(InvalidDocument) as refusal:
        read(Endpoint, {"metadata": {"name": "Big"}, "spec": {"services": "s", "enabled": []}})
    assert refusal.value.message.endswith("Also wrong: spec.services, spec.enabled.")


@pytest.mark.parametrize("document", [None, 3, "x", [], {}, {"metadata": None}, {"metadata": {"name": "a"}, "spec": 3}])
def test_what_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(InvalidDocument):
        read(Endpoint, document)


def test_what_only_answers_hold_is_left_out_of_a_document() -> None:
    sent_back = {**ENDPOINT, "status": {"state": "Healthy", "nonsense": 1}, "action": "created"}
    assert read(Endpoint, sent_back) == read(Endpoint, ENDPOINT)
    assert read(Project, {"metadata": {"name": "p"}, "spec": None}) == read(Project, {"metadata": {"name": "p"}})


def test_secret_values_and_passwords_do_not_show_in_a_representation() -> None:
    secret = read(Secret, {"metadata": {"name": "s"}, "spec": {"stringData": {"token": "hidden-value"}}})
    user = read(User, {"metadata": {"name": "u"}, "spec": {"password": "hidden-value"}})
    assert "hidden-value" not in f"{secret!r} {user!r} {secret} {user}"


@pytest.mark.parametrize("memory", ["8 GB", "lots", "-1Gi", "1gi"])
def test_memory_in_another_form_is_refused_with_how_to_write_it(memory: str) -> None:
    with pytest.raises(InvalidDocument) as refusal:
        read(ModelService, {"metadata": {"name": "a"}, "spec": {"resources": {"memory": memory}}})
    problems = {problem["field"]: problem["message"] for problem in refusal.value.problems}
    assert problems["spec.resources.memory"] == "write it like 512Mi or 8Gi"


@given(st.from_regex(NAME_PATTERN.replace("$", r"\Z")))
def test_a_name_makes_a_slug_that_is_a_part_of_a_host_name(text: str) -> None:
    read(Project, {"metadata": {"name": text}})
    assert 1 <= len(slug(text)) <= 63
    assert set(slug(text)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert "-" not in (slug(text)[0], slug(text)[-1])


@pytest.mark.parametrize(
    ("keys", "token"), [(["token", "b"], "token"), (["only"], "only"), (["a", "b"], None), ([], None)]
)
def test_the_credential_of_a_secret_is_token_or_the_only_value(keys: list[str], token: str | None) -> None:
    assert token_key(keys) == token
