"""The messages of a chat, turn by turn: what follows in the same role joins its turn.

Chat templates want turns that alternate, and an assistant's thoughts, text and calls in one of them.
"""

from __future__ import annotations

from typing import NoReturn

from mooring.gateway.translate.reading import Members, Node, shown

_BETWEEN = "\n"  # stands between the texts of one turn


class Conversation:
    """Collects what was said; `messages` gives it in the form of chat completions."""

    def __init__(self) -> None:
        self._turns: list[Members] = []

    @property
    def messages(self) -> list[Members]:
        return [_complete(turn) for turn in self._turns]

    def say(self, role: str, text: str) -> None:
        """Add text of the system, the user or the assistant."""
        _add(self._turn(role), "content", text)

    def think(self, text: str) -> None:
        """Add what the assistant thought before what follows."""
        _add(self._turn("assistant"), "reasoning_content", text)

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """Add a tool call of the assistant; `arguments` is JSON text."""
        calls = self._turn("assistant").setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})

    def answer(self, call_id: str, text: str) -> None:
        """Add what a tool gave back."""
        self._turns.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def _turn(self, role: str) -> Members:
        if not self._turns or self._turns[-1]["role"] != role:
            self._turns.append({"role": role})
        return self._turns[-1]


def _add(turn: Members, name: str, text: str) -> None:
    before = turn.get(name)
    turn[name] = f"{before}{_BETWEEN}{text}" if before and text else before or text


def _complete(turn: Members) -> Members:
    """A turn without text has null there if it calls tools, else an empty one."""
    return {"role": turn["role"], "content": None if "tool_calls" in turn else "", **turn}


def joined(node: Node, kinds: dict[str, str]) -> str:
    """Return the text of a string, or of an array of text parts. `kinds`: a part's type → the member with its text.

    Raises:
        Invalid: a part is no text.
    """
    if not isinstance(node.value, list):
        return node.text()
    texts: list[str] = []
    for part in node.entries():
        kind = part.member("type").text()
        if kind not in kinds:
            refuse_part(part, kind)
        texts.append(part.member(kinds[kind]).text())
    return _BETWEEN.join(texts)


_CALLED = {
    "image": "is an image",
    "input_image": "is an image",
    "document": "is a document",
    "file": "is a file",
    "input_file": "is a file",
    "input_audio": "is audio",
    "search_result": "is a search result",
}


def refuse_part(part: Node, kind: str) -> NoReturn:
    """Raise Invalid: content of this kind can't be said in a chat."""
    called = _CALLED.get(kind, f"has the type '{shown(kind)}'")
    part.refuse(f"{called}, and this service can be sent text only", "Send its content as text.")
