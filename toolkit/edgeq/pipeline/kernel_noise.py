"""How far outputs of one file may lie apart on machines that all compute it correctly: measured, not assumed.

Every variant runs its golden cases again as its twins compute them (`Session.twins`): other thread counts and
optimization levels, float values off by their last bit in front of each quantizer, which moves some codes by one, and
the ARM64 kernels where their lane is set up. The largest distance, with a margin, is what a golden case tolerates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.manifest import Gate
from edgeq.errors import ModelError
from edgeq.metrics import LOWER_IS_BETTER, largest
from edgeq.pipeline.drift import COSINE, MAX_ABS, MEAN, RMS, Drift, case_drifts, worst
from edgeq.pipeline.golden_metrics import GOLDEN, golden_metrics, kept_of
from edgeq.types import Array, Outputs, TensorSpec

if TYPE_CHECKING:
    from edgeq.progress import Stage
    from edgeq.targets.target import HasTwins
    from edgeq.tasks import Head

SEEDS = 4
"""Draws of last bits; of an output of few channels, whose extremes are less steady, twice as many."""
MARGIN = 2.0
"""Of extremes: other seeds and machines find larger ones than these runs did (benchmarks/false_alarms.py)."""
QUALITY_MARGIN = 3.0
"""Of one number: the largest of four normal draws, doubled, is exceeded by one in 25 of others, three times as large by
one in 100."""
RMS_MARGIN, STEADY_VALUES = 1.3, 256
"""Of the root mean square, where so many values make it steadier than their extremes; of fewer it has their margin."""
STEADY = 0.1
"""A draw that moves a case by less than this share of what another does has moved hardly any code."""
LOUDER = (16, 64)
"""Times a last bit: in a small model a last bit moves a code now and then only, and what one code does is not seen."""
FLOAT32_FLOOR = 1e-5
"""Share of the output scale that float32 sums in another order may differ by; x86-64 and ARM64 differ by 3e-7."""


@dataclass(frozen=True, slots=True)
class CaseNoise:
    """The largest distance of one output in one golden case from what is recorded.

    Attributes:
        max_abs: of one value.
        cosine_loss: 1 - cosine of a row.
        is_steady: every draw of last bits moved it; where some moved nothing, others may move it further than these.
        step: between neighbouring values of the output's type at the largest recorded one, if that is float16.
    """

    max_abs: float
    cosine_loss: float
    is_steady: bool = True
    step: float = 0.0


@dataclass(frozen=True, slots=True)
class Noise:
    """The distance between the outputs of a variant and of its twins, of one output.

    Attributes:
        cases: by case id.
        rms: over all cases of one twin, relative; the largest.
        mean: length of the mean difference over all cases of one twin, relative; the largest.
        scale: largest recorded value.
        has_cosine: rows have more than one value.
        quality: metrics against the original over the golden cases, as recorded and as each twin has them.
        sources: kinds of twins that were run.
        kept: metrics of `quality` that the golden cases are held to.
        values: how many are recorded, over all cases.
        channels: how many of them a row has.
    """

    cases: Mapping[str, CaseNoise]
    rms: float
    mean: float
    scale: float
    has_cosine: bool
    quality: Sequence[Mapping[str, float]]
    sources: tuple[str, ...]
    kept: tuple[str, ...]
    values: int
    channels: int

    def tolerances(self, variant: str, output: str, case_id: str) -> list[Gate]:
        """Bounds on one golden case: how far another machine may be from what is recorded.

        A case in which some draws happened to move nothing is given the noise of the median steady case at least, and
        where few cases are steady, that of the largest.
        """
        own = self.cases[case_id]
        moved = max(own.step, self._noise_of(own, lambda case: case.max_abs))
        bound = MARGIN * moved + FLOAT32_FLOOR * self.scale
        found = [Gate(variant, output, MAX_ABS, "<=", four_digits(bound), self._source(moved, MARGIN))]
        if self.has_cosine:
            lost = self._noise_of(own, lambda case: case.cosine_loss)
            # It grows with the square of the distance.
            lowest = round(1 - MARGIN**2 * lost - FLOAT32_FLOOR, 7)
            found.append(Gate(variant, output, COSINE, ">=", lowest, self._source(lost, MARGIN**2)))
        return found

    def _noise_of(self, own: CaseNoise, value_of: Callable[[CaseNoise], float]) -> float:
        if own.is_steady:
            return value_of(own)
        steady = sorted(value_of(case) for case in self.cases.values() if case.is_steady)
        if 2 * len(steady) < len(self.cases):
            return largest(value_of(case) for case in self.cases.values())
        return max(value_of(own), steady[len(steady) // 2])

    def gates(self, variant: str, output: str) -> list[Gate]:
        """Bounds on all golden cases together: on the distance from what is recorded, and from the original."""
        return [
            self._distance(variant, output, RMS, self.rms, self.values),
            self._distance(variant, output, MEAN, self.mean, self.channels),
            *(self._kept(variant, output, metric) for metric in self.kept if metric in self.quality[0]),
        ]

    def _distance(self, variant: str, output: str, metric: str, noise: float, values: int) -> Gate:
        margin = RMS_MARGIN if values >= STEADY_VALUES else MARGIN
        bound = four_digits(margin * noise + FLOAT32_FLOOR)
        # What is recorded is at no distance from itself.
        return Gate(variant, output, metric, "<=", bound, self._source(noise, margin), 0.0, True)

    def _kept(self, variant: str, output: str, metric: str) -> Gate:
        recorded = self.quality[0][metric]
        spread = largest(abs(twin[metric] - recorded) for twin in self.quality)
        away = QUALITY_MARGIN * spread + FLOAT32_FLOOR
        op, bound = ("<=", recorded + away) if metric in LOWER_IS_BETTER else (">=", recorded - away)
        source = (
            f"measured {recorded:.6g} on the golden cases, "
            f"{spread:.2g} of it kernel noise, times {QUALITY_MARGIN:g}"
        )
        return Gate(variant, output, f"{GOLDEN}{metric}", op, round(bound, 7), source, recorded, True)

    def _source(self, value: float, margin: float) -> str:
        return f"kernel noise {value:.3g} ({', '.join(self.sources)}), times {margin:g}"


def float16_step(values: Array) -> float:
    """The distance to the next float16 at the largest of some values, if all of them are float16; else 0."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.array_equal(rounded, values):
        return 0.0
    return float(np.spacing(abs(rounded).max(initial=0)))


