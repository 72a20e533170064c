"""The events of a chat stream on their way into another API's: what is common to the APIs that we translate for."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.gateway.streams.sse import split_events
from mooring.gateway.translate.said import Answer, Chat, Choice, Counted, Parts, Step, answer_of, decode_chat

_UNREADABLE = "The service sent something in its stream that can't be read."
_encode = msgspec.json.Encoder().encode


class ChatStream:
    """Reads whole events of a chat stream; its heirs say what is in them. One choice is read, the first.

    An heir gives the bytes of the beginning (`_begin`), of each step of a part (`_step`), of the end (`_finish`) and of
    a failure (`_fail`).
    """

    def __init__(self, asked: bytes, request_id: str) -> None:
        """Make ready for one stream. `asked`: the caller's body, as `to_chat` took it."""
        self._asked = asked
        self._request_id = request_id
        self._parts = Parts(request_id)
        self._chat = Chat()  # the first chunk
        self._choice = Choice()  # the one that ended it
        self._usage: Counted | None = None
        self._begun = False
        self._over = False
        self.failed = ""  # why the stream can't be said any further

    def feed(self, data: bytes) -> bytes:
        """Take whole events, return those of the caller's API. Comments pass; `[DONE]` is the end."""
        return b"".join([self._event(event) for event in split_events(data)])

    def end(self) -> bytes:
        """Return what is left when the stream has ended: nothing, if `[DONE]` has come."""
        if self._over:
            return b""
        self._over = True
        out = [] if self._begun else [self._begin()]
        answer = answer_of(self._chat, self._choice, self._parts.all, self._usage)
        out += [self._step(step, answer) for step in self._parts.end()]
        return b"".join([*out, self._finish(answer)])

    def error_event(self, kind: str, message: str, code: str) -> bytes:
        """Return the event that ends a stream which can't go on; nothing is said after it.

        `kind`: OpenAI's type of the error or the API's own; `code`: the refusal's stable name.
        """
        if self._over:
            return b""
        self._over = True
        self.failed = message
        return self._fail(kind, message, code)

    def _event(self, event: bytes) -> bytes:
        if self._over:
            return b""
        if event[:1] == b":":
            return event
        payload = event.partition(b"data:")[2].strip()
        if not payload:
            return b""
        if payload == b"[DONE]":
            return self.end()
        try:
            chat = decode_chat(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.error_event("server_error", _UNREADABLE, "upstream_failed")
        if chat.error:
            return self.error_event("server_error", _message(chat.error), "upstream_error")
        return self._chunk(chat)

    def _chunk(self, chat: Chat) -> bytes:
        out: list[bytes] = []
        if not self._begun:
            self._begun = True
            self._chat = chat
            out.append(self._begin())
        if chat.usage is not None:
            self._usage = chat.usage
        for choice in chat.choices or ():
            if choice.index:
                continue
            if choice.delta is not None:
                out += [self._step(step) for step in self._parts.add(choice.delta)]
            if choice.finish_reason:
                self._choice = choice
        return b"".join(out)

    def _begin(self) -> bytes:
        raise NotImplementedError

    def _step(self, step: Step, answer: Answer | None = None) -> bytes:
        """Say one step of a part. `answer` is given when everything has been said."""
        raise NotImplementedError

    def _finish(self, answer: Answer) -> bytes:
        raise NotImplementedError

    def _fail(self, kind: str, message: str, code: str) -> bytes:
        raise NotImplementedError


def event(members: dict[str, Any]) -> bytes:
    """Return a server-sent event that is called as its `type` says."""
    return b"event: %b\ndata: %b\n\n" % (members["type"].encode(), _encode(members))


def _message(error: Any) -> str:
    told = error.get("message") if isinstance(error, dict) else error  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return told if isinstance(told, str) and told else "The service ended its stream with an error."
