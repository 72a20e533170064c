"""Other ways to ask for a chat, for services whose engine only knows chat completions. One module per operation.

Pure functions and one class each: what a request says as a chat, and what a chat's answer says in the caller's API.
"""

from __future__ import annotations

from typing import Protocol

from mooring.gateway.translate import messages, responses
from mooring.gateway.translate.chat_stream import ChatStream


class Translation(Protocol):
    """What a module offers."""

    @property
    def Translator(self) -> type[ChatStream]:  # noqa: N802  a class of the module
        """Make one of it for each stream: `Translator(asked, request_id)`."""
        ...

    def to_chat(self, body: bytes) -> bytes:
        """Return the chat completion's body that says the same. Raises Invalid and its kinds."""
        ...

    def from_chat(self, answer: bytes, asked: bytes, request_id: str) -> bytes:
        """Return the caller's answer that a whole chat completion is. Raises UpstreamFailed."""
        ...


TRANSLATIONS: dict[str, Translation] = {"messages": messages, "responses": responses}
