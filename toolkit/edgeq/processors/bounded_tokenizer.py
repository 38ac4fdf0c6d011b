"""A `tokenizer.json` that may come from anyone: its panics are errors, and its time and memory have limits.

The file is a program: chains of replacements multiply a text, expressions go back over it without end, and what the
library cannot do it panics over, which is no Exception in Python.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

from edgeq.errors import DataError, IntegrityError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

MAX_FILE_CHARACTERS = 128 << 20
"""The largest vocabularies in use take 40 MB."""
MAX_WORD_CHARACTERS = 1000
"""Of WordPiece, whose time grows with the third power of a word; BERT says 100."""
MAX_GROWN_CHARACTERS = 1 << 24
"""What a text may become while it is tokenized; a character takes some 25 bytes there."""
SECONDS, CHARACTERS_PER_SECOND = 1.2, 50_000
"""Time limit of a call, and what is added for long texts: a tenth of what tokenizers manage."""
SEGMENT_CHARACTERS = 64
"""Characters for each token of `head`: words are shorter, and where they are not, more is tried."""
_LONGEST_COMPOSED = 18
"""Characters that one becomes in Unicode's compatibility forms, at most."""

Item = TypeVar("Item")


class BoundedTokenizer:
    """A tokenizer whose calls end.

    Args:
        tokenizer_json: the contents of a `tokenizer.json`.

    Attributes:
        raw: the tokenizer itself, for what takes neither time nor memory.

    Raises:
        IntegrityError: it is no tokenizer.
    """

    def __init__(self, tokenizer_json: str) -> None:
        from tokenizers import Tokenizer

        if len(tokenizer_json) > MAX_FILE_CHARACTERS:
            raise IntegrityError(
                f"tokenizer.json has {len(tokenizer_json)} characters, expected at most {MAX_FILE_CHARACTERS}"
            )
        self.raw: Tokenizer = _panics_as_errors(
            "tokenizer.json is not a tokenizer", lambda: Tokenizer.from_str(tokenizer_json)
        )
        word = getattr(self.raw.model, "max_input_chars_per_word", 0)
        if word > MAX_WORD_CHARACTERS:
            raise IntegrityError(
                f"tokenizer.json takes words of {word} characters, expected at most {MAX_WORD_CHARACTERS}"
            )
        steps = [*_steps(self.raw.normalizer), *_steps(self.raw.pre_tokenizer)]
        decoding = _steps(self.raw.decoder)
        # Expressions alone can take for ever; a thread for the others would cost more than they do.
        self._run = _in_time if any(map(_has_expression, [*steps, *decoding])) else _at_once
        self._growth = prod(map(_growth, steps))
        self._decoding_growth = prod(map(_growth, decoding))
        splits = any(map(_splits, _steps(self.raw.pre_tokenizer))) and not _has_spaces(self.raw)
        self._is_local = splits and all(map(_is_local, steps))

    def encode(
        self, samples: Sequence[tuple[str, ...]], *, add_special_tokens: bool = True
    ) -> list[Encoding]:
        """Token ids and what comes with them.

        Args:
            samples: one text or two each.
            add_special_tokens: those of the tokenizer's template.

        Raises:
            IntegrityError: the tokenizer fails on them, or takes far longer than tokenizers do.
            DataError: they are longer than it can be trusted with.
        """
        characters = sum(map(_characters, samples))
        self._check_growth(max(map(_characters, samples), default=0), self._growth)
        inputs = [texts if len(texts) == 2 else texts[0] for texts in samples]
        return self._run(
            characters,
            lambda: list(self.raw.encode_batch(inputs, add_special_tokens=add_special_tokens)),
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out.

        Raises:
            IntegrityError: as `encode`; the tokenizer's tokens are longer than any text.
        """
        ids = list(token_ids)
        characters = sum(len(self.raw.id_to_token(token) or "") for token in ids)
        self._check_growth(characters, self._decoding_growth)
        found = self._run(characters, lambda: self.raw.decode_batch([ids], skip_special_tokens=True))
        return str(found[0])

    def head(self, text: str, tokens: int) -> str:
        """The beginning of a text, the same in its first `tokens` tokens; the text itself unless it is far longer.

        It ends where a word ends, and only the tokenizers that take words one by one are trusted to do the same with a
        part of the text as with all of it.
        """
        size = max(tokens, 64) * SEGMENT_CHARACTERS
        while self._is_local and size < len(text) // 2:
            end = _last_word_end(text, size)
            if end and len(self.encode([(text[:end],)], add_special_tokens=False)[0]) >= tokens:
                return text[:end]
            size *= 4
        return text

    def _check_growth(self, characters: int, growth: int) -> None:
        if characters * growth > MAX_GROWN_CHARACTERS and growth > 1:
            raise IntegrityError(
                f"tokenizer.json can make {growth} characters of each, which is too many for a text of {characters}"
            )
        if characters > MAX_GROWN_CHARACTERS:
            raise DataError(
                f"a text has {characters} characters, expected at most {MAX_GROWN_CHARACTERS}",
                hint="break it into parts",
            )


def _characters(texts: tuple[str, ...]) -> int:
    return sum(map(len, texts))


def _last_word_end(text: str, size: int) -> int:
    """Where the last word of the first `size` characters ends that a plain space follows; 0 where there is none."""
    end = text.rfind(" ", 0, size)
    while end > 0 and text[end - 1].isspace():
        end -= 1
    return max(end, 0)


def _at_once(_: int, call: Callable[[], Item]) -> Item:
    return _panics_as_errors("tokenizer.json cannot read the texts", call)


def _in_time(characters: int, call: Callable[[], Item]) -> Item:
    """Run in another thread, which is left to itself when its time is over: nothing can end it but the process."""
    found: list[Item] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:  # a panic is no Exception
            failed.append(error)

    worker = threading.Thread(target=run, daemon=True, name="tokenizer")
    limit = SECONDS + characters / CHARACTERS_PER_SECOND
    began, used = time.monotonic(), time.process_time()
    worker.start()
    worker.join(limit)
    # A machine that is busy with something else takes longer, and nothing is wrong.
    while worker.is_alive() and time.process_time() - used < limit:
        worker.join(0.05)
    if failed:
        raise IntegrityError(f"tokenizer.json cannot read the texts: {failed[0]}") from failed[0]
    if not found:
        raise IntegrityError(
            f"tokenizer.json cannot read the texts: {characters} characters took it {time.monotonic() - began:.1f} s"
        )
    return found[0]


def _panics_as_errors(what: str, call: Callable[[], Item]) -> Item:
    try:
        return call()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises bare Exception, and panics
        raise IntegrityError(f"{what}: {error}") from error


def _steps(part: Any) -> list[Mapping[str, Any]]:
    """What a normalizer, pre-tokenizer or decoder does, one after the other."""
    return [] if part is None else list(_flat(json.loads(part.__getstate__())))


def _flat(step: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if step.get("type") != "Sequence":
        yield step
        return
    for key in ("normalizers", "pretokenizers", "decoders"):
        for inner in step.get(key, ()):
            yield from _flat(inner)


def _has_expression(step: Mapping[str, Any]) -> bool:
    pattern = step.get("pattern")
    return isinstance(pattern, dict) and pattern.get("Regex") not in (None, *_LOCAL_PATTERNS)


def _growth(step: Mapping[str, Any]) -> int:
    """How many characters a step can make of one, beyond what Unicode and bytes make of it."""
    kind = step.get("type")
    if kind == "Replace":
        return _replace_growth(step["pattern"], len(step["content"]))
    if kind == "Prepend":
        return max(1, len(step["prepend"]))
    if kind == "Precompiled":
        return _charsmap_growth(step["precompiled_charsmap"])
    return 1


def _replace_growth(pattern: Mapping[str, str], written: int) -> int:
    if "String" in pattern:
        return -(-written // max(1, len(pattern["String"]))) or 1
    # An expression that matches nothing, as `x*` does, writes between any two characters.
    return max(1, written) if _consumes(pattern["Regex"]) else 1 + written


def _consumes(pattern: str) -> bool:
    """Whether every match has a character; False where that is not plain to see."""
    if re.search(r"\(\?|\\[bBAzZGK]|[\^$]", pattern.replace("[^", "[")):
        return False
    try:
        return re.compile(pattern).match("") is None
    except re.error:
        return False


def _charsmap_growth(encoded: str) -> int:
    """Of a SentencePiece map: four bytes of length, an index, then all replacements, each ended by a zero byte."""
    try:
        data = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        return 1
    replacements = data[4 + int.from_bytes(data[:4], "little") :]
    longest = max(map(len, replacements.split(b"\0")))
    return 1 if longest <= 4 * _LONGEST_COMPOSED else longest


_NORMALIZERS = (
    "BertNormalizer",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "StripAccents",
    "Nmt",
    "Precompiled",
)
_LOCAL = {*_NORMALIZERS, "Strip", "Prepend", "Punctuation", "Digits"}
"""Steps that do with a word what they do whatever stands after the space behind it."""
_SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace"}
"""Steps after which a word knows nothing of the next."""
_LOCAL_PATTERNS = {" {2,}", r"\s+", "``", "''", " "}


def _is_local(step: Mapping[str, Any]) -> bool:
    if step.get("type") == "Replace":
        return next(iter(step["pattern"].values())) in _LOCAL_PATTERNS
    return step.get("type") in _LOCAL or _splits(step)


def _splits(step: Mapping[str, Any]) -> bool:
    """Whether it takes a text apart wherever there is a space."""
    told = {"ByteLevel": "use_regex", "Metaspace": "split"}
    kind = str(step.get("type"))
    return kind in _SPLITTING and bool(step.get(told.get(kind, ""), True))


def _has_spaces(tokenizer: Tokenizer) -> bool:
    """Whether an added token may lie on both sides of a space."""
    return any(" " in token.content.strip() for token in tokenizer.get_added_tokens_decoder().values())
