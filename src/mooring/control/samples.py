"""Code that calls a model, ready to run: one text per language, operation and way of answering.

@BASE@ and @MODEL@ stand where base URL and model go. The key is read from the environment, never written down.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One text. `operation` is the kind of call that it makes: a service without it has no use for the sample."""

    language: str
    operation: str
    title: str
    code: str

    def filled(self, base_url: str, model: str) -> dict[str, str]:
        """Return the sample for one base URL (up to and including its version) and model, JSON-ready."""
        code = self.code
        for mark, value in (("@BASE@", base_url), ("@MODEL@", model)):
            quoted = json.dumps(value)[1:-1]  # stands between double quotes in Python, JavaScript and JSON
            code = code.replace(mark, quoted.replace("'", "'\\''") if self.language == "curl" else quoted)
        return {"language": self.language, "title": self.title, "code": code}


CURL_CHAT = """\
curl -sS '@BASE@/chat/completions' \\
  -H "Authorization: Bearer $MOORING_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d '{"model": "@MODEL@", "messages": [{"role": "user", "content": "9.11 and 9.8, which is greater?"}]}'
"""
CURL_CHAT_STREAM = """\
curl -sSN '@BASE@/chat/completions' \\
  -H "Authorization: Bearer $MOORING_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d '{"model": "@MODEL@", "stream": true,
       "messages": [{"role": "user", "content": "9.11 and 9.8, which is greater?"}]}'
"""
CURL_COMPLETION = """\
curl -sS '@BASE@/completions' \\
  -H "Authorization: Bearer $MOORING_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d '{"model": "@MODEL@", "prompt": "The sea is", "max_tokens": 32}'
"""
CURL_COMPLETION_STREAM = """\
curl -sSN '@BASE@/completions' \\
  -H "Authorization: Bearer $MOORING_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d '{"model": "@MODEL@", "prompt": "The sea is", "max_tokens": 32, "stream": true}'
"""
CURL_EMBEDDING = """\
curl -sS '@BASE@/embeddings' \\
  -H "Authorization: Bearer $MOORING_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d '{"model": "@MODEL@", "input": ["a ship", "a boat"]}'
"""

OPENAI_HEAD = """\
# pip install openai
import os

from openai import OpenAI

client = OpenAI(base_url="@BASE@", api_key=os.environ["MOORING_API_KEY"])
"""
OPENAI_CHAT = """\
answer = client.chat.completions.create(
    model="@MODEL@",
    messages=[{"role": "user", "content": "9.11 and 9.8, which is greater?"}],
)
message = answer.choices[0].message
print("Reasoning:", getattr(message, "reasoning_content", None))
print("Answer:", message.content)
"""
OPENAI_CHAT_STREAM = """\
stream = client.chat.completions.create(
    model="@MODEL@",
    messages=[{"role": "user", "content": "9.11 and 9.8, which is greater?"}],
    stream=True,
)
part = ""
for chunk in stream:
    for choice in chunk.choices:
        reasoning = getattr(choice.delta, "reasoning_content", None)
        for name, text in (("Reasoning", reasoning), ("Answer", choice.delta.content)):
            if text:
                print(text if name == part else f"\\n{name}: {text}", end="", flush=True)
                part = name
print()
"""
OPENAI_COMPLETION = """\
answer = client.completions.create(model="@MODEL@", prompt="The sea is", max_tokens=32)
print(answer.choices[0].text)
"""
OPENAI_COMPLETION_STREAM = """\
for chunk in client.completions.create(model="@MODEL@", prompt="The sea is", max_tokens=32, stream=True):
    for choice in chunk.choices:
        print(choice.text, end="", flush=True)
print()
"""
OPENAI_EMBEDDING = """\
answer = client.embeddings.create(model="@MODEL@", input=["a ship", "a boat"])
for item in answer.data:
    print(len(item.embedding), "numbers, beginning with", item.embedding[:4])
"""

ARK_HEAD = """\
# pip install 'volcengine-python-sdk[ark]'
import os

from volcenginesdkarkruntime import Ark

client = Ark(base_url="@BASE@", api_key=os.environ["MOORING_API_KEY"])
"""

