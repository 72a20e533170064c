"""A checker whose list of words a test writes: finds them in whole texts and in texts that come in pieces."""

from __future__ import annotations


class ScriptedChecker:
    """Finds any of `words`. Keeps only what may be the beginning of one."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def found(self, text: str) -> bool:
        """Return whether a word stands in the text."""
        return any(word in text for word in self._words)

    def window(self) -> ScriptedWindow:
        """Return the watch for one text that comes in pieces."""
        return ScriptedWindow(self._words)


class ScriptedWindow:
    """See ScriptedChecker."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return what may leave, and whether a word is complete now."""
        text = self._held + text
        places = [text.find(word) for word in self._words if word in text]
        if places:
            self._held = ""
            return text[: min(places)], True
        kept = max((self._open(text, word) for word in self._words), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept], False

    def flush(self) -> str:
        """Return what was kept."""
        held, self._held = self._held, ""
        return held

    def _open(self, text: str, word: str) -> int:
        """Return how many characters at the end of `text` may begin `word`."""
        return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