def four_digits(value: float) -> float:
    """A bound as people read it."""
    return float(f"{value:.4g}")


def measure_noise(
    session: HasTwins, variant: str, head: Head, cases: Sequence[GoldenCase], stage: Stage
) -> dict[str, Noise]:
    """The noise of one variant, by output.

    Args:
        session: the variant as it was recorded.
        variant: its id.
        head: its outputs, and what they are held to.
        cases: golden cases with its outputs.
        stage: moved by one for each twin.

    Raises:
        ModelError: an output is NaN or infinite.
    """
    mine = [case for case in cases if variant in case.outputs]
    recorded = [case.outputs[variant] for case in mine]
    runs = _Runs(head, mine, recorded)
    channels = max(outputs[spec.name].shape[-1] for spec in head.outputs for outputs in recorded)
    seeds = SEEDS if channels >= STEADY_VALUES else 2 * SEEDS
    for twin in session.twins(seeds):
        runs.add(twin.kind, twin.run([case.feeds for case in mine[: twin.most_cases]]))
        stage.advance()
    for last_bits in LOUDER:
        if runs.are_mostly_steady:
            break
        for twin in session.louder_twins(seeds, last_bits):
            runs.add(twin.kind, twin.run([case.feeds for case in mine]))
            stage.advance()
    found = {spec.name: runs.noise(spec) for spec in head.outputs}
    for output, noise in found.items():
        if math.isnan(noise.rms):
            raise ModelError(
                f"variant `{variant}` returns NaN or infinite values in `{output}` on golden samples"
            )
    return found