REQUESTS_HEAD = """\
# pip install requests
import os

import requests

headers = {"Authorization": f"Bearer {os.environ['MOORING_API_KEY']}"}
"""
REQUESTS_STREAM_HEAD = REQUESTS_HEAD.replace("import os\n", "import json\nimport os\n")
REQUESTS_CHAT = """\
answer = requests.post(
    "@BASE@/chat/completions",
    headers=headers,
    json={"model": "@MODEL@", "messages": [{"role": "user", "content": "9.11 and 9.8, which is greater?"}]},
    timeout=600,
)
answer.raise_for_status()
message = answer.json()["choices"][0]["message"]
print("Reasoning:", message.get("reasoning_content"))
print("Answer:", message["content"])
"""
REQUESTS_CHAT_STREAM = """\
body = {
    "model": "@MODEL@",
    "messages": [{"role": "user", "content": "9.11 and 9.8, which is greater?"}],
    "stream": True,
}
part = ""
with requests.post("@BASE@/chat/completions", headers=headers, json=body, stream=True, timeout=600) as answer:
    answer.raise_for_status()
    for line in answer.iter_lines():
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            continue
        for choice in json.loads(data)["choices"]:
            delta = choice["delta"]
            for name, text in (("Reasoning", delta.get("reasoning_content")), ("Answer", delta.get("content"))):
                if text:
                    print(text if name == part else f"\\n{name}: {text}", end="", flush=True)
                    part = name
print()
"""
REQUESTS_COMPLETION = """\
body = {"model": "@MODEL@", "prompt": "The sea is", "max_tokens": 32}
answer = requests.post("@BASE@/completions", headers=headers, json=body, timeout=600)
answer.raise_for_status()
print(answer.json()["choices"][0]["text"])
"""
REQUESTS_COMPLETION_STREAM = """\
body = {"model": "@MODEL@", "prompt": "The sea is", "max_tokens": 32, "stream": True}
with requests.post("@BASE@/completions", headers=headers, json=body, stream=True, timeout=600) as answer:
    answer.raise_for_status()
    for line in answer.iter_lines():
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            for choice in json.loads(data)["choices"]:
                print(choice["text"], end="", flush=True)
print()
"""
REQUESTS_EMBEDDING = """\
body = {"model": "@MODEL@", "input": ["a ship", "a boat"]}
answer = requests.post("@BASE@/embeddings", headers=headers, json=body, timeout=600)
answer.raise_for_status()
for item in answer.json()["data"]:
    print(len(item["embedding"]), "numbers, beginning with", item["embedding"][:4])
"""

LANGCHAIN_CHAT = """\
# pip install langchain-openai
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url="@BASE@", api_key=os.environ["MOORING_API_KEY"], model="@MODEL@")
print(model.invoke("9.11 and 9.8, which is greater?").content)
"""
LANGCHAIN_CHAT_STREAM = """\
# pip install langchain-openai
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url="@BASE@", api_key=os.environ["MOORING_API_KEY"], model="@MODEL@")
for chunk in model.stream("9.11 and 9.8, which is greater?"):
    print(chunk.content, end="", flush=True)
print()
"""
LANGCHAIN_EMBEDDING = """\
# pip install langchain-openai
import os

from langchain_openai import OpenAIEmbeddings

model = OpenAIEmbeddings(
    base_url="@BASE@",
    api_key=os.environ["MOORING_API_KEY"],
    model="@MODEL@",
    check_embedding_ctx_length=False,  # sends the texts, not the tokens of another model
)
for numbers in model.embed_documents(["a ship", "a boat"]):
    print(len(numbers), "numbers, beginning with", numbers[:4])
"""

