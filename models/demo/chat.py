"""The chat format: special tokens, chat template, and the same format as training text."""

from dataclasses import dataclass

MODEL_NAME = "mooring-demo"
VOCABULARY_SIZE = 3072
CONTEXT_LENGTH = 2048
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
THINK_TOKENS = ("<think>", "</think>")  # one token each, but visible text

# The last reasoning_content must be rendered: llama.cpp finds the <think> tags by comparing renders with and
# without it.  A template that drops it silently turns thinking off.
CHAT_TEMPLATE = """{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set c = m.content if m.content is string else '' %}
{%- if '</think>' in c %}{%- set c = c.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
{%- set r = m.reasoning_content if m.reasoning_content is string and loop.last else '' %}
{{- '<|im_start|>assistant\\n' }}
{{- '<think>\\n' + r.strip('\\n') + '\\n</think>\\n\\n' if r else '' }}
{{- c + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + ('system' if m.role == 'developer' else m.role) + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}"""


@dataclass(frozen=True)
class Turn:
    """One question with its answer, and the thought that leads to the answer."""

    question: str
    answer: str
    thought: str


@dataclass(frozen=True)
class Example:
    """A piece of training text: the loss counts on `answer` only."""

    prompt: str
    answer: str


def render(system: str | None, turns: list[Turn], thinking: bool) -> Example:
    """Write a conversation the way the chat template does; the last turn is the one to learn."""
    messages = [("system", system)] if system else []
    for turn in turns[:-1]:
        messages += [("user", turn.question), ("assistant", turn.answer)]
    last = turns[-1]
    messages.append(("user", last.question))
    prompt = "".join(f"{TURN_START}{role}\n{text}{TURN_END}\n" for role, text in messages)
    prompt += f"{TURN_START}assistant\n"
    answer = f"{last.answer}{TURN_END}\n"
    if thinking:
        return Example(prompt, f"<think>\n{last.thought}\n</think>\n\n{answer}")
    return Example(f"{prompt}<think>\n\n</think>\n\n", answer)


def render_plain(turn: Turn) -> Example:
    """Write a plain completion, as /v1/completions asks for it: no roles and no thought."""
    return Example(turn.question, f"\n{turn.answer}{TURN_END}\n")
