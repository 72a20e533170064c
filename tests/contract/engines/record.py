"""Record what a running engine answers: `python tests/contract/engines/record.py FILE SOCKET KEY MODEL [GROUP…]`.

FILE (`recorded/<engine>.json`) gets one entry for each case of the groups; entries of other groups stay. A case is
`{"request": {"method", "path", "body"}, "status", "headers", "body"}`, or with `"stream"`, the lines of the answer,
instead of `"body"`. Long lists of numbers are cut to their
first eight, metrics to a few.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

QUESTION = [{"role": "user", "content": "9.11 and 9.8, which is greater?"}]
GREETING = [{"role": "user", "content": "你好"}]
CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "a",
        "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
    },
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def _chat(**members: Any) -> tuple[str, str, Any]:
    body = {"model": "MODEL", "messages": QUESTION, "temperature": 0, "max_tokens": 96} | members
    return "POST", CHAT, {name: value for name, value in body.items() if value != "ABSENT"}


def _text(**members: Any) -> tuple[str, str, Any]:
    return "POST", TEXT, {"model": "MODEL", "prompt": "Hello", "temperature": 0, "max_tokens": 8} | members


def _embed(**members: Any) -> tuple[str, str, Any]:
    return "POST", EMBED, {"model": "MODEL", "input": ["Hello", "world"]} | members


USAGE = {"stream": True, "stream_options": {"include_usage": True}}
GROUPS: dict[str, dict[str, tuple[str, str, Any]]] = {
    "state": {
        "health": ("GET", "/health", None),
        "models": ("GET", "/v1/models", None),
        "models_by_id": ("GET", "/v1/models/MODEL", None),
        "unknown_path": ("GET", "/v1/nothing", None),
        "wrong_method": ("GET", CHAT, None),
        "wrong_key": ("GET", "/v1/models", None),
    },
    "llamacpp": {
        "props": ("GET", "/props", None),
        "slots": ("GET", "/slots", None),
        "tokenize": ("POST", "/tokenize", {"content": "Hello world", "with_pieces": False}),
        "detokenize": ("POST", "/detokenize", {"tokens": [795, 1040]}),
        "tokenize_as_vllm": ("POST", "/tokenize", {"model": "MODEL", "prompt": "Hello world"}),
        "apply_template": ("POST", "/apply-template", {"messages": GREETING}),
        "repeat_penalty": _chat(repeat_penalty=1.1),
    },
    "vllm": {
        "metrics": ("GET", "/metrics", None),
        "tokenize": ("POST", "/tokenize", {"model": "MODEL", "prompt": "Hello world"}),
        "tokenize_messages": ("POST", "/tokenize", {"model": "MODEL", "messages": GREETING}),
        "detokenize": ("POST", "/detokenize", {"model": "MODEL", "tokens": [795, 1040]}),
        "chat_stream_continuous_usage": _chat(
            stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}
        ),
    },
    "generate": {
        "chat": _chat(),
        "chat_stream": _chat(stream=True),
        "chat_stream_usage": _chat(**USAGE),
        "chat_without_thinking": _chat(chat_template_kwargs={"enable_thinking": False}),
        "cut_while_thinking": _chat(max_tokens=5),
        "chat_logprobs": _chat(messages=GREETING, max_tokens=2, logprobs=True, top_logprobs=2),
        "two_choices": _chat(n=2, max_tokens=3, temperature=1, seed=1),
        "json_schema": _chat(response_format=SCHEMA, max_tokens=60),
        "tools": _chat(tools=[TOOL], tool_choice="none", max_tokens=8),
        "text": _text(),
        "text_stream_usage": _text(**USAGE),
        "text_logprobs": _text(logprobs=1, max_tokens=2),
        "list_of_prompts": _text(prompt=["Hello", "Hi"], max_tokens=3),
        "unknown_model": _chat(model="nope"),
        "no_model": _chat(model="ABSENT"),
        "temperature_negative": _chat(temperature=-1),
        "top_p_too_large": _chat(top_p=5),
        "temperature_is_text": _chat(temperature="hot"),
        "max_tokens_zero": _chat(max_tokens=0),
        "max_tokens_negative": _chat(max_tokens=-5),
        "max_tokens_beyond_context": _chat(max_tokens=100000),
        "prompt_too_long": _chat(messages=[{"role": "user", "content": "a b c d e f g h " * 400}]),
        "prompt_too_long_stream": _chat(messages=[{"role": "user", "content": "a b c d e f g h " * 400}], stream=True),
        "messages_missing": _chat(messages="ABSENT"),
        "messages_empty": _chat(messages=[], max_tokens=2),
        "message_without_content": _chat(messages=[{"role": "user"}], max_tokens=2),
        "bad_json": ("POST", CHAT, '{"model": "MODEL", "messages": ['),
        "stream_options_without_stream": _chat(stream_options={"include_usage": True}, max_tokens=2),
        "unknown_field": _chat(no_such_field=1, max_tokens=2),
        "beam_search": _text(use_beam_search=True, n=2, max_tokens=4),
        "repetition_penalty": _chat(repetition_penalty=1.1, max_tokens=4),
        "length_penalty": _text(length_penalty=0.5, max_tokens=2),
    },
    "embed": {
        "embeddings": _embed(),
        "embeddings_base64": _embed(encoding_format="base64", input="Hi"),
        "embeddings_dimensions": _embed(dimensions=8),
        "embeddings_empty": _embed(input=[]),
    },
    "pooling": {
        "pooling_models": ("GET", "/v1/models", None),
        "chat_in_a_pooling_run": _chat(),
        "rerank": ("POST", "/v1/rerank", {"model": "MODEL", "query": "Hello", "documents": ["Hello", "capital"]}),
    },
    "not_embedding": {"embeddings_in_a_generate_run": _embed()},
    "lora": {
        "models_with_adapters": ("GET", "/v1/models", None),
        "chat_with_adapter": _chat(model="MODEL:pirate", max_tokens=16),
        "chat_beside_adapter": _chat(max_tokens=16),
    },
    "lora_by_index": {
        "lora_adapters": ("GET", "/lora-adapters", None),
        "chat_with_lora": _chat(lora=[{"id": 0, "scale": 1}], max_tokens=16),
        "chat_without_lora": _chat(max_tokens=16),
    },
}


_KEPT_METRICS = re.compile(r"num_requests_(running|waiting)|kv_cache_usage|(prompt|generation)_tokens_total")


def ask(path: str, key: str, model: str, case: tuple[str, str, Any]) -> dict[str, Any]:
    """Send one request over the Unix socket `path` and return the entry to keep."""
    method, target, body = case
    target = target.replace("MODEL", model)
    text = body if isinstance(body, str) or body is None else json.dumps(body, ensure_ascii=False)
    text = text.replace("MODEL", model) if text else text
    connection = http.client.HTTPConnection("engine")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(120)
    connection.sock.connect(path)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request(method, target, text.encode() if text else None, headers)
    answer = connection.getresponse()
    kind = answer.headers.get("Content-Type", "")
    said = answer.read().decode()
    connection.close()
    kept: dict[str, Any] = {
        "request": {
            "method": method,
            "path": target,
            "body": json.loads(text) if not isinstance(body, str) and text else text,
        },
        "status": answer.status,
        "headers": {"content-type": kind},
    }
    return kept | _content(kind, said)


def _content(kind: str, said: str) -> dict[str, Any]:
    if kind.startswith("text/event-stream"):
        return {"stream": [line for line in said.split("\n") if line]}
    if kind.startswith("application/json"):
        return {"body": _short(json.loads(said))}
    return {"body": "".join(line for line in said.splitlines(keepends=True) if _KEPT_METRICS.search(line))}


def _short(value: Any) -> Any:
    if isinstance(value, dict):  # "root" is a folder of the machine that recorded
        return {name: "/models/recorded" if name == "root" else _short(inner) for name, inner in value.items()}
    if isinstance(value, list):
        numbers = len(value) > 8 and all(isinstance(number, int | float) for number in value)
        return value[:8] if numbers else [_short(inner) for inner in value]
    return value


def main(file: str, path: str, key: str, model: str, *groups: str) -> None:
    """Record the cases of the groups."""
    target = Path(file)
    recorded = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    for group in groups:
        for name, case in GROUPS[group].items():
            recorded[name] = ask(path, "another key" if name == "wrong_key" else key, model, case)
            print(name, recorded[name]["status"])
    text = json.dumps(recorded, ensure_ascii=False, indent=1)
    target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
