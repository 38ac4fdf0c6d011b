"""Token ids to text piece by piece: nothing is shown before it is certain, and the pieces add up to the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "�"
"""What a decoder writes for bytes that are not a whole character yet."""
CONTEXT_TOKENS = 8
"""Prompt tokens decoded along, so that the first word keeps its space."""


class StreamDecoder:
    """Turns a growing list of tokens into text.

    Each step decodes a short window with and without the new tokens and shows the difference: decoders of
    SentencePiece drop the first space, and byte-level tokens may end inside a character.

    Args:
        decode: token ids to text, special tokens left out.
        prompt_ids: what came before.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt_ids[-CONTEXT_TOKENS:])
        self._shown = len(self._ids)
        self._begin = 0

    def push(self, token_id: int) -> str:
        """The text that this token makes certain; empty while a character is incomplete."""
        self._ids.append(token_id)
        return self._new_text(is_last=False)

    def finish(self) -> str:
        """What was held back, incomplete characters as `�`."""
        return self._new_text(is_last=True)

    def _new_text(self, *, is_last: bool) -> str:
        before = self._decode(self._ids[self._begin : self._shown])
        after = self._decode(self._ids[self._begin :])
        if not is_last and after.endswith(REPLACEMENT):
            return ""
        self._begin, self._shown = self._shown, len(self._ids)
        return after[len(before) :]
