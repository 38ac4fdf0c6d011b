"""Validation of models that are run once per input, on feeds of any batch and length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.pipeline.executions import Execution, executions
from edgeq.pipeline.forward.against_original import Comparands, open_comparands
from edgeq.pipeline.tokenization import TokenizationReport, replay_tokenization
from edgeq.pipeline.validation.report import RunBy
from edgeq.runtime.runtime import load_preprocessor
from edgeq.tasks import head_in

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.validation.judge import Compared, Examined
    from edgeq.pipeline.validation.request import ValidationRequest
    from edgeq.progress import Progress
    from edgeq.tasks import Head
    from edgeq.types import Feeds, Outputs


def open_forward_judge(
    bundle: Bundle,
    variants: Sequence[Variant],
    cases: Sequence[GoldenCase],
    request: ValidationRequest,
    progress: Progress,
) -> ForwardJudge:
    """Tokenize the golden texts again, read the user's and load the original.

    Raises:
        EdgeqError: the texts or the original cannot be used.
    """
    preprocessor = load_preprocessor(bundle)
    tokenization = None if preprocessor is None else replay_tokenization(preprocessor, cases)
    comparands = open_comparands(bundle, head_in(bundle.manifest, variants[0]), request, progress)
    return ForwardJudge(bundle, request, comparands, tokenization)


@dataclass(frozen=True, slots=True)
class ForwardJudge:
    """One request.

    Attributes:
        bundle: what is validated.
        request: how.
        comparands: what it is compared with besides its golden cases.
        tokenization: of the golden texts.
    """

    bundle: Bundle
    request: ValidationRequest
    comparands: Comparands
    tokenization: TokenizationReport | None

    @property
    def samples(self) -> int:
        """Samples that `compare` and `examine` run."""
        return self.comparands.samples

    @property
    def language(self) -> None:
        """Nothing is recorded beside tensors."""

    @property
    def run_by(self) -> RunBy | None:
        """The original's own library, or edgeq in its place."""
        live = self.comparands.live
        if live is None:
            return None
        return RunBy(live.original.name, live.original.is_library, tuple(live.notices))

    def executions(self, variant: Variant) -> Iterator[Execution]:
        """Every way in which the place can run a variant.

        Raises:
            UnsupportedError: this machine cannot offer it.
        """
        return executions(self.bundle, variant, self.request.on, cpu=self.request.cpu, adb=self.request.adb)

    def repeats(self, variant: Variant, cases: Sequence[GoldenCase]) -> list[Feeds]:
        """Nothing but the golden cases."""
        return []

    def repeat(self, variant: Variant, outputs: Sequence[Outputs]) -> None:
        """Nothing was run besides."""

    def compare(self, execution: Execution, head: Head, advance: Callable[[int], None]) -> Compared | None:
        """An execution beside the original; None where the user named none."""
        live = self.comparands.live
        return None if live is None else live.compare(execution, head, advance)

    def examine(self, execution: Execution, advance: Callable[[int], None]) -> Examined | None:
        """The metric of one execution; None where the user named no labelled samples."""
        examination = self.comparands.examination
        return None if examination is None else examination.examine(execution, advance)
