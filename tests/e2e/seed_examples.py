"""Calls as the guides of five other platforms show them, for programs written after such a guide.

They stand here as published, with the line breaks that Python and curl need and fewer comments; `put` exchanges the
host, the key and the names, and nothing else.
"""

from __future__ import annotations

MODEL = "mooring-demo"
CHIP = "cpu"


def put(example: str, changes: dict[str, str]) -> str:
    """Return an example with each text of `changes` exchanged; every one of them must occur."""
    for shown, ours in changes.items():
        assert shown in example, f"the example does not say {shown!r}"
        example = example.replace(shown, ours)
    return example


# --- an endpoint by its id (Ark) --------------------------------------------------------------------------

ARK_HOST = "https://ark.cn-beijing.volces.com"
ARK_ENDPOINT = "ep-s-xxx"
ARK_UNIT = "ep-2025****-**"

ARK_CURL = r"""
curl https://ark.cn-beijing.volces.com/api/v3/chat/completions \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer $ARK_API_KEY" \
  -d '{
    "model": "ep-s-xxx",
    "messages": [
      {"role": "system","content": "你是人工智能助手."},
      {"role": "user","content": "你好"}
    ]
  }'
"""

ARK_OPENAI = """
import os
from openai import OpenAI

client = OpenAI(
    base_url="https://ark.cn-beijing.volces.com/api/v3",
    api_key=os.environ.get("ARK_API_KEY"),
)

# Non-streaming:
print("----- standard request -----")
completion = client.chat.completions.create(
    model="ep-s-xxx",
    messages=[
        {"role": "system", "content": "你是人工智能助手"},
        {"role": "user", "content": "你好"},
    ],
)
print(completion.choices[0].message.content)

# Streaming:
print("----- streaming request -----")
stream = client.chat.completions.create(
    model="ep-s-xxx",
    messages=[
        {"role": "system", "content": "你是人工智能助手"},
        {"role": "user", "content": "你好"},
    ],
    stream=True,
)
for chunk in stream:
    if not chunk.choices:
        continue
    print(chunk.choices[0].delta.content, end="")
print()
"""

ARK_SDK = """
import os
from volcenginesdkarkruntime import Ark

client = Ark(
    base_url="https://ark.cn-beijing.volces.com/api/v3",
    api_key=os.environ.get("ARK_API_KEY"),
)

# Non-streaming:
print("----- standard request -----")
completion = client.chat.completions.create(
    model="ep-s-xxx",
    messages=[
        {"role": "system", "content": "你是人工智能助手."},
        {"role": "user", "content": "你好"},
    ],
)
print(completion.choices[0].message.content)

# Streaming:
print("----- streaming request -----")
stream = client.chat.completions.create(
    model="ep-s-xxx",
    messages=[
        {"role": "system", "content": "你是人工智能助手."},
        {"role": "user", "content": "你好"},
    ],
    stream=True,
)
for chunk in stream:
    if not chunk.choices:
        continue
    print(chunk.choices[0].delta.content, end="")
print()
"""

ARK_SDK_UNIT = """
import os
from volcenginesdkarkruntime import Ark
client = Ark(
    api_key=os.environ.get("ARK_API_KEY"),
    # The base URL for model invocation
    base_url="https://ark.cn-beijing.volces.com/api/v3",
)
completion = client.chat.completions.create(
    # Replace with your endpoint ID
    model="ep-2025****-**",
    messages=[
        {"role": "user", "content": "Hello"}
    ]
)
print(completion.choices[0].message)
"""

# --- a service by its id (ModelArts) ----------------------------------------------------------------------

INFERS_HOST = "https://i6578616d706c65o636f6dz.oszar.com"
INFERS_REQUESTS_HOST = "https:/example.com"  # one slash is missing in the guide
INFERS_KEY = "<your_apiKey>"
INFERS_ID = "937cabe5-d673-47f1-9e7c-2b4de06*****"
INFERS_MODEL = "******"

INFERS_REQUESTS = """
import requests
import json

if __name__ == '__main__':
    url = "https:/example.com/v1/infers/937cabe5-d673-47f1-9e7c-2b4de06*****/v1/chat/completions"
    api_key = "<your_apiKey>"

    # Send request.
    headers = {
        'Content-Type': 'application/json',
        'Authorization': f'Bearer {api_key}'
    }
    data = {
        "model": "******",
        "max_tokens": 1024,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "hello"}
        ],
        "stream": False,
        # "stream_options": {"include_usage": True},
        "temperature": 0.6
    }
    response = requests.post(url, headers=headers, data=json.dumps(data), verify=False)

    # Print result.
    print(response.status_code)
    print(response.text)
"""

