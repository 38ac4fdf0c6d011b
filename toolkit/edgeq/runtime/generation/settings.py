"""What generating with a language model needs beside its graph and tokenizer: `generation.json` of a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeq.errors import IntegrityError
from edgeq.files import atomic_write_text

GENERATION_FILE = "generation.json"


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

    layers: int
    heads: int
    size: int
    shares_buffer: bool = False
    bytes_per_value: int = 4

    @property
    def bytes_per_token(self) -> int:
        """Bytes one more token costs."""
        return 2 * self.layers * self.heads * self.size * self.bytes_per_value


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """The model's own `generation_config.json`; what it leaves out is neutral."""

    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0


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

    context_length: int
    vocabulary: int
    stop_ids: tuple[int, ...]
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
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"`{path}` cannot be read: {type(error).__name__}: {error}") from error

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> GenerationSettings:
        """From the contents of `generation.json`."""
        return cls(
            context_length=int(document["context_length"]),
            vocabulary=int(document["vocabulary"]),
            bos_token=document.get("bos_token"),
            eos_token=document.get("eos_token"),
            chat_template=document.get("chat_template"),
            stop_ids=tuple(int(token) for token in document["stop_ids"]),
            cache=CacheShape(**document["cache"]),
            sampling=SamplingDefaults(**document["sampling"]),
        )
