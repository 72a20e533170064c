"""A conversation with a model in the terminal: what was said, the answers as they come, and the commands between."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mooring.cli.client import Client, Json
from mooring.cli.output import paint, say
from mooring.cli.problems import CommandError

COMMANDS = ("/reset", "/system", "/model", "/help")
HELP = """\
/reset         forget what was said
/system TEXT   set the system message; without TEXT, none
/model NAME    go on with another endpoint or model
/help          this list
A line that ends in \\ goes on in the next. Ctrl-C stops an answer, Ctrl-D ends."""


@dataclass
class Answer:
    """What has come of an answer so far, and when."""

    begun_at: float
    first_at: float = 0.0
    ended_at: float = 0.0
    reasoning: str = ""
    text: str = ""
    usage: Json = field(default_factory=dict)


class Conversation:
    """What was said, and with what options the next thing is said.

    Args:
        options: `model` and what else goes into every request.
        system: system message, "" for none.
        stats: whether tokens and speed are told after each answer.
    """

    def __init__(self, client: Client, options: Json, system: str, *, stats: bool = False) -> None:
        self._client = client
        self._options = dict(options)
        self._system = system
        self._stats = stats
        self._said: list[dict[str, str]] = []
        self._find: Callable[[str], str] = str

    def body(self, text: str) -> Json:
        """Return the request that says `text` next."""
        system = [{"role": "system", "content": self._system}] if self._system else []
        return {**self._options, "messages": [*system, *self._said, {"role": "user", "content": text}]}

    def say(self, text: str) -> None:
        """Say something, print the answer as it comes and keep both. What came of a stopped answer is kept as well."""
        answer = Answer(time.monotonic())
        try:
            self._print(self.body(text), answer)
        finally:
            if answer.text:
                self._said += [{"role": "user", "content": text}, {"role": "assistant", "content": answer.text}]
        if self._stats:
            print(paint("dim", told(answer), sys.stderr), file=sys.stderr)

    def run(self, find_model: Callable[[str], str], name: str = "") -> None:
        """Talk until Ctrl-D.

        Args:
            find_model: returns what a name is called in `model`, "" if nothing is called so.
            name: of what is talked to, if it is called otherwise than in `model`.
        """
        import readline  # noqa: F401  (gives input() its history and editing)

        self._find = find_model
        say(f"Talking to {name or self._options['model']}. /help for commands, Ctrl-D ends.")
        while True:
            try:
                text = _read()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                continue
            if text:
                self._answer(text)

    def _answer(self, text: str) -> None:
        """Do a command or say something; what goes wrong ends the turn and not the conversation."""
        try:
            if text.startswith("/"):
                self._obey(text)
            else:
                self.say(text)
        except KeyboardInterrupt:
            say(paint("dim", "\n(stopped)", sys.stderr))
        except CommandError as error:
            say(f"Error: {error.message}" + (f"\n{error.next_step}" if error.next_step else ""))

    def _obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if command == "/reset":
            self._said = []
            say("Forgotten.")
        elif command == "/system":
            self._system = rest
            say("The system message is set." if rest else "There is no system message.")
        elif command == "/model" and rest:
            self._change_model(rest)
        elif command in COMMANDS:
            say(HELP)
        else:
            raise CommandError(f"Unknown command {command}.", HELP)

    def _change_model(self, name: str) -> None:
        found = self._find(name)
        if not found:
            raise CommandError(f"This key may call nothing that is named {name}.", "See: mooring endpoints list")
        self._options["model"] = found
        say(f"Talking to {name}.")

    def _print(self, body: Json, answer: Answer) -> None:
        """Print an answer as it comes. Reasoning is dim; where stdout is no terminal it goes to stderr."""
        wanted = {"stream": True} | ({"stream_options": {"include_usage": True}} if self._stats else {})
        beside = sys.stdout if sys.stdout.isatty() else sys.stderr
        for event in self._client.stream("/v1/chat/completions", {**body, **wanted}):
            if error := event.get("error"):
                raise CommandError(str(error.get("message", error)))
            answer.usage = event.get("usage") or answer.usage
            choice = event["choices"][0] if event.get("choices") else {}
            delta = choice.get("delta") or choice.get("message") or {}  # a message: the whole answer came at once
            if reasoning := delta.get("reasoning_content"):
                answer.first_at = answer.first_at or time.monotonic()
                answer.reasoning += reasoning
                print(paint("dim", reasoning, beside), end="", file=beside, flush=True)
            if content := delta.get("content"):
                answer.first_at = answer.first_at or time.monotonic()
                if not answer.text:
                    content = content.lstrip("\n")
                    print(_gap(answer.reasoning), end="", file=beside, flush=True)
                answer.text += content
                print(content, end="", flush=True)
        answer.ended_at = time.monotonic()
        print()


def told(answer: Answer) -> str:
    """Return the tokens of an answer and how fast they came."""
    wait = f"first after {answer.first_at - answer.begun_at:.2f} s" if answer.first_at else "no token came"
    if not answer.usage:
        return f"[{wait}; the service counts no tokens]"
    tokens, prompt = answer.usage.get("completion_tokens") or 0, answer.usage.get("prompt_tokens") or 0
    span = answer.ended_at - answer.first_at
    speed = f", {(tokens - 1) / span:.0f} tokens/s" if answer.first_at and span > 0 and tokens > 1 else ""
    return f"[{prompt} tokens in, {tokens} out{speed}; {wait}]"


def _read() -> str:
    """Return what the user types; a line that ends in a backslash goes on in the next."""
    lines = [input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("… "))
    return "\n".join(lines).strip()


def _gap(thought: str) -> str:
    """Return the line ends that leave one empty line between the reasoning and the answer."""
    return "\n" * max(0, 2 - (len(thought) - len(thought.rstrip("\n")))) if thought else ""
