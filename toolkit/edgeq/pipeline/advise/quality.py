"""How much a recipe is expected to cost in quality, and how much a user can bear.

Classes are what published comparisons and our own measurements agree on (docs/advise.md has the figures); they do
not replace validation: `edgeq export` measures the real model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from edgeq.errors import UsageError
from edgeq.quantize.formats import Blocks, Float, Float32, Palette, StaticInt8, WeightFormat
from edgeq.quantize.recipes import LayerRef, LayerSpec, mean_bits_per_weight

SMALL_PARAMETERS = 2_000_000_000
"""Below this, models have little redundancy: the same 4 bits cost several times as much perplexity."""
GOOD_BITS = 5.0
"""Mean bits inside transformer layers from which the sensitive ones (values, down projections) have 8."""


class Quality(StrEnum):
    """From best to worst (compare with `rank`)."""

    ORIGINAL = "original"
    NEAR_LOSSLESS = "near-lossless"
    GOOD = "good"
    FAIR = "fair"
    COARSE = "coarse"

    @property
    def rank(self) -> int:
        """0 is best."""
        return list(type(self)).index(self)

    def one_lower(self) -> Quality:
        """The next class down; the last stays."""
        classes = list(type(self))
        return classes[min(self.rank + 1, len(classes) - 1)]


class Tolerance(StrEnum):
    """What a use can bear, from least to most."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def worst(self) -> Quality:
        """The lowest class it accepts."""
        return {
            Tolerance.LOW: Quality.NEAR_LOSSLESS,
            Tolerance.MEDIUM: Quality.GOOD,
            Tolerance.HIGH: Quality.FAIR,
        }[self]

    @property
    def meaning(self) -> str:
        """Uses it stands for."""
        return {
            Tolerance.LOW: "code, arithmetic, several steps of reasoning, near duplicates in search",
            Tolerance.MEDIUM: "chat, summaries, search, classification",
            Tolerance.HIGH: "creative text, suggestions a person looks over",
        }[self]


def parse_tolerance(text: str) -> Tolerance:
    """A tolerance by name.

    Raises:
        UsageError: there is none.
    """
    try:
        return Tolerance(text)
    except ValueError:
        raise UsageError(f"--tolerance got `{text}`, expected {', '.join(Tolerance)}") from None


def expected_quality(
    specs: Mapping[str, LayerSpec], layers: Sequence[LayerRef], parameters: int
) -> tuple[Quality, str]:
    """The class of a recipe resolved for a model, and why."""
    linears = [layer for layer in layers if not layer.role.startswith("embedding") or layer.tied]
    used = [specs[layer.name] for layer in linears]
    storages = [spec.storage for spec in used]
    if storages and all(isinstance(storage, Float32) for storage in storages):
        return Quality.ORIGINAL, "the original's numbers"
    if all(isinstance(storage, Float) for storage in storages):
        return Quality.ORIGINAL, "weights rounded to 11 bits of mantissa"
    if all((storage.bits or 0) >= 8 for storage in storages):
        static = any(isinstance(storage, StaticInt8) for storage in storages)
        return Quality.NEAR_LOSSLESS, "8-bit weights and activations" if static else "8-bit weights"
    # Without the head: a large one in 8 bits would lift any recipe's mean.
    inner = [layer for layer in linears if layer.layer_index is not None] or linears
    return _four_bits(storages, mean_bits_per_weight(dict(specs), inner), parameters)


def _four_bits(storages: Sequence[WeightFormat], bits: float, parameters: int) -> tuple[Quality, str]:
    """Mixes of 4 and 8 bits; small models lose a class."""
    if any(isinstance(storage, Palette) for storage in storages):
        coarse = any(storage.bits == 4 for storage in storages)
        return Quality.COARSE if coarse else Quality.GOOD, f"{bits:.1f} bits, a table for each weight"
    widest = max(
        storage.block_size for storage in storages if isinstance(storage, Blocks) and storage.bits == 4
    )
    if bits >= GOOD_BITS:
        found, reason = Quality.GOOD, f"{bits:.1f} bits, 8 where errors hurt most"
    elif widest <= 32:
        found, reason = Quality.FAIR, f"{bits:.1f} bits in blocks of {widest}"
    else:
        found, reason = Quality.COARSE, f"{bits:.1f} bits in blocks of {widest}"
    if parameters < SMALL_PARAMETERS and found is not Quality.COARSE:
        return found.one_lower(), f"{reason}; a small model loses more"
    return found, reason
