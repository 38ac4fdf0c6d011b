"""Prompts to token ids and back, with `tokenizers` alone."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.errors import DataError
from edgeq.processors.bounded_tokenizer import BoundedTokenizer


class PromptTokenizer:
    """The tokenizer of a language model.

    Args:
        tokenizer_json: the contents of a `tokenizer.json`.

    Raises:
        IntegrityError: it is not one.
    """

    def __init__(self, tokenizer_json: str) -> None:
        self._bounded = BoundedTokenizer(tokenizer_json)
        self._tokenizer = self._bounded.raw
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; a start token is added where the tokenizer says so.

        Raises:
            DataError: the text is not valid Unicode (a command line with broken UTF-8 ends up so), or far too long.
            IntegrityError: the tokenizer fails on it.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"the text is not valid Unicode: {error}", hint="give it as UTF-8") from error
        return list(self._bounded.encode([(text,)], add_special_tokens=add_special_tokens)[0].ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._bounded.decode(token_ids)

    def require_embeddings(self, ids: Sequence[int], rows: int, what: str) -> None:
        """Refuse tokens that this tokenizer knows and the model has no row for.

        Args:
            ids: of a text.
            rows: of the model's embedding table.
            what: the text is, for the message.

        Raises:
            DataError: there is such a token; the message has its text.
        """
        beyond = next((token for token in ids if token >= rows), None)
        if beyond is None:
            return
        raise DataError(
            f"{what} the token {self._tokenizer.id_to_token(beyond)!r} ({beyond}), which the model has no embedding "
            f"for: its table has {rows} rows",
            hint="leave that token out: the model has never seen it",
        )

    @property
    def vocabulary(self) -> dict[str, int]:
        """Id of every token, added ones included."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    @property
    def special_tokens(self) -> dict[int, str]:
        """Text of the tokens that stand for no text of their own, by id."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {int(number): str(token.content) for number, token in added.items() if token.special}
