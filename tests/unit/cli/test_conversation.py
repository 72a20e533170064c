"""A conversation at the prompt: commands, several lines, stopping an answer, statistics."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.cli.scripted import Answer, Asked, Script, run

import mooring
from mooring.cli import conversation
from mooring.cli.client import Client
from mooring.cli.conversation import Answer as Told
from mooring.cli.conversation import Conversation, told

MODELS = {
    "data": [
        {"id": "ep-1", "name": "chat", "owned_by": "default"},
        {"id": "mooring-demo", "name": "mooring-demo", "owned_by": "default"},
    ]
}


def stream(*texts: str, usage: dict | None = None) -> Answer:
    events: list[dict] = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    events += [{"choices": [], "usage": usage}] if usage else []
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return Answer(pieces=(*lines, b"data: [DONE]\n\n"))


@pytest.fixture
def talk(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the lines that the user types; the conversation reads them and then Ctrl-D."""
    typed: list[str] = []

    def type_next(prompt: str = "") -> str:
        if not typed:
            raise EOFError
        line = typed.pop(0)
        if line == "^C":
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr("builtins.input", type_next)
    script.on("POST", "/v1/chat/completions", lambda asked: stream("Aye", "."))
    yield typed


def messages(script: Script) -> list[list[tuple[str, str]]]:
    asked = script.sent("POST", "/v1/chat/completions")
    return [[(part["role"], part["content"]) for part in request.body["messages"]] for request in asked]


def converse(script: Script, **options: object) -> None:
    known = {"chat": "ep-1", "chat:poems": "ep-1:poems"}
    Conversation(Client(script.url, "mk-test"), {"model": "ep-1", **options}, "").run(lambda name: known.get(name, ""))


def test_a_conversation_remembers_until_it_is_reset(script: Script, talk: list[str]) -> None:
    talk += ["One", "Two", "/reset", "Three"]
    converse(script)
    assert messages(script) == [
        [("user", "One")],
        [("user", "One"), ("assistant", "Aye."), ("user", "Two")],
        [("user", "Three")],
    ]


def test_a_line_that_ends_in_a_backslash_goes_on(script: Script, talk: list[str]) -> None:
    talk += ["first \\", "second\\", "third", "", "^C", "next"]
    converse(script)
    assert messages(script)[0] == [("user", "first \nsecond\nthird")]
    assert messages(script)[1][-1] == ("user", "next")


