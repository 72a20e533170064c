"""Calls a platform with whatever OpenAI SDK is installed and prints, as JSON, what came of each call.

A script, not a test: it runs in processes with different versions of the SDK. Arguments: base URL, key, endpoint.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import sys
from collections.abc import Callable
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI

URL, KEY, ENDPOINT = sys.argv[1:4]
CALLERS = 50
QUESTION = "9.11 and 9.8, which is greater?"
THINKING_OFF = {"chat_template_kwargs": {"enable_thinking": False}}

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=60)
cases: list[Callable[[], Any]] = []


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    cases.append(function)
    return function


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def ask(text: str = QUESTION, **more: Any) -> Any:
    chosen = {"model": ENDPOINT, "messages": said(text), "temperature": 0, **more}
    return client.chat.completions.create(**chosen)


def counts(usage: Any) -> list[int]:
    return [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]


@case
def version() -> str:
    return openai.__version__


@case
def chat() -> dict[str, Any]:
    answer = ask()
    message = answer.choices[0].message
    return {
        "content": message.content,
        "reasoning": message.reasoning_content,
        "role": message.role,
        "finish": answer.choices[0].finish_reason,
        "model": answer.model,
        "object": answer.object,
        "usage": counts(answer.usage),
    }


@case
def stream() -> dict[str, Any]:
    chunks = list(ask(stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    return {
        "content": "".join(delta.content or "" for delta in deltas),
        "reasoning": "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas),
        "finish": chunks[-1].choices[0].finish_reason,
        "ids": len({chunk.id for chunk in chunks}),
        "chunks": len(chunks),
        "usages": [counts(chunk.usage) for chunk in chunks if chunk.usage],
    }


@case
def stream_with_usage() -> dict[str, Any]:
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    return {
        "choices_of_last": len(chunks[-1].choices),
        "usage": counts(chunks[-1].usage),
        "others": [counts(chunk.usage) for chunk in chunks[:-1] if chunk.usage],
    }


@case
def thinking_off() -> dict[str, Any]:
    message = ask(extra_body=THINKING_OFF).choices[0].message
    return {"content": message.content, "reasoning": getattr(message, "reasoning_content", None) or ""}


@case
def stopped_by_length() -> dict[str, Any]:
    answer = ask(max_tokens=5)
    return {"finish": answer.choices[0].finish_reason, "completion": answer.usage.completion_tokens}


@case
def several_choices() -> dict[str, Any]:
    answer = ask("Hello", n=3, max_tokens=4)
    return {"indexes": [choice.index for choice in answer.choices], "usage": counts(answer.usage)}


@case
def completion() -> dict[str, Any]:
    answer = client.completions.create(model=ENDPOINT, prompt="Hello", max_tokens=5, temperature=0)
    choice = answer.choices[0]
    return {"object": answer.object, "id": answer.id, "text": choice.text, "usage": counts(answer.usage)}


@case
def completions_of_two_prompts_twice() -> dict[str, Any]:
    prompts = ["Hello", "Good morning"]
    answer = client.completions.create(model=ENDPOINT, prompt=prompts, n=2, max_tokens=3, temperature=0)
    return {"indexes": [choice.index for choice in answer.choices], "usage": counts(answer.usage)}


@case
def completion_stream() -> dict[str, Any]:
    options: Any = {"include_usage": True}
    chunks = list(
        client.completions.create(
            model=ENDPOINT, prompt="Hello", max_tokens=5, temperature=0, stream=True, stream_options=options
        )
    )
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    return {"text": text, "usage": counts(chunks[-1].usage), "choices_of_last": len(chunks[-1].choices)}


@case
def embeddings() -> dict[str, Any]:
    inputs = ["Hello", "你好，世界"]
    plain = client.embeddings.create(model=ENDPOINT, input=inputs, encoding_format="float")
    default = client.embeddings.create(model=ENDPOINT, input=inputs)  # the SDK asks for base64 and decodes it
    raw = client.embeddings.with_raw_response.create(model=ENDPOINT, input=inputs, encoding_format="base64")
    coded = [item["embedding"] for item in json.loads(raw.text)["data"]]
    decoded = [struct.unpack(f"<{len(data) // 4}f", data) for data in map(base64.b64decode, coded)]
    vectors = [item.embedding for item in plain.data]
    pairs = [*zip(vectors, (item.embedding for item in default.data)), *zip(vectors, decoded)]  # noqa: B905
    apart = max(abs(a - b) for one, two in pairs for a, b in zip(one, two))  # noqa: B905
    return {
        "sizes": [len(vector) for vector in (*vectors, *decoded)],
        "apart": apart,
        "indexes": [item.index for item in plain.data],
        "usage": [plain.usage.prompt_tokens, plain.usage.total_tokens],
    }


@case
def models() -> dict[str, Any]:
    one = client.models.retrieve(ENDPOINT)
    return {"ids": [model.id for model in client.models.list()], "one": one.id, "object": one.object}


@case
def request_id_header() -> str:
    raw = client.chat.completions.with_raw_response.create(model=ENDPOINT, messages=said("Hello"), max_tokens=1)
    return raw.headers["x-request-id"]


# --- what goes wrong --------------------------------------------------------------------------------------


def refused(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        call()
    except openai.APIStatusError as error:
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "code": error.code,
            "type": error.type,
            "param": error.param,
            "message": str(error.message),
        }
    raise AssertionError("it was not refused")


@case
def wrong_key() -> dict[str, Any]:
    return refused(OpenAI(base_url=URL, api_key="mk-wrong", max_retries=0).models.list)


@case
def unknown_model() -> dict[str, Any]:
    return refused(lambda: ask(model="nobody-serves-this"))


@case
def unknown_model_retrieved() -> dict[str, Any]:
    return refused(lambda: client.models.retrieve("nobody-serves-this"))


@case
def wrong_type() -> dict[str, Any]:
    return refused(lambda: ask(temperature="hot"))


@case
def out_of_range() -> dict[str, Any]:
    return refused(lambda: ask(temperature=-1))


@case
def no_messages() -> dict[str, Any]:
    return refused(lambda: ask(messages=[]))


@case
def too_long() -> dict[str, Any]:
    return refused(lambda: ask("word " * 6000))


@case
def too_long_stream() -> dict[str, Any]:
    return refused(lambda: list(ask("word " * 6000, stream=True)))


@case
def unknown_path() -> dict[str, Any]:
    return refused(lambda: client.images.generate(model=ENDPOINT, prompt="a cat"))


# --- many at once -----------------------------------------------------------------------------------------


async def _one(many: AsyncOpenAI, number: int) -> str:
    chosen: dict[str, Any] = {"model": ENDPOINT, "messages": said("Say this is a test"), "temperature": 0}
    if number % 2:
        answer = await many.chat.completions.create(**chosen)
        return answer.choices[0].message.content or ""
    parts = [chunk async for chunk in await many.chat.completions.create(**chosen, stream=True)]
    return "".join(chunk.choices[0].delta.content or "" for chunk in parts)


async def _many() -> list[str]:
    async with AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=60) as many:
        return await asyncio.gather(*(_one(many, number) for number in range(CALLERS)))


@case
def fifty_at_once() -> list[str]:
    return asyncio.run(_many())


def main() -> None:
    result: dict[str, Any] = {}
    for function in cases:
        try:
            result[function.__name__] = function()
        except Exception as error:  # noqa: BLE001  (the test that reads it says which case failed, and how)
            result[function.__name__] = f"{type(error).__name__}: {error}"
    print(json.dumps(result))


main()