INFERS_CURL = r"""
curl -X POST "https://i6578616d706c65o636f6dz.oszar.com/v1/chat/completions" \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer $API_KEY" \
  -d '{
    "model": "DeepSeek-R1",
    "messages": [
      {"role": "system", "content": "You are a helpful assistant."},
      {"role": "user", "content": "你好"}
    ],
    "stream": true,
    "stream_options": { "include_usage": true },
    "temperature": 0.6
  }'
"""

INFERS_OPENAI = """
from openai import OpenAI

if __name__ == '__main__':
    base_url = "https://i6578616d706c65o636f6dz.oszar.com/v1/infers/937cabe5-d673-47f1-9e7c-2b4de06*****/v1"
    api_key = "<your_apiKey>"

    client = OpenAI(api_key=api_key, base_url=base_url)

    response = client.chat.completions.create(
        model="******",
        messages=[
            {"role": "system", "content": "You are a helpful assistant"},
            {"role": "user", "content": "Hello"},
        ],
        max_tokens=1024,
        temperature=0.6,
        stream=False
    )

    # Print result.
    print(response.choices[0].message.content)
"""

# The guide shows it apart; client and model are those of the example above.
INFERS_REASONING = """
from openai import OpenAI

base_url = "https://i6578616d706c65o636f6dz.oszar.com/v1/infers/937cabe5-d673-47f1-9e7c-2b4de06*****/v1"
client = OpenAI(api_key="<your_apiKey>", base_url=base_url)
model = "******"

messages = [{"role": "user", "content": "9.11 and 9.8, which is greater?"}]
response = client.chat.completions.create(model=model, messages=messages)
reasoning_content = response.choices[0].message.reasoning_content
content = response.choices[0].message.content
print("reasoning_content:", reasoning_content)
print("content:", content)
"""

INFERS_HTTP_MODELS = """\
GET https://i6578616d706c65o636f6dz.oszar.com/v1/infers/937cabe5-d673-47f1-9e7c-2b4de06*****/v1/models HTTP/1.1
Authorization: Bearer YOUR_API_KEY
"""

INFERS_HTTP_CHAT = """\
POST https://i6578616d706c65o636f6dz.oszar.com/v1/infers/937cabe5-d673-47f1-9e7c-2b4de06*****/v1/chat/completions HTTP/1.1
Content-Type: application/json
Authorization: Bearer YOUR_API_KEY

{
  "model": "******",
  "messages": [
    {"role": "user", "content": "Hello, how are you?"}
  ],
  "temperature": 0.7
}
"""  # noqa: E501

INFERS_HTTP_COMPLETION = """\
POST https://i6578616d706c65o636f6dz.oszar.com/v1/infers/937cabe5-d673-47f1-9e7c-2b4de06*****/v1/completions HTTP/1.1
Content-Type: application/json
Authorization: Bearer YOUR_API_KEY

{
  "model": "******",
  "prompt": "Tell me a story about a brave knight.",
  "max_tokens": 150,
  "temperature": 0.7
}
"""

# --- a model on a chip (GenStudio) ------------------------------------------------------------------------

MAAS_HOST = "https://cloud.infini-ai.com"
MAAS_MODEL = "mt-infini-3b"
MAAS_SDK_MODEL = "qwen1.5-72b-chat"
MAAS_CHIP = "nvidia"

_MAAS_START = r"""
curl https://cloud.infini-ai.com/maas/mt-infini-3b/nvidia/chat/completions \
-H "Content-Type: application/json" \
-H "Authorization: Bearer $API_KEY" \
-d '{
"model": "mt-infini-3b",
"""

MAAS_CURL = (
    _MAAS_START
    + """"messages": [
{ "role": "user", "content": "你是谁?" }
]
}'
"""
)

MAAS_CURL_SYSTEM = (
    _MAAS_START
    + """"messages": [
{ "role": "system", "content": "请以嘲讽语气回答" },
{ "role": "user", "content": "你是谁?" }
]
}'
"""
)

MAAS_CURL_STREAM = (
    _MAAS_START
    + """"stream": true,
"messages": [
{ "role": "user", "content": "你是谁?" }
]
}'
"""
)

# JSON has no comma before a closing bracket: it is the guide's mistake, and callers will make it, too.
MAAS_CURL_TURNS = (
    _MAAS_START
    + """"messages": [
{ "role": "user", "content": "你是谁?" },
{ "role": "assistant", "content": "我是大模型回答助手" },
{ "role": "user", "content": "你能做什么?" },
]
}'
"""
)
MAAS_TRAILING_COMMA = "},\n]"

