"""A model folder's tokenizer, as a preprocessor that needs neither transformers nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError

if TYPE_CHECKING:
    from edgeq.runtime.text import TextPreprocessor

VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a folder; a slow one is converted where transformers knows how.

    Raises:
        ModelError: there is none, or it has no fast form.
    """
    from edgeq.exporters.checkpoint import describe, quiet_transformers

    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise ModelError(
            f"`{folder}` has no tokenizer, expected one of {', '.join(VOCABULARY_FILES)}",
            hint="save it beside the model: tokenizer.save_pretrained(folder)",
        )
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # tokenizers and sentencepiece raise bare exceptions for a bad file
            raise ModelError(f"the tokenizer in `{folder}` cannot be loaded: {describe(error)}") from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer in `{folder}` ({type(tokenizer).__name__}) runs in Python only, "
            "expected one that can be written as tokenizer.json",
            hint="use a tokenizer with a fast version: apps run tokenizer.json",
        )
    return tokenizer


def text_preprocessor(tokenizer: Any, *, max_length: int, input_names: Sequence[str]) -> TextPreprocessor:
    """The preprocessor that a bundle carries."""
    from edgeq.runtime.text import TextPreprocessor

    return TextPreprocessor.from_transformers(tokenizer, max_length=max_length, input_names=input_names)


def check_vocabulary(tokenizer: Any, rows: int, folder: Path) -> None:
    """Every token must have a row in the embedding table: on a phone nobody checks.

    Raises:
        ModelError: some have none.
    """
    beyond = {token: index for token, index in tokenizer.get_vocab().items() if index >= rows}
    if beyond:
        token, index = min(beyond.items(), key=lambda item: item[1])
        raise ModelError(
            f"the tokenizer in `{folder}` has {len(beyond)} tokens that the model has no embedding for, first "
            f"{token!r} with id {index}; the table has {rows} rows",
            hint="the tokenizer and the weights are not of the same model: download both again",
        )


def longest_text(tokenizer: Any, positions: int, asked: int | None) -> int:
    """Longest sequence in tokens: as asked, else the tokenizer's limit, at most the model's positions."""
    # A tokenizer that sets no limit says 10^30; some say -1.
    limit = tokenizer.model_max_length if tokenizer.model_max_length > 0 else positions
    return min(positions, asked or int(min(limit, positions)))
