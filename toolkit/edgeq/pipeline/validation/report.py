"""The verdict of `edgeq validate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Gate
    from edgeq.pipeline.drift import Drift
    from edgeq.pipeline.generation.language_report import LanguageReport
    from edgeq.pipeline.labelled_result import LabelledResult
    from edgeq.pipeline.tokenization import TokenizationReport
    from edgeq.types import Verification


@dataclass(frozen=True, slots=True)
class VariantReport:
    """One variant's verdict.

    Attributes:
        id: of the variant.
        verification: how real the execution was.
        environment: where.
        outputs: metrics by output against the original, over the golden cases or, with `against`, live.
        drift: per output, how far all golden cases together are from the outputs recorded in the bundle; empty where it
            has none.
        gates: with their values.
        recorded: the same metrics of the outputs that the export recorded on its own machine, over the golden cases.
        labelled: the task's own metric, where labelled samples were given.
        notices: what the verdict alone does not say.
    """

    id: str
    verification: Verification
    environment: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, float]]
    drift: Mapping[str, Drift]
    gates: tuple[Gate, ...]
    source: str
    recorded: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    labelled: LabelledResult | None = None
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `validate --json` prints it."""
        return {
            "id": self.id,
            "verification": str(self.verification),
            "environment": dict(self.environment),
            "compared_on": self.source,
            "outputs": [
                {
                    "name": name,
                    "metrics": dict(metrics),
                    "recorded": dict(self.recorded.get(name, {})),
                    "max_abs_from_recorded": self.drift[name].max_abs if name in self.drift else None,
                    "rms_from_recorded": self.drift[name].rms if name in self.drift else None,
                }
                for name, metrics in self.outputs.items()
            ],
            "gates": [
                {
                    "output": gate.output,
                    "metric": gate.metric,
                    "op": gate.op,
                    "threshold": gate.threshold,
                    "value": gate.value,
                    "passed": gate.passed,
                    "derived_from": gate.derived_from,
                }
                for gate in self.gates
            ],
            "labelled": None if self.labelled is None else self.labelled.to_json(),
            "notices": list(self.notices),
        }


@dataclass(frozen=True, slots=True)
class RunBy:
    """What ran the original of a live comparison.

    Attributes:
        name: the library and its entry point, for people.
        is_library: whether the original's own library read the texts; otherwise edgeq's reading of its files did, and
            what it overlooks is overlooked on both sides.
        notices: what the name alone does not say.
    """

    name: str
    is_library: bool
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The verdict over all variants."""

    variants: tuple[VariantReport, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Variants that were not run, and why."""
    tokenization: TokenizationReport | None = None
    """The golden texts through the bundle's tokenizer; None where the cases hold no texts."""
    language: LanguageReport | None = None
    """Of a language model: texts, chats, settings and answers repeated."""
    run_by: RunBy | None = None
    """The original of a live comparison of single outputs; None without one."""

    def title(self, variant: VariantReport) -> str:
        """A variant's name; with its provider where it was run in several ways."""
        ways = sum(other.id == variant.id for other in self.variants)
        return variant.id if ways == 1 else f"{variant.id}, {variant.environment['provider']}"

    @property
    def failures(self) -> list[str]:
        """Everything that does not hold, a few words each."""
        failed = [
            f"{self.title(variant)} {gate.output} {gate.metric}"
            for variant in self.variants
            for gate in variant.gates
            if not gate.passed
        ]
        if self.tokenization is not None:
            failed += [f"token ids of {case}" for case in self.tokenization.different]
        return failed if self.language is None else failed + self.language.failures

    @property
    def passed(self) -> bool:
        """Whether something was run, the texts gave the recorded token ids, and every gate held."""
        return bool(self.variants) and not self.failures

    def to_json(self) -> dict[str, Any]:
        """As `validate --json` prints it."""
        return {
            "passed": self.passed,
            "variants": [variant.to_json() for variant in self.variants],
            "skipped": dict(self.skipped),
            "tokenization": None
            if self.tokenization is None
            else {"cases": self.tokenization.cases, "different": list(self.tokenization.different)},
            "language": None if self.language is None else self.language.to_json(),
            "original": None
            if self.run_by is None
            else {"run_by": self.run_by.name, "by_its_own_library": self.run_by.is_library},
        }
