"""A model folder's tokenizer, as a preprocessor that needs neither transformers nor torch.

Where the folder has a `tokenizer.json`, that file is what the bundle runs. transformers 5 rebuilds the tokenizers of
many families from their vocabulary alone and drops the file's own normalizer and pre-tokenizer; it still says which
tokens are special, what is cut off and on which side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.json_files import read_object

if TYPE_CHECKING:
    from edgeq.exporters.library_config import LibraryConfig
    from edgeq.processors.text import TextPreprocessor

VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)


TOKENIZER_FILE = "tokenizer.json"
TOKEN_TYPES = "token_type_ids"

TRIED = (
    "The ferry leaves at half past nine.",
    "Rain OVER the Sky, in McAllen and ISTANBUL",
    "see https://example.org/a?b=1&c=2 or write to someone@example.org",
    "Room 2024, 3.14159 or 1,000,000 of them; 42nd",
    "na\u00efve caf\u00e9 in S\u00e3o Paulo, stra\u00dfe, \u0130zmir, \u017b\u00f3\u0142\u0107",
    "two  spaces,\ttabs,\nlines and trailing ",
    " leading, hyphen-ated, under_score, C++, #tag, @name, 'quoted', \u201ccurly\u201d \u2026 \u2014",
    "\u6771\u4eac\u3068\u5927\u962a \u0627\u0644\u0633\u0645\u0627\u0621 \u041d\u0435\u0431\u043e \U0001f600",
    "\ufb01ne \uff21\uff22\uff23 x\u00b2 \u212b\u200bzero width",
    "def area(radius): return 3.14159 * radius ** 2",
    "[MASK] <mask> [SEP] </s> <unk>",
)
"""Texts on which normalizers, pre-tokenizers and added tokens show that they differ."""


def load_tokenizer(folder: Path, *, lower_case: bool = False) -> Any:
    """The fast tokenizer of a folder; a slow one is converted where transformers knows how.

    The folder's own `tokenizer.json` is what it runs, with the tokens that transformers adds from the other files.

    Args:
        folder: with the tokenizer's files.
        lower_case: lower-case texts first, as sentence-transformers does on `do_lower_case`.

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
    own = _own_backend(folder, tokenizer)
    if own is not None:
        tokenizer.edgeq_notices = _differences(own, tokenizer)
        use_backend(tokenizer, own)
    if lower_case:
        _lower(tokenizer.backend_tokenizer)
    return tokenizer


def use_backend(tokenizer: Any, backend: Any) -> None:
    """Let a tokenizer of transformers run another one of `tokenizers`."""
    # The attribute behind the property `backend_tokenizer`, which has no setter.
    tokenizer._tokenizer = backend


def gives_types(tokenizer: Any, folder: Path) -> bool:
    """Whether the model is told which text of a pair a token is of.

    As the folder's tokenizer_config.json says (`model_input_names`), else as the tokenizer itself marks them:
    transformers 5 no longer passes on what tokenizers of its general class mark, which transformers 4 did.
    """
    path = folder / "tokenizer_config.json"
    named = read_object(path).get("model_input_names") if path.is_file() else None
    return TOKEN_TYPES in named if isinstance(named, list) else any(_pair_types(tokenizer))


def _pair_types(tokenizer: Any) -> list[int]:
    types: list[int] = tokenizer.backend_tokenizer.encode("a", "b").type_ids
    return types


def follow_types(tokenizer: Any, folder: Path) -> tuple[str, ...]:
    """Let a tokenizer of transformers, and the one of `tokenizers` in it, give types where `gives_types` says so.

    Returns:
        Where transformers would do otherwise, for people.

    Raises:
        ModelError: types are marked that the model must not be given, in a way that cannot be taken out.
    """
    wanted = gives_types(tokenizer, folder)
    if not wanted and any(_pair_types(tokenizer)):
        _unmark(tokenizer, folder)
    if not wanted or TOKEN_TYPES in tokenizer.model_input_names:
        return ()
    tokenizer.model_input_names = [*tokenizer.model_input_names, TOKEN_TYPES]
    return (
        f"tokenizer.json marks the second text of a pair, and transformers 5 ({type(tokenizer).__name__}) does not "
        "tell the model; the bundle follows the file",
    )