class _Runs:
    """What the twins of one variant made of its golden cases."""

    def __init__(self, head: Head, cases: Sequence[GoldenCase], recorded: Sequence[Outputs]) -> None:
        self.head, self.specs, self.cases, self.recorded = head, head.outputs, cases, recorded
        self.drifts: dict[str, list[list[Drift]]] = {spec.name: [] for spec in head.outputs}
        self.quality = [golden_metrics(head, cases, recorded)]
        self.sources: list[str] = []

    def add(self, kind: str, outputs: Sequence[Outputs]) -> None:
        """Outputs of one twin, of the first cases or of all."""
        some = self.cases[: len(outputs)]
        for name, drifts in case_drifts(self.specs, some, self.recorded[: len(some)], outputs).items():
            self.drifts[name].append(drifts)
        if len(some) == len(self.cases):
            kept = [kept_of(case, self.specs, found) for case, found in zip(some, outputs, strict=True)]
            self.quality.append(golden_metrics(self.head, some, kept))
        self.sources.append(kind)

    @property
    def are_mostly_steady(self) -> bool:
        """Whether the draws moved most cases of every output each time."""
        return all(
            2 * sum(self._is_steady(spec, index) for index in range(len(self.cases))) >= len(self.cases)
            for spec in self.specs
        )

    def _is_steady(self, spec: TensorSpec, index: int) -> bool:
        """Whether no draw, of the loudest, moved a case much less than another did."""
        draws = [kind for kind in self.sources if "last bits" in kind]
        twins = zip(self.sources, self.drifts[spec.name], strict=True)
        loudest = [drifts for kind, drifts in twins if draws and kind == draws[-1]]
        moved = [drifts[index].max_abs for drifts in loudest if index < len(drifts)]
        return bool(moved) and min(moved) > STEADY * max(moved)

    def noise(self, spec: TensorSpec) -> Noise:
        """Of one output."""
        twins = self.drifts[spec.name]
        together = [worst(twin) for twin in twins]
        # Of a few cases a mean is no smaller than one of them.
        of_all = [whole for whole, twin in zip(together, twins, strict=True) if len(twin) == len(self.cases)]
        by_case = [
            worst([twin[index] for twin in twins if index < len(twin)]) for index in range(len(self.cases))
        ]
        return Noise(
            cases={
                case.id: CaseNoise(
                    item.max_abs,
                    1 - item.cosine,
                    self._is_steady(spec, index),
                    float16_step(outputs[spec.name]),
                )
                for index, (case, item, outputs) in enumerate(
                    zip(self.cases, by_case, self.recorded, strict=True)
                )
            },
            rms=largest([0.0, *(whole.rms for whole in together)]),
            mean=largest([0.0, *(whole.mean for whole in of_all)]),
            scale=largest(abs(outputs[spec.name]).max(initial=0.0) for outputs in self.recorded),
            has_cosine=any(outputs[spec.name].shape[-1] > 1 for outputs in self.recorded),
            quality=[found[spec.name] for found in self.quality],
            sources=tuple(_counted(self.sources)),
            kept=self.head.entry.kept,
            values=sum(outputs[spec.name].size for outputs in self.recorded),
            channels=max((whole.shift.size for whole in together), default=1),
        )


def noise_gates(noise: Mapping[str, Mapping[str, Noise]]) -> list[Gate]:
    """The gates on all golden cases together, of every variant and output."""
    return [
        gate
        for variant, by_output in noise.items()
        for output, item in by_output.items()
        for gate in item.gates(variant, output)
    ]


def case_tolerances(case: GoldenCase, noise: Mapping[str, Mapping[str, Noise]]) -> list[Gate]:
    """The tolerances of one golden case, of every variant that it holds, by output."""
    return [
        gate
        for variant in case.outputs
        for output, item in noise[variant].items()
        for gate in item.tolerances(variant, output, case.id)
    ]


def _counted(sources: Sequence[str]) -> list[str]:
    """`4 draws of last bits`, in the order of the first of each kind."""
    counts: Mapping[str, int] = {kind: sources.count(kind) for kind in dict.fromkeys(sources)}
    return [kind if count == 1 else f"{count} {kind}" for kind, count in counts.items()]