NODE_HEAD = """\
// Node 18 or newer, nothing to install; save as sample.mjs
const call = async (path, body) => {
  const answer = await fetch("@BASE@" + path, {
    method: "POST",
    headers: { Authorization: `Bearer ${process.env.MOORING_API_KEY}`, "Content-Type": "application/json" },
    body: JSON.stringify({ model: "@MODEL@", ...body }),
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
};
"""
NODE_EVENTS = """\
async function* events(answer) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of answer.body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.slice(5).trim();
      if (line.startsWith("data:") && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
"""
NODE_CHAT = """\
const messages = [{ role: "user", content: "9.11 and 9.8, which is greater?" }];
const answer = await call("/chat/completions", { messages });
const { message } = (await answer.json()).choices[0];
console.log("Reasoning:", message.reasoning_content);
console.log("Answer:", message.content);
"""
NODE_CHAT_STREAM = """\
const messages = [{ role: "user", content: "9.11 and 9.8, which is greater?" }];
let part = "";
for await (const event of events(await call("/chat/completions", { messages, stream: true }))) {
  for (const { delta } of event.choices) {
    for (const [name, text] of [["Reasoning", delta.reasoning_content], ["Answer", delta.content]]) {
      if (!text) continue;
      process.stdout.write(name === part ? text : `\\n${name}: ${text}`);
      part = name;
    }
  }
}
console.log();
"""
NODE_COMPLETION = """\
const answer = await call("/completions", { prompt: "The sea is", max_tokens: 32 });
console.log((await answer.json()).choices[0].text);
"""
NODE_COMPLETION_STREAM = """\
for await (const event of events(await call("/completions", { prompt: "The sea is", max_tokens: 32, stream: true }))) {
  for (const { text } of event.choices) process.stdout.write(text);
}
console.log();
"""
NODE_EMBEDDING = """\
const answer = await call("/embeddings", { input: ["a ship", "a boat"] });
for (const { embedding } of (await answer.json()).data) {
  console.log(embedding.length, "numbers, beginning with", embedding.slice(0, 4).join(", "));
}
"""

CHAT, CHAT_STREAM = "Chat, the reasoning apart", "Chat, streamed"
COMPLETION, COMPLETION_STREAM, EMBEDDING = "Completion", "Completion, streamed", "Embeddings"

SAMPLES = (
    Sample("curl", "chat", CHAT, CURL_CHAT),
    Sample("curl", "chat", CHAT_STREAM, CURL_CHAT_STREAM),
    Sample("curl", "completion", COMPLETION, CURL_COMPLETION),
    Sample("curl", "completion", COMPLETION_STREAM, CURL_COMPLETION_STREAM),
    Sample("curl", "embedding", EMBEDDING, CURL_EMBEDDING),
    Sample("python-openai", "chat", CHAT, OPENAI_HEAD + OPENAI_CHAT),
    Sample("python-openai", "chat", CHAT_STREAM, OPENAI_HEAD + OPENAI_CHAT_STREAM),
    Sample("python-openai", "completion", COMPLETION, OPENAI_HEAD + OPENAI_COMPLETION),
    Sample("python-openai", "completion", COMPLETION_STREAM, OPENAI_HEAD + OPENAI_COMPLETION_STREAM),
    Sample("python-openai", "embedding", EMBEDDING, OPENAI_HEAD + OPENAI_EMBEDDING),
    Sample("python-ark", "chat", CHAT, ARK_HEAD + OPENAI_CHAT),
    Sample("python-ark", "chat", CHAT_STREAM, ARK_HEAD + OPENAI_CHAT_STREAM),
    Sample("python-ark", "embedding", EMBEDDING, ARK_HEAD + OPENAI_EMBEDDING),
    Sample("python-requests", "chat", CHAT, REQUESTS_HEAD + REQUESTS_CHAT),
    Sample("python-requests", "chat", CHAT_STREAM, REQUESTS_STREAM_HEAD + REQUESTS_CHAT_STREAM),
    Sample("python-requests", "completion", COMPLETION, REQUESTS_HEAD + REQUESTS_COMPLETION),
    Sample("python-requests", "completion", COMPLETION_STREAM, REQUESTS_STREAM_HEAD + REQUESTS_COMPLETION_STREAM),
    Sample("python-requests", "embedding", EMBEDDING, REQUESTS_HEAD + REQUESTS_EMBEDDING),
    Sample("python-langchain", "chat", "Chat", LANGCHAIN_CHAT),
    Sample("python-langchain", "chat", CHAT_STREAM, LANGCHAIN_CHAT_STREAM),
    Sample("python-langchain", "embedding", EMBEDDING, LANGCHAIN_EMBEDDING),
    Sample("node", "chat", CHAT, NODE_HEAD + NODE_CHAT),
    Sample("node", "chat", CHAT_STREAM, NODE_HEAD + NODE_EVENTS + NODE_CHAT_STREAM),
    Sample("node", "completion", COMPLETION, NODE_HEAD + NODE_COMPLETION),
    Sample("node", "completion", COMPLETION_STREAM, NODE_HEAD + NODE_EVENTS + NODE_COMPLETION_STREAM),
    Sample("node", "embedding", EMBEDDING, NODE_HEAD + NODE_EMBEDDING),
)
"""In the order in which they are shown."""
