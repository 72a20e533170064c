"""A Jupyter notebook that calls a service or an endpoint: made from its instructions, run from top to bottom."""

from __future__ import annotations

import json
from typing import Any

from mooring.control.instructions import Subject, Urls, instructions
from mooring.core.errors import Conflict

MEDIA_TYPE = "application/x-ipynb+json"

_TITLES = {"ModelService": "model service", "ExternalService": "external service", "Endpoint": "endpoint"}

SETUP = """\
import getpass
import json
import os

import requests

BASE_URL = @BASE@
MODEL = @MODEL@
API_KEY = os.environ.get("MOORING_API_KEY") or getpass.getpass("API key: ")

session = requests.Session()
session.headers["Authorization"] = f"Bearer {API_KEY}"


def call(path, **body):
    \"\"\"Send one call; return the answer's JSON, or its lines as they come when a stream is asked for.\"\"\"
    streams = body.get("stream", False)
    answer = session.post(BASE_URL + path, json={"model": MODEL, **body}, stream=streams, timeout=600)
    if not answer.ok:
        raise RuntimeError(f"{answer.status_code}: {answer.text}")
    return events(answer) if streams else answer.json()


def events(answer):
    \"\"\"Yield what a stream of server-sent events tells.\"\"\"
    with answer:
        for line in answer.iter_lines():
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield json.loads(data)
"""
MODELS = """\
for model in session.get(BASE_URL + "/models", timeout=60).json()["data"]:
    print(model["id"], "·", model.get("name", ""), "·", ", ".join(model.get("types") or []))
"""
CHAT = """\
answer = call("/chat/completions", messages=[{"role": "user", "content": "9.11 and 9.8, which is greater?"}])
message = answer["choices"][0]["message"]
print("Reasoning:", message.get("reasoning_content"))
print("Answer:", message["content"])
print("Tokens:", answer.get("usage"))
"""
CHAT_STREAM = """\
part = ""
messages = [{"role": "user", "content": "9.11 and 9.8, which is greater?"}]
for event in call("/chat/completions", messages=messages, stream=True):
    for choice in event["choices"]:
        delta = choice["delta"]
        for name, text in (("Reasoning", delta.get("reasoning_content")), ("Answer", delta.get("content"))):
            if text:
                print(text if name == part else f"\\n{name}: {text}", end="", flush=True)
                part = name
"""
COMPLETION = """\
answer = call("/completions", prompt="The sea is", max_tokens=32)
print(answer["choices"][0]["text"])
"""
EMBEDDING = """\
answer = call("/embeddings", input=["a ship", "a boat", "a spoon"])
vectors = [item["embedding"] for item in answer["data"]]


def likeness(one, other):
    \"\"\"Return the cosine of the angle between two vectors: 1 = the same direction.\"\"\"
    lengths = sum(a * a for a in one) ** 0.5 * sum(b * b for b in other) ** 0.5
    return sum(a * b for a, b in zip(one, other)) / lengths


print(len(vectors[0]), "numbers for each text")
print("ship and boat:", likeness(vectors[0], vectors[1]), "· ship and spoon:", likeness(vectors[0], vectors[2]))
"""
TOKENIZE = """\
answer = call("/tokenize", prompt="Hello, world")
print(answer["count"], "tokens:", answer["tokens"])
print(call("/detokenize", tokens=answer["tokens"])["prompt"])
"""

_PARTS = (
    ("chat", "## Chat\n\nModels that think answer with `reasoning_content` beside `content`.", CHAT),
    ("chat", "## Chat, streamed\n\nThe reasoning comes first, then the answer, piece by piece.", CHAT_STREAM),
    ("completion", "## Completion\n\nGoes on with a text.", COMPLETION),
    ("embedding", "## Embeddings\n\nTexts that mean similar things get similar numbers.", EMBEDDING),
)


def notebook(subject: Subject, urls: Urls) -> dict[str, Any]:
    """Return the notebook, JSON-ready, in nbformat 4.5.

    Raises:
        Conflict: the subject takes no calls that address it.
    """
    if subject.closed:
        raise Conflict(subject.note, next_step="Ask for the notebook of an endpoint that leads to it.")
    openai = next(dialect for dialect in instructions(subject, urls)["dialects"] if dialect["name"] == "openai")
    setup = SETUP.replace("@BASE@", json.dumps(openai["baseUrl"])).replace("@MODEL@", json.dumps(openai["model"]))
    cells = [_text(_introduction(subject)), _code(setup)]
    cells += [_text("## What this key may call"), _code(MODELS)]
    for operation, text, code in _PARTS:
        if operation in subject.types:
            cells += [_text(text), _code(code)]
    if subject.deployed and {"chat", "completion"} & set(subject.types):
        cells += [_text("## Tokens\n\nWhat the model sees of a text, and back."), _code(TOKENIZE)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": python, "language_info": {"name": "python"}},
        "cells": cells,
    }


def _introduction(subject: Subject) -> str:
    note = f"\n\n**{subject.note}**" if subject.note else ""
    return (
        f"# Calling {subject.name}\n\n"
        f"The {_TITLES[subject.kind]} **{subject.name}** of the project `{subject.project}`;"
        f" callers put `{subject.model}` into `model`.{note}\n\n"
        "Needs `pip install requests`. The API key is taken from the environment variable `MOORING_API_KEY`, or asked"
        " for; it is not kept in this file."
    )


def _text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _code(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source.rstrip()}