def test_system_message_and_model_change_on_the_way(
    script: Script, talk: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    talk += ["/system Be brief.", "One", "/system", "/model chat:poems", "Two", "/model nobody", "/help", "/what"]
    converse(script, temperature=0.5)
    assert messages(script)[0] == [("system", "Be brief."), ("user", "One")]
    assert messages(script)[1][0] == ("user", "One")
    asked = script.sent("POST", "/v1/chat/completions")
    assert [request.body["model"] for request in asked] == ["ep-1", "ep-1:poems"]
    assert asked[0].body["temperature"] == 0.5
    said = capsys.readouterr().err
    assert "may call nothing that is named nobody" in said
    assert said.count(conversation.HELP) == 2
    assert "Error: Unknown command /what." in said
    assert "Talking to chat:poems." in said


def test_a_conversation_greets_with_the_name_of_the_endpoint(
    script: Script, talk: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script.on("GET", "/v1/models", MODELS)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for given, called in (((), "chat"), (("chat:poems",), "chat:poems"), (("mooring-demo",), "mooring-demo")):
        assert run("chat", *given) == 0
        assert f"Talking to {called}. " in capsys.readouterr().err


def test_an_endpoint_that_is_not_ready_says_when_to_try_again(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = {"error": {"message": "The service starts."}}
    script.on("GET", "/v1/models", MODELS)
    script.on("POST", "/v1/chat/completions", Answer(503, refusal, headers={"Retry-After": "7"}), Answer(503, refusal))
    assert run("chat", "chat", "Hello") == 1
    assert "Error: The service starts.\nTry again in 7 s." in capsys.readouterr().err
    assert run("chat", "chat", "Hello") == 1
    assert "Try again" not in capsys.readouterr().err


def test_a_refusal_ends_the_turn_and_not_the_conversation(
    script: Script, talk: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = Answer(429, {"error": {"message": "Too many requests.", "next_step": "Wait 2 s."}})
    script.on("POST", "/v1/chat/completions", refusal, stream("Aye."))
    talk += ["One", "Two"]
    converse(script)
    assert messages(script)[1] == [("user", "Two")]
    said = capsys.readouterr()
    assert "Error: Too many requests.\nWait 2 s." in said.err
    assert "Aye." in said.out


def test_a_stopped_answer_is_kept_as_far_as_it_came(
    script: Script, talk: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(self: Client, path: str, body: dict) -> Iterator[dict]:
        yield {"choices": [{"delta": {"content": "Once upon"}}]}
        raise KeyboardInterrupt

    talk += ["Tell", "Go on"]
    whole = Client.stream
    calls = iter([stopped, whole])
    monkeypatch.setattr(Client, "stream", lambda self, path, body: next(calls)(self, path, body))
    converse(script)
    assert messages(script) == [[("user", "Tell"), ("assistant", "Once upon"), ("user", "Go on")]]
    assert "(stopped)" in capsys.readouterr().err


def test_statistics_are_told_from_the_engines_own_count(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.on("GET", "/v1/models", MODELS)
    script.on("POST", "/v1/chat/completions", stream("Aye.", usage={"prompt_tokens": 12, "completion_tokens": 30}))
    assert run("chat", "chat", "Hello", "--stats", "--temperature", "0") == 0
    said = capsys.readouterr()
    assert said.out == "Aye.\n"
    assert "[12 tokens in, 30 out" in said.err
    body = script.sent("POST", "/v1/chat/completions")[0].body
    assert (body["temperature"], body["stream_options"]) == (0, {"include_usage": True})


def test_speed_is_counted_from_the_first_token_on() -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 31}
    assert told(Told(10.0, 10.5, 12.5, usage=usage)) == "[12 tokens in, 31 out, 15 tokens/s; first after 0.50 s]"
    assert told(Told(10.0)) == "[no token came; the service counts no tokens]"


@pytest.mark.parametrize(
    ("name", "model"), [("chat:poems", "ep-1:poems"), ("mooring-demo:poems", "mooring-demo:poems")]
)
def test_an_adapter_is_asked_for_behind_the_model(script: Script, name: str, model: str) -> None:
    script.on("GET", "/v1/models", MODELS)
    script.on("POST", "/v1/chat/completions", stream("Aye."))
    assert run("chat", name, "Hello") == 0
    assert script.sent("POST", "/v1/chat/completions")[0].body["model"] == model


def test_ctrl_c_at_a_real_terminal_stops_the_answer_and_keeps_talking(script: Script, tmp_path: Path) -> None:
    begun, release = threading.Event(), threading.Event()

    def endless(asked: Asked) -> Answer:
        class Slow(tuple[bytes, ...]):
            def __iter__(self) -> Iterator[bytes]:  # type: ignore[override]
                for number in range(1000):
                    yield b'data: {"choices": [{"delta": {"content": "word%d "}}]}\n\n' % number
                    begun.set()
                    if release.wait(0.01):
                        return

        return Answer(pieces=Slow((b"x",)))

    script.on("GET", "/v1/models", MODELS)
    script.on("POST", "/v1/chat/completions", endless, stream("Aye."))
    main_end, child_end = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(Path(mooring.__file__).parents[1]), "TERM": "xterm"}
    command = [sys.executable, "-m", "mooring", "chat", "chat"]
    with subprocess.Popen(
        command, stdin=child_end, stdout=child_end, stderr=child_end, env=environ, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    ) as process:  # fmt: skip
        os.close(child_end)
        screen = Screen(main_end)
        try:
            screen.until("> ")
            os.write(main_end, b"Tell\n")
            screen.until("word3")
            os.write(main_end, b"\x03")
            screen.until("(stopped)")
            screen.until("> ")  # a key pressed before the prompt stands may be lost
            os.write(main_end, b"Go on\n")
            screen.until("Aye.")
            screen.until("> ")
            os.write(main_end, b"\x04")
            assert process.wait(20) == 0
        finally:
            process.kill()
    release.set()
    os.close(main_end)
    assert messages(script)[1][1][0] == "assistant"
    assert messages(script)[1][1][1].startswith("word0 word1 ")


class Screen:
    """What a program wrote to its terminal so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def until(self, wanted: str, timeout_s: float = 20.0) -> None:
        """Read until `wanted` is there, and forget what stands up to it."""
        deadline = time.monotonic() + timeout_s
        while wanted not in self.text:
            assert time.monotonic() < deadline, f"waited for {wanted!r}, saw {self.text!r}"
            if select.select([self._descriptor], [], [], 0.1)[0]:
                self.text += os.read(self._descriptor, 4096).decode(errors="replace")
        self.text = self.text.partition(wanted)[2]
