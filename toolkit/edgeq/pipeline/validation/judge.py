"""What every mode of running models has to offer, so that its bundles can be validated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from edgeq.pipeline.executions import Execution

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Variant
    from edgeq.pipeline.generation.language_report import LanguageReport
    from edgeq.pipeline.labelled_result import LabelledResult
    from edgeq.pipeline.tokenization import TokenizationReport
    from edgeq.pipeline.validation.report import RunBy
    from edgeq.tasks import Head
    from edgeq.types import Feeds, Outputs

ExecutionT = TypeVar("ExecutionT", bound=Execution)


@dataclass(frozen=True, slots=True)
class Compared:
    """A live comparison with the original.

    Attributes:
        metrics: by output.
        source: where the texts come from, for people.
    """

    metrics: Mapping[str, Mapping[str, float]]
    source: str


@dataclass(frozen=True, slots=True)
class Examined:
    """The task's own metric on labelled samples.

    Attributes:
        output: that it is computed from.
        result: with its bounds.
    """

    output: str
    result: LabelledResult


class Judge(Protocol[ExecutionT]):
    """Runs the variants of one bundle; opened with the texts and the original that the user named."""

    @property
    def samples(self) -> int:
        """Samples that `compare` and `examine` run, for a progress bar."""

    @property
    def tokenization(self) -> TokenizationReport | None:
        """The golden texts through the bundle's tokenizer; None where the cases hold no texts."""

    @property
    def language(self) -> LanguageReport | None:
        """What was repeated beside tensors, of all variants that were run so far; None where nothing is recorded."""

    @property
    def run_by(self) -> RunBy | None:
        """The original of a live comparison, where another library may run it; else None."""

    def executions(self, variant: Variant) -> Iterable[ExecutionT]:
        """Every way in which the place that was asked for can run a variant.

        Raises:
            UnsupportedError: this machine cannot offer it.
        """

    def repeats(self, variant: Variant, cases: Sequence[GoldenCase]) -> list[Feeds]:
        """What is run behind a variant's golden cases, because the bundle records more than tensors of it."""

    def repeat(self, variant: Variant, outputs: Sequence[Outputs]) -> None:
        """Add what `repeats` gave to `language`."""

    def compare(self, execution: ExecutionT, head: Head, advance: Callable[[int], None]) -> Compared | None:
        """An execution beside the original on texts; None where the user named no original."""

    def examine(self, execution: ExecutionT, advance: Callable[[int], None]) -> Examined | None:
        """An execution on labelled samples; None where the user named none."""