def _unmark(tokenizer: Any, folder: Path) -> None:
    """Mark all tokens of a pair alike: an app's tokenizer knows no model_input_names."""
    from tokenizers import Tokenizer

    document = json.loads(tokenizer.backend_tokenizer.to_str())
    _zero_types(document["post_processor"])
    plain = Tokenizer.from_str(json.dumps(document))
    if any(plain.encode("a", "b").type_ids):
        raise ModelError(
            f"the tokenizer in `{folder}` marks the second text of a pair, which its tokenizer_config.json keeps from "
            "the model (model_input_names)",
            hint=f"let model_input_names name {TOKEN_TYPES}, if the model was trained with them",
        )
    use_backend(tokenizer, plain)


def _zero_types(node: Any) -> None:
    """Every `type_id` of a post-processor's templates."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _zero_types(value)
    if isinstance(node, dict) and "type_id" in node:
        node["type_id"] = 0


def tokenizer_notices(tokenizer: Any) -> tuple[str, ...]:
    """Where the folder's file and transformers disagree, for people."""
    return tuple(getattr(tokenizer, "edgeq_notices", ()))


def _own_backend(folder: Path, tokenizer: Any) -> Any:
    """The folder's `tokenizer.json`, with tokens that its other files add; None where there is none."""
    from tokenizers import Tokenizer

    from edgeq.exporters.checkpoint import describe

    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return None
    try:
        own = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"`{path}` is not a tokenizer: {describe(error)}") from error
    known = own.get_vocab(with_added_tokens=True)
    marked = {token.content for token in own.get_added_tokens_decoder().values()}
    for index, token in sorted(tokenizer.backend_tokenizer.get_added_tokens_decoder().items()):
        # A token of the vocabulary may be marked as added; a new one must get the id it has there.
        if token.content not in marked and known.get(token.content, own.get_vocab_size()) == index:
            (own.add_special_tokens if token.special else own.add_tokens)([token])
    return own


def _differences(own: Any, tokenizer: Any) -> tuple[str, ...]:
    """What transformers makes of the file, beside the file, on texts."""
    theirs = tokenizer.backend_tokenizer
    for backend in (own, theirs):
        backend.no_padding()
        backend.no_truncation()
    differ = [text for text in TRIED if own.encode(text).ids != theirs.encode(text).ids]
    if not differ:
        return ()
    mine, other = (" ".join(backend.encode(differ[0]).tokens) for backend in (own, theirs))
    return (
        f"tokenizer.json of the model and what transformers makes of it ({type(tokenizer).__name__}) give other tokens "
        f"for {len(differ)} of {len(TRIED)} texts, as for {differ[0]!r:.60}: {mine:.80} instead of {other:.80}; the "
        "bundle follows the file",
    )


def _lower(backend: Any) -> None:
    """Lower-case texts before anything else, where the normalizer does not already."""
    from tokenizers import normalizers

    before = backend.normalizer
    if before is not None and before.normalize_str("AB") == "ab":
        return
    backend.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *([] if before is None else [before])]
    )


def prompted(preprocessor: TextPreprocessor, library: LibraryConfig) -> TextPreprocessor:
    """The preprocessor with the prompts of sentence-transformers, of which it uses the default one."""
    return preprocessor.with_prompts(library.prompts, library.default_prompt)


def text_preprocessor(tokenizer: Any, *, max_length: int, input_names: Sequence[str]) -> TextPreprocessor:
    """The preprocessor that a bundle carries."""
    from edgeq.processors.text import TextPreprocessor

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
