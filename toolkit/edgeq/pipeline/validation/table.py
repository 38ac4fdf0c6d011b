"""The judge of every mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgeq.pipeline.forward.judge import open_forward_judge
from edgeq.pipeline.generation.judge import open_generation_judge
from edgeq.tasks import Mode

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.validation.judge import Judge
    from edgeq.pipeline.validation.request import ValidationRequest
    from edgeq.progress import Progress


class OpenJudge(Protocol):
    """Checks a bundle's golden cases, then reads the texts and loads the original that a request names."""

    def __call__(
        self,
        bundle: Bundle,
        variants: Sequence[Variant],
        cases: Sequence[GoldenCase],
        request: ValidationRequest,
        progress: Progress,
    ) -> Judge[Any]:
        """The judge of the variants that are to be run.

        Raises:
            EdgeqError: the cases, the texts or the original cannot be used.
        """


@dataclass(frozen=True, slots=True)
class Judging:
    """How bundles of one mode are judged.

    Attributes:
        open: their judge.
        can_be_live_alone: whether the original is enough to compare with, without golden cases.
        floors_judge_golden: whether golden cases are held to the floors of a bundle too: they cannot be where those
            were set on far more than a few cases have.
    """

    open: OpenJudge
    can_be_live_alone: bool
    floors_judge_golden: bool


JUDGING: Mapping[Mode, Judging] = {
    Mode.FORWARD: Judging(open_forward_judge, can_be_live_alone=True, floors_judge_golden=True),
    # Steps start from golden caches, and floors were set on thousands of tokens.
    Mode.AUTOREGRESSIVE: Judging(open_generation_judge, can_be_live_alone=False, floors_judge_golden=False),
}
