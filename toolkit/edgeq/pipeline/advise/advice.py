"""What is asked of `edgeq advise`, and what it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgeq.families.model_shape import ModelShape
from edgeq.pipeline.advise.memory import Footprint
from edgeq.pipeline.advise.quality import Quality, Tolerance
from edgeq.targets import get_target

DEFAULT_SHARE = 0.5
"""Part of a device's memory that one app may plan with. Systems end the app that takes much more."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked.

    Attributes:
        model: a local folder or a Hub id.
        ram_bytes: the device's memory.
        target: a name of `edgeq.targets`.
        tolerance: of the use.
        context: tokens; the model's own limit up to 512 (encoders) or 4096 (language models) when left out.
        share: part of the memory that the app may use.
        revision: on the Hub.
    """

    model: str
    ram_bytes: int
    target: str = "cpu"
    tolerance: Tolerance = Tolerance.MEDIUM
    context: int | None = None
    share: float = DEFAULT_SHARE
    revision: str | None = None

    @property
    def measured_elsewhere(self) -> bool:
        """The target runs models with a runtime of its own, and the costs are those of ONNX Runtime."""
        return bool(get_target(self.target).own_runtimes)

    @property
    def budget_bytes(self) -> int:
        """What the app may use."""
        return int(self.ram_bytes * self.share)


@dataclass(frozen=True, slots=True)
class Option:
    """One recipe.

    Attributes:
        recipe: its name.
        bits: mean stored bits per weight of all matrices.
        footprint: memory and file.
        download_bytes: the file and the tokenizer.
        quality: class expected.
        reason: for that class.
        fits: whether it stays within the budget.
        tolerated: whether the class is within the tolerance.
        refusal: why the target or the model cannot have it; None where it can.
    """

    recipe: str
    bits: float
    footprint: Footprint
    download_bytes: int
    quality: Quality
    reason: str
    fits: bool
    tolerated: bool
    refusal: str | None

    @property
    def is_possible(self) -> bool:
        """Whether it can be made and run there."""
        return self.fits and self.refusal is None


@dataclass(frozen=True, slots=True)
class Advice:
    """The answer.

    Attributes:
        request: the question.
        shape: of the model.
        tokens: that memory is planned for.
        roles: parameters by role.
        options: every recipe, from most to fewest bits.
        recommended: the recipe to take; None when nothing fits.
        why: in one sentence.
        seq_len: that the export has to be given, because the model's own context is not taken; else None.
        is_refused: export refuses the model, whatever the recipe.
        not_weighed: recipes that the target takes too, whose formats have no measured costs.
    """

    request: Request
    shape: ModelShape
    tokens: int
    roles: dict[str, int]
    options: tuple[Option, ...]
    recommended: str | None
    why: str
    seq_len: int | None = None
    is_refused: bool = False
    not_weighed: tuple[str, ...] = ()

    @property
    def is_computed(self) -> bool:
        """Whether memory follows from sizes alone: the target's own runtime was not measured."""
        return get_target(self.request.target).made_from == "checkpoint"

    def to_json(self) -> dict[str, Any]:
        """The document of `edgeq advise --json`."""
        return {
            "model": self.request.model,
            "architecture": self.shape.architecture,
            "parameters": self.shape.parameters,
            "roles": self.roles,
            "target": self.request.target,
            "tolerance": self.request.tolerance.value,
            "context": self.tokens,
            "ram_bytes": self.request.ram_bytes,
            "share": self.request.share,
            "budget_bytes": self.request.budget_bytes,
            "recipes": [_option_json(option) for option in self.options],
            "not_weighed": list(self.not_weighed),
            "recommendation": {"recipe": self.recommended, "reason": self.why},
        }


def _option_json(option: Option) -> dict[str, Any]:
    footprint = option.footprint
    return {
        "recipe": option.recipe,
        "bits_per_weight": round(option.bits, 3),
        "download_bytes": option.download_bytes,
        "ram_bytes": footprint.ram,
        "parts": asdict(footprint),
        "fits": option.fits,
        "quality": option.quality.value,
        "reason": option.reason,
        "tolerated": option.tolerated,
        "refusal": option.refusal,
    }
