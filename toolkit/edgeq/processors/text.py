"""Text to model inputs with `tokenizers` alone: calibration, golden vectors and the runtime share it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeq.bundle.codec import Count, TokenId, decode
from edgeq.bundle.documents import read_document
from edgeq.bundle.manifest import PreprocessKind, PreprocessStep
from edgeq.errors import ConfigError, DataError, IntegrityError, UsageError
from edgeq.files import atomic_write_text
from edgeq.processors.bounded_tokenizer import SEGMENT_CHARACTERS, BoundedTokenizer
from edgeq.processors.processor import require_kinds
from edgeq.processors.text_padding import TEXT_PADDING
from edgeq.samples import Sample, Text, TextPair
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS, KNOWN_INPUTS, TOKEN_TYPE_IDS
from edgeq.types import Array

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from edgeq.graph.component import Padding

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "preprocess.json"
MAX_SETTINGS_BYTES = 4 << 20
"""It takes some 500 bytes."""

ROLES: Mapping[str, tuple[str, ...]] = {"query": (), "document": ("passage", "corpus")}
"""Roles of texts that every model knows, with other names that models have for their prompts.

A model without a prompt for a role uses none, as `encode_query` and `encode_document` of sentence-transformers do.
Another name is not taken for it: the library takes none then, and the author meant one.
"""


@dataclass(frozen=True, slots=True)
class TextSettings:
    """What `tokenizer.json` does not say about a model's inputs; saved beside it as `preprocess.json`.

    Attributes:
        max_length: longest sequence in tokens, special tokens included; longer ones are truncated, of a pair
            the longer text first.
        pad_token: the token short sequences are filled with, always on the right.
        pad_id: its id.
        input_names: which of `input_ids`, `attention_mask`, `token_type_ids` the model takes.
        truncation_side: which end of a long text is cut off.
        special_tokens: token by role (`cls_token`, `sep_token`, `mask_token`, ...), for people and for apps.
        prompts: text that is put before a text, by name (`query`, `document`, ...); of a pair before the first one.
        default_prompt: name of the one that is used unless another is asked for; None uses none.
    """

    max_length: Count
    pad_token: str
    pad_id: TokenId
    input_names: tuple[str, ...] = (INPUT_IDS, ATTENTION_MASK)
    truncation_side: Literal["left", "right"] = "right"
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompts, Mapping) or not all(
            isinstance(text, str) for text in self.prompts.values()
        ):
            raise ConfigError(f"prompts are {self.prompts!r:.60}, expected texts by name")
        if self.default_prompt is not None and self.default_prompt not in self.prompts:
            raise ConfigError(
                f"the default prompt is `{self.default_prompt}`, expected one of {', '.join(self.prompts) or 'none'}"
            )
        unknown = [name for name in self.input_names if name not in KNOWN_INPUTS]
        if unknown or INPUT_IDS not in self.input_names:
            raise ConfigError(
                f"text inputs must be `input_ids` and any of {', '.join(KNOWN_INPUTS[1:])}; "
                f"got {', '.join(self.input_names) or 'none'}"
            )
        if self.max_length < 1:
            raise ConfigError(f"max_length must be at least 1 token, got {self.max_length}")
        if self.truncation_side not in ("left", "right"):
            raise ConfigError(f"truncation_side must be `left` or `right`, got `{self.truncation_side}`")


class TextPreprocessor:
    """Tokenizes texts and pairs of texts into `[batch, sequence]` int64 inputs, padded on the right.

    The result equals that of the model's fast tokenizer in transformers, because both run the same
    `tokenizer.json`; no torch and no transformers are needed.

    Args:
        tokenizer_json: the contents of a `tokenizer.json`.
        settings: what that file does not say.
    """

    def __init__(self, tokenizer_json: str, settings: TextSettings) -> None:
        self.tokenizer_json = tokenizer_json
        self.settings = settings
        self._truncating = BoundedTokenizer(tokenizer_json)
        _truncate(self._truncating.raw, settings)
        # Parsed when it is first asked for; copies with other prompts share it.
        self._untruncated = _Untruncated(tokenizer_json)

    @classmethod
    def from_transformers(
        cls, tokenizer: Any, *, max_length: int, input_names: Sequence[str]
    ) -> TextPreprocessor:
        """Take over a fast tokenizer of transformers, with its special tokens and truncation side.

        A tokenizer without a padding token (GPT-2) pads with its end-of-text token: the attention mask
        hides what is padded.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise DataError(
                f"the tokenizer `{type(tokenizer).__name__}` has no fast version; "
                "edgeq needs one that can be written as tokenizer.json",
                hint="convert it with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...))",
            )
        special = {
            role: str(token) for role, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
        }
        pad_token = special.get("pad_token") or special.get("eos_token") or special.get("unk_token")
        if pad_token is None:
            raise DataError("the tokenizer has no padding, end-of-text or unknown token to pad with")
        settings = TextSettings(
            max_length=max_length,
            pad_token=pad_token,
            pad_id=int(tokenizer.convert_tokens_to_ids(pad_token)),
            input_names=tuple(input_names),
            truncation_side=tokenizer.truncation_side,
            special_tokens=special,
        )
        return cls(_without_batch_state(backend.to_str()), settings)

    @classmethod
    def load(cls, folder: Path) -> TextPreprocessor:
        """Read what `save` wrote.

        Raises:
            IntegrityError: a file is missing or malformed.
        """
        try:
            tokenizer_json = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
            settings = _read_settings(folder / SETTINGS_FILE)
            return cls(tokenizer_json, settings)
        except (OSError, ValueError, ConfigError) as error:
            raise IntegrityError(f"the tokenizer in `{folder}` cannot be read: {error}") from error

    def save(self, folder: Path, *, limits: bool = False) -> None:
        """Write `tokenizer.json` and `preprocess.json`; the same preprocessor gives the same bytes.

        Args:
            folder: is made where it is missing.
            limits: write truncation and padding into `tokenizer.json` as well: readers in other languages see that file
                only. A language model's prompt is not cut, and its file says nothing.
        """
        folder.mkdir(parents=True, exist_ok=True)
        settings = asdict(self.settings)
        settings["special_tokens"] = dict(sorted(self.settings.special_tokens.items()))
        if not self.settings.prompts:
            del settings["prompts"], settings["default_prompt"]
        text = _with_limits(self.tokenizer_json, self.settings) if limits else self.tokenizer_json
        atomic_write_text(folder / TOKENIZER_FILE, text)
        atomic_write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    @property
    def max_length(self) -> int:
        """Longest sequence the model takes, in tokens."""
        return self.settings.max_length

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return self.settings.pad_id

    @property
    def vocabulary_size(self) -> int:
        """Ids are below it."""
        return 1 + max(self._truncating.raw.get_vocab().values(), default=-1)

    @property
    def takes(self) -> tuple[type[Sample], ...]:
        """Texts, and pairs of them."""
        return (Text, TextPair)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs that calling this gives."""
        return self.settings.input_names

    @property
    def padding(self) -> Padding | None:
        """Where the mask says it; None for a model that takes none, whose texts have to be of one length."""
        return TEXT_PADDING if ATTENTION_MASK in self.input_names else None

    @property
    def steps(self) -> tuple[PreprocessStep, ...]:
        """Texts are tokenized."""
        return (PreprocessStep(PreprocessKind.TOKENIZE, self.input_names),)

    @property
    def special_token_ids(self) -> dict[str, int]:
        """Id by role (`cls_token`, `sep_token`, ...) of the special tokens the vocabulary has."""
        ids = {
            role: self._truncating.raw.token_to_id(token)
            for role, token in self.settings.special_tokens.items()
        }
        return {role: token_id for role, token_id in ids.items() if token_id is not None}

    def fit(self, max_length: int) -> TextPreprocessor:
        """The same preprocessor with another truncation length (`--seq-len`)."""
        return TextPreprocessor(self.tokenizer_json, replace(self.settings, max_length=max_length))

    def with_prompts(self, prompts: Mapping[str, str], default: str | None) -> TextPreprocessor:
        """The same preprocessor with these prompts, and the one of them that is used."""
        # The tokenizers are shared: nothing of them depends on prompts, and a large vocabulary takes long to parse.
        other = copy(self)
        other.settings = replace(self.settings, prompts=dict(prompts), default_prompt=default)
        return other

    def with_role(self, role: str) -> TextPreprocessor:
        """The same preprocessor for texts of one role: with its prompt, or with none where the model has none for it.

        Args:
            role: name of a prompt; `query` and `document` may always be asked for.

        Raises:
            UsageError: the model has no such prompt.
        """
        prompts = self.settings.prompts
        if role in prompts:
            return self.with_prompts(prompts, role)
        others = [name for name in ROLES.get(role, ()) if name in prompts]
        if role not in ROLES or others:
            known = ", ".join(dict.fromkeys((*prompts, *(() if others else ROLES))))
            raise UsageError(f"the model has no prompt `{role}`, expected one of {known}")
        return self.with_prompts(prompts, None)

    def __call__(self, samples: Sequence[Sample], *, pad_to: int | None = None) -> dict[str, Array]:
        """Feeds for a batch: `[batch, sequence]` int64, right-padded to the longest sample or to `pad_to`.

        Raises:
            DataError: no samples, a sample of another kind, only empty samples, or one longer than `pad_to`.
            IntegrityError: the tokenizer fails on them, as one that lacks its token for unknown words does.
        """
        encodings = self._truncating.encode([self._head(texts) for texts in self._checked(samples)])
        longest = max(len(encoding) for encoding in encodings)
        if longest == 0:
            raise DataError("the texts are empty: the tokenizer gives no tokens for them")
        if pad_to is not None and pad_to < longest:
            raise DataError(
                f"a sample has {longest} tokens and cannot be padded to {pad_to}",
                hint=f"truncate first: preprocessor.fit({pad_to})",
            )
        return self._pad(encodings, pad_to or longest)

    def costs(self, samples: Sequence[Sample]) -> list[int]:
        """Token count of each sample before truncation, special tokens included."""
        return [len(encoding) for encoding in self._untruncated().encode(self._checked(samples))]

    def is_longer(self, sample: Sample) -> bool:
        """Whether a sample is truncated; of one that is very long no more is tokenized than tells."""
        (checked,) = self._checked([sample])
        return bool(self._truncating.encode([self._head(checked)])[0].overflowing)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of some token ids, special tokens left out."""
        return self._truncating.decode(token_ids)

    def id_to_token(self, token_id: int) -> str:
        """A token as the vocabulary spells it; the number itself when it has none."""
        return self._truncating.raw.id_to_token(token_id) or str(token_id)

    def tokens(self, sample: Sample) -> list[str]:
        """The tokens of one sample after truncation, as the vocabulary spells them."""
        return list(self._truncating.encode(self._checked([sample]))[0].tokens)

    def _checked(self, samples: Sequence[Sample]) -> list[tuple[str, ...]]:
        """Texts of each sample as they are tokenized: with the prompt before the first, which is the one that asks."""
        default = self.settings.default_prompt
        prompt = self.settings.prompts[default] if default else ""
        if not samples:
            raise DataError("there are no samples to tokenize")
        require_kinds(samples, self.takes)
        for index, sample in enumerate(samples):
            _require_unicode(index, sample)
        return [(prompt + first, *rest) for first, *rest in (sample.texts for sample in samples)]

    def _head(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """What of a sample can matter, where its end is what is cut off: the first `max_length` tokens of each text."""
        limit = self.max_length + 1
        if self.settings.truncation_side != "right" or max(map(len, texts)) <= limit * SEGMENT_CHARACTERS:
            return texts
        whole = self._untruncated()
        return tuple(whole.head(text, limit) for text in texts)

    def _pad(self, encodings: Sequence[Encoding], length: int) -> dict[str, Array]:
        shape = (len(encodings), length)
        feeds = {
            INPUT_IDS: np.full(shape, self.settings.pad_id, np.int64),
            ATTENTION_MASK: np.zeros(shape, np.int64),
            TOKEN_TYPE_IDS: np.zeros(shape, np.int64),
        }
        for row, encoding in enumerate(encodings):
            used = len(encoding)
            feeds[INPUT_IDS][row, :used] = encoding.ids
            feeds[ATTENTION_MASK][row, :used] = encoding.attention_mask
            feeds[TOKEN_TYPE_IDS][row, :used] = encoding.type_ids
        return {name: feeds[name] for name in self.settings.input_names}


def _read_settings(path: Path) -> TextSettings:
    settings, unknown = decode(TextSettings, read_document(path, max_bytes=MAX_SETTINGS_BYTES))
    if unknown:  # it would change what texts become
        raise ValueError(f"`{path.name}` has `{next(iter(unknown))[0]:.60}`, which is not known here")
    return settings


class _Untruncated:
    """The tokenizer without limits, parsed at the first call; a model's process sends it, so that it must be data."""

    def __init__(self, tokenizer_json: str) -> None:
        self._json = tokenizer_json
        self._parsed: BoundedTokenizer | None = None

    def __call__(self) -> BoundedTokenizer:
        if self._parsed is None:
            self._parsed = BoundedTokenizer(self._json)
            self._parsed.raw.no_truncation()
            self._parsed.raw.no_padding()
        return self._parsed


def _truncate(tokenizer: Tokenizer, settings: TextSettings) -> None:
    # Padding is ours: it must not depend on what the file was saved with.
    tokenizer.no_padding()
    added = max(tokenizer.num_special_tokens_to_add(pair) for pair in (False, True))
    if settings.max_length <= added:
        raise ConfigError(
            f"max_length {settings.max_length} leaves no room for text: "
            f"the tokenizer adds up to {added} special tokens"
        )
    tokenizer.enable_truncation(
        settings.max_length, strategy="longest_first", direction=settings.truncation_side
    )


def _without_batch_state(tokenizer_json: str) -> str:
    """Drop the truncation and padding of the tokenizer's last call: they would change the file's hash."""
    document = json.loads(tokenizer_json)
    document["truncation"] = None
    document["padding"] = None
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _with_limits(tokenizer_json: str, settings: TextSettings) -> str:
    """The tokenizer with its truncation and padding in it, which `_truncate` and `_pad` do here."""
    tokenizer = BoundedTokenizer(tokenizer_json).raw
    _truncate(tokenizer, settings)
    tokenizer.enable_padding(direction="right", pad_id=settings.pad_id, pad_token=settings.pad_token)
    limits = json.loads(tokenizer.to_str())
    document = json.loads(tokenizer_json)
    document["truncation"], document["padding"] = limits["truncation"], limits["padding"]
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _require_unicode(index: int, sample: Sample) -> None:
    for text in sample.texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"sample {index} is not valid Unicode text: {error}") from error
