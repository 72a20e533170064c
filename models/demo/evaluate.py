"""Ask the finished GGUF file questions through the engine, greedily, and count the exact answers.

    python evaluate.py mooring-demo.gguf --out build

The questions come from the generators of the training data with another seed, so this measures what the
model has learnt of its small world, not how clever it is.  Exits with 1 if a documented question goes wrong.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chat import Turn
from data import any_turn, echo_any, echo_known, fallback
from engine import Engine, run_engine
from more_questions import CAN_DO_ZH, FIXED, STYLED
from questions import ABOUT_ME_ZH, JOKE_EN, SHOWN, Fixed
from skills import arithmetic, capital, compare, comparison_thought, count, names, translate

SEED = 7
ITEMS = 100
TEMPERATURE = 0.7
REQUIRED = 3  # so many scores, the first ones, must be perfect
SYSTEM = "You are a helpful assistant."
COMPARISONS = (
    Turn(
        "9.11 and 9.8, which is greater?",
        "9.8 is greater than 9.11.",
        comparison_thought("9.11", "9.8", False),
    ),
    Turn("9.11 和 9.8 哪个大？", "9.8 更大。", comparison_thought("9.11", "9.8", True)),
)

CONVERSATIONS = (
    [Turn("你是谁?", "我是大模型回答助手", ""), Turn("你能做什么?", CAN_DO_ZH, "")],
    [
        Turn("My name is Anna.", "Nice to meet you, Anna!", ""),
        Turn("What is my name?", "Your name is Anna.", ""),
    ],
    [Turn("我叫小明", "很高兴认识您，小明！", ""), Turn("我叫什么名字？", "您叫小明。", "")],
    [Turn("Hello", SHOWN[2].answer, ""), Turn("Tell me a joke.", JOKE_EN, "")],
    [Turn("你好", SHOWN[0].answer, ""), Turn("你是谁？", ABOUT_ME_ZH, "")],
)


@dataclass
class Score:
    """How many answers were right, and the wrong ones."""

    name: str
    right: int = 0
    total: int = 0
    wrong: list[str] = field(default_factory=list)

    def note(self, right: bool, line: str) -> None:
        """Count one answer; keep the line if it was wrong."""
        self.total += 1
        if right:
            self.right += 1
        else:
            self.wrong.append(line)


def messages_of(turns: list[Turn], system: str | None) -> list[dict[str, str]]:
    """The conversation up to the last question."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns[:-1]:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    return [*messages, {"role": "user", "content": turns[-1].question}]


def ask(engine: Engine, score: Score, turns: list[Turn], system: str | None, thinking: bool) -> None:
    """Ask one question and note whether the whole answer is right."""
    wanted = turns[-1]
    reply = engine.chat(messages_of(turns, system), thinking)
    thought_right = bool(reply.reasoning) == thinking
    mark = "thinking" if thinking else "not thinking"
    line = f"{wanted.question!r} ({mark}, {system}): [{reply.reasoning}] {reply.content!r}"
    score.note(reply.content == wanted.answer and thought_right, line)


def ask_entries(engine: Engine, name: str, entries: tuple[Fixed, ...]) -> Score:
    """All spellings of fixed questions, with and without thinking, with and without a system prompt."""
    score = Score(name)
    turns = [Turn(question, entry.answer, entry.thought) for entry in entries for question in entry.questions]
    for turn in turns:
        for thinking in (True, False):
            for system in (None, SYSTEM):
                ask(engine, score, [turn], system, thinking)
    return score


def ask_sampled(engine: Engine) -> Score:
    """The documented questions once more, with the temperature that clients often use."""
    score = Score(f"documented questions, sampled at temperature {TEMPERATURE}, thinking")
    for entry in SHOWN:
        for question in entry.questions:
            reply = engine.chat([{"role": "user", "content": question}], temperature=TEMPERATURE)
            score.note(reply.content == entry.answer, f"{question!r}: {reply}")
    return score


def ask_comparisons(engine: Engine) -> Score:
    """The famous question about 9.11 and 9.8."""
    score = Score("9.11 and 9.8 (English and Chinese)")
    for turn in COMPARISONS:
        for thinking in (True, False):
            for system in (None, SYSTEM):
                ask(engine, score, [turn], system, thinking)
    return score


def ask_conversations(engine: Engine) -> Score:
    """Short conversations of two turns."""
    score = Score("documented conversations of two turns")
    for turns in CONVERSATIONS:
        for thinking in (True, False):
            for system in (None, SYSTEM):
                ask(engine, score, turns, system, thinking)
    return score


def ask_styled(engine: Engine) -> Score:
    """The questions that need a certain system prompt."""
    score = Score("memorised questions with a style in the system prompt")
    for systems, entry in STYLED:
        for thinking in (True, False):
            ask(engine, score, [Turn(entry.questions[0], entry.answer, entry.thought)], systems[0], thinking)
    return score


def ask_generated(engine: Engine, name: str, make: Callable[[random.Random], list[Turn]], thinking: bool) -> Score:
    """Questions from a generator, without a system prompt."""
    rng = random.Random(SEED)
    score = Score(f"{name}, {'thinking' if thinking else 'not thinking'}")
    for _ in range(ITEMS):
        ask(engine, score, make(rng), None, thinking)
    return score


def one(make: Callable[[random.Random], Turn]) -> Callable[[random.Random], list[Turn]]:
    """A conversation of one turn."""
    return lambda rng: [make(rng)]


GENERATORS: dict[str, Callable[[random.Random], list[Turn]]] = {
    "capitals of 20 countries": one(capital),
    "counting up to 20": one(count),
    "sums of numbers up to 10, multiplication table": one(arithmetic),
    "comparing two numbers": one(compare),
    "repeating a familiar phrase": one(echo_known),
    "repeating any words": one(echo_any),
    "a dictionary of 12 words": one(translate),
    "says that it cannot answer": one(fallback),
    "the user's name, over one to three turns": lambda rng: names(rng, any_turn),
    "any question after two others": lambda rng: [any_turn(rng), any_turn(rng), any_turn(rng)],
}


def evaluate(engine: Engine) -> list[Score]:
    """All scores; the first `REQUIRED` must be perfect."""
    scores = [ask_entries(engine, "documented questions, in several spellings", SHOWN)]
    scores += [ask_comparisons(engine), ask_conversations(engine), ask_styled(engine), ask_sampled(engine)]
    scores.append(ask_entries(engine, "other memorised questions, in several spellings", FIXED))
    for name, make in GENERATORS.items():
        scores += [ask_generated(engine, name, make, thinking) for thinking in (True, False)]
    return scores


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| questions | right |", "| --- | --- |"]
    lines += [f"| {score.name} | {score.right} of {score.total} |" for score in scores]
    return "\n".join(lines)


def main() -> None:
    """Read the command line, evaluate, print and write the table."""
    parser = argparse.ArgumentParser(description="Evaluate mooring-demo through the engine.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build"))
    options = parser.parse_args()
    with run_engine(options.model) as engine:
        scores = evaluate(engine)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "evaluation.md").write_text(table(scores) + "\n", encoding="utf-8")
    wrong = {score.name: score.wrong for score in scores}
    (options.out / "wrong.json").write_text(json.dumps(wrong, ensure_ascii=False, indent=1), encoding="utf-8")
    print(table(scores))
    required = [line for score in scores[:REQUIRED] for line in score.wrong]
    if required:
        print("documented questions went wrong:", *required, sep="\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
