"""Anthropic's Messages and OpenAI's Responses on a model that only knows chat completions, with the SDKs themselves."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest
from tests.e2e.running import Platform

QUESTION = "9.11 and 9.8, which is greater?"
ANSWER = "9.8 is greater than 9.11."
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def claude(shared: Platform) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=shared.url, api_key=shared.key, max_retries=0)


@pytest.fixture
def gpt(shared: Platform) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{shared.url}/v1", api_key=shared.key, max_retries=0)


def test_a_message(claude: anthropic.Anthropic, shared: Platform) -> None:
    answer = claude.messages.create(
        model=shared.endpoint, max_tokens=200, messages=ASKED, extra_body={"temperature": 0}
    )
    thought, said = answer.content
    assert (thought.type, said.type, said.type == "text" and said.text) == ("thinking", "text", ANSWER)
    assert (answer.stop_reason, answer.model) == ("end_turn", "mooring-demo")
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0


def test_a_message_streamed_is_the_same(claude: anthropic.Anthropic, shared: Platform) -> None:
    with claude.messages.stream(
        model=shared.endpoint, max_tokens=200, messages=ASKED, extra_body={"temperature": 0}, system="Be brief."
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text and text == next(block.text for block in final.content if block.type == "text")
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


def test_tokens_are_counted(claude: anthropic.Anthropic, shared: Platform) -> None:
    counted = claude.messages.count_tokens(model=shared.endpoint, messages=ASKED).input_tokens
    answer = claude.messages.create(model=shared.endpoint, max_tokens=1, messages=ASKED)
    assert counted == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)


def test_refusals_of_messages(claude: anthropic.Anthropic, shared: Platform) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(model="nope", max_tokens=5, messages=ASKED)
    assert unknown.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="mk-wrong").messages.create(model=shared.endpoint, max_tokens=5, messages=ASKED)
    image: Any = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://h/x.png"}}]}]
    with pytest.raises(anthropic.BadRequestError, match="image"):
        claude.messages.create(model=shared.endpoint, max_tokens=5, messages=image)


def test_a_response(gpt: openai.OpenAI, shared: Platform) -> None:
    answer = gpt.responses.create(model=shared.endpoint, input=QUESTION, temperature=0)
    assert (answer.output_text, answer.status) == (ANSWER, "completed")
    assert answer.usage is not None and answer.usage.total_tokens > answer.usage.output_tokens > 0
    cut = gpt.responses.create(model=shared.endpoint, input=QUESTION, temperature=0, max_output_tokens=20)
    assert (cut.status, cut.incomplete_details and cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_response_streamed_is_the_same(gpt: openai.OpenAI, shared: Platform) -> None:
    with gpt.responses.stream(model=shared.endpoint, input=QUESTION, temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == ANSWER
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"


def test_refusals_of_responses(gpt: openai.OpenAI, shared: Platform) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        gpt.responses.create(model=shared.endpoint, input="hi", previous_response_id="resp_1")


def test_they_are_metered_by_their_own_name(claude: anthropic.Anthropic, shared: Platform) -> None:
    answer = claude.messages.create(model=shared.endpoint, max_tokens=5, messages=ASKED)
    request_id = answer.id.removeprefix("msg_")
    from tests.e2e.running import until

    [record] = until(
        lambda: shared.manage("GET", f"usage/requests?requestId={request_id}")["items"], "the record of the request"
    )
    assert (record["dialect"], record["completionTokens"]) == ("openai", answer.usage.output_tokens)
