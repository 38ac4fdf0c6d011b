"""What generating with a language model needs beside its graph and tokenizer: `generation.json` of a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from edgeq.bundle.codec import Between, Count, TokenId, decode
from edgeq.bundle.documents import read_document
from edgeq.errors import IntegrityError
from edgeq.files import atomic_write_text

GENERATION_FILE = "generation.json"
MAX_SETTINGS_BYTES = 4 << 20
"""Of them a chat template may take some 20 kB."""
Size: TypeAlias = Annotated[int, Between(1, 1 << 16)]
"""Of a cache: what is larger would overflow, or fill any memory, at the first token."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The KV cache of one sequence: per layer a key and a value tensor `[1, heads, tokens, size]`.

    Attributes:
        layers: that keep keys and values.
        heads: key and value heads.
        size: values per head.
        shares_buffer: past and present may be one buffer of fixed length (GroupQueryAttention).
        bytes_per_value: 4 for float32; 2 where a runtime keeps it in float16.
    """

    layers: Size
    heads: Size
    size: Size
    shares_buffer: bool = False
    bytes_per_value: Annotated[int, Between(1, 8)] = 4

    @property
    def bytes_per_token(self) -> int:
        """Bytes one more token costs."""
        return 2 * self.layers * self.heads * self.size * self.bytes_per_value


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """The model's own `generation_config.json`; what it leaves out is neutral."""

    do_sample: bool = False
    temperature: Annotated[float, Between(0)] = 1.0
    top_p: Annotated[float, Between(0)] = 1.0
    top_k: TokenId = 0
    repetition_penalty: Annotated[float, Between(0)] = 1.0


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Everything of `generation.json`.

    Attributes:
        context_length: most tokens of prompt and answer together.
        vocabulary: size of a row of logits.
        stop_ids: tokens that end an answer.
        cache: shape of the KV cache.
        bos_token: text of the start token, for chat templates; None where there is none.
        eos_token: text of the end token.
        chat_template: Jinja source; None where the model has none.
        sampling: the model's defaults.
    """

    context_length: Count
    vocabulary: Count
    stop_ids: tuple[TokenId, ...]
    cache: CacheShape
    bos_token: str | None = None
    eos_token: str | None = None
    chat_template: str | None = None
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)

    def save(self, folder: Path) -> None:
        """Write `generation.json`; the same settings give the same bytes."""
        document = {**asdict(self), "kv_cache_bytes_per_token": self.cache.bytes_per_token}
        atomic_write_text(folder / GENERATION_FILE, json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> GenerationSettings:
        """Read `generation.json`.

        Raises:
            IntegrityError: it is missing or malformed.
        """
        try:
            return cls.from_json(read_document(path, max_bytes=MAX_SETTINGS_BYTES))
        except (OSError, ValueError) as error:
            raise IntegrityError(f"`{path}` cannot be read: {error}") from error

    @classmethod
    def from_json(cls, document: Any) -> GenerationSettings:
        """From the contents of `generation.json`; what a newer version adds beside them is left out.

        Raises:
            ValueError: a value is missing, of another type, or outside its range.
        """
        settings, unknown = decode(cls, document)
        foreign = next((path for path in unknown if len(path) > 1), None)
        if foreign is not None:
            raise ValueError(f"it has `{'.'.join(foreign):.60}`, which is not known here")
        return settings