MAAS_OPENAI = """
from openai import OpenAI
from dotenv import load_dotenv
import os
# 加载 .env 文件
load_dotenv()
client = OpenAI(
    # This is the default and can be omitted
    api_key=os.environ.get("OPENAI_API_KEY"),
    base_url=os.environ.get("OPENAI_API_BASE")
)
base_url=os.environ.get("OPENAI_API_BASE")
print("无问芯穹的 base_url 格式: \\n" + str(client.base_url))

stream = client.chat.completions.create(
    model="qwen1.5-72b-chat",
    messages=[{"role": "user", "content": "根据中国古代圣人孔子的思想,人生的意义是什么?"}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="")

chat_completion = client.chat.completions.create(
    messages=[
        {
            "role": "user",
            "content": "say '谁是卧底。'",
        }
    ],
    model="qwen1.5-72b-chat",
)
print(chat_completion.choices[0].message.content)
"""

MAAS_LANGCHAIN = """
import os
from dotenv import load_dotenv
# 加载 .env 文件
load_dotenv()
# 从环境变量中获取 OPENAI_API_KEY
openai_api_key = os.environ.get("OPENAI_API_KEY1")
openai_api_base = os.environ.get("OPENAI_API_BASE")
print("无问芯穹 API 地址: \\n" + str(openai_api_base))

from langchain_openai import ChatOpenAI
from langchain.callbacks.base import BaseCallbackHandler
from typing import Any, Dict, List
# Define a callback handler to process streaming tokens
class StreamHandler(BaseCallbackHandler):
    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        print(token, end="", flush=True)
# Initialize the ChatOpenAI model with streaming enabled
llm_streaming = ChatOpenAI(
    openai_api_key=openai_api_key,
    openai_api_base=openai_api_base,
    streaming=True,
    callbacks=[StreamHandler()] # Pass the callback handler
)
# Define your messages
messages = [
    {
        "role": "system",
        "content": "You are a pedantic anticient Chinese scholar, who always answers in Simplified Chinese."
    },
    {"role": "user", "content": "Tell me a joke."}
]
# Get a response from the chat model
response = llm_streaming.invoke(input=messages)
# Output the response (optional, as it is already printed by the callback)
print("\\n\\n***********\\n\\n以下是 LLM 的完整回复:\\n\\n", response)

from langchain_openai import ChatOpenAI
from typing import Any, Dict, List
# Initialize the ChatOpenAI model with streaming enabled
llm_non_streaming = ChatOpenAI(
    openai_api_key=openai_api_key,
    openai_api_base=openai_api_base,
    streaming=False
)
# Define your messages
messages = [
    {
        "role": "system",
        "content": "You are a pedantic anticient Chinese scholar, who always answers in Simplified Chinese."
    },
    {"role": "user", "content": "Tell me a joke."}
]
# Get a response from the chat model
response = llm_non_streaming.invoke(input=messages)
# Output the response (optional, as it is already printed by the callback)
print("\\n\\n***********\\n\\n以下是 LLM 的完整回复:\\n\\n", response)
"""

# --- a service of a project (a cluster's proxy path) ------------------------------------------------------

CLUSTER_HOST = "192.168.31.100:8443"
CLUSTER_SERVICE = "modelservice-qwen2"
CLUSTER_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
CLUSTER_CURL_KEY = "myapikey"
CLUSTER_KEY = "llmos-5frck:xxxxxxxxxg79c9p5"

CLUSTER_CURL = r"""
export LLMOS_API_KEY=myapikey
export API_BASE=192.168.31.100:8443/api/v1/namespaces/default/services/modelservice-qwen2:http/proxy/v1
curl -k -X POST \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer $LLMOS_API_KEY" \
  -d '{
    "model": "Qwen/Qwen2.5-0.5B-Instruct",
    "messages": [
      {
        "role": "system",
        "content": "You are a helpful assistant."
      },
      {
        "role": "user",
        "content": "Say this is a test"
      }
    ],
    "temperature": 0.9
  }' \
  $API_BASE/chat/completions
"""

CLUSTER_OPENAI = """
from openai import OpenAI
import httpx

openai_api_key = "llmos-5frck:xxxxxxxxxg79c9p5"
openai_api_base = "https://192.168.31.100:8443/api/v1/namespaces/default/services/modelservice-qwen2:http/proxy/v1"
client = OpenAI(
   api_key=openai_api_key,
   base_url=openai_api_base,
   http_client=httpx.Client(verify=False),
)

completion = client.chat.completions.create(
   model="Qwen/Qwen2.5-0.5B-Instruct",
   messages=[{"role": "user", "content": "How do I output all files in a directory using Python?"}]
)
print(completion.choices[0].message.content)
"""
