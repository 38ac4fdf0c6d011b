"""The live comparison: a variant beside the original model on texts that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.comparison import Run
from edgeq.errors import DataError, ModelError
from edgeq.metrics import OutputComparison
from edgeq.pipeline.data import EVALUATION_BATCH, for_task
from edgeq.pipeline.labelled import TaskMetric, read_labelled
from edgeq.progress import Progress
from edgeq.types import Feeds, TensorSpec

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.executions import Execution
    from edgeq.pipeline.validation import ValidationRequest
    from edgeq.runtime.text import TextPreprocessor

LIVE_SAMPLES = 128


@dataclass(frozen=True, slots=True)
class Live:
    """The original model and texts to compare on.

    Attributes:
        model: what the user named.
        reference: the original.
        batches: feeds to compare on.
        source: where the texts come from, for people.
        preprocessor: the bundle's, cut to what every variant takes.
        labelled: labelled samples for the task's own metric.
        original_score: the original's.
    """

    model: str
    reference: Run
    batches: tuple[Feeds, ...]
    source: str
    preprocessor: TextPreprocessor
    labelled: TaskMetric | None = None
    original_score: float | None = None

    @property
    def samples(self) -> int:
        """Samples that `compare` runs, for a progress bar."""
        count = sum(len(feeds["input_ids"]) for feeds in self.batches)
        return count + (len(self.labelled.samples) if self.labelled else 0)

    def compare(
        self, execution: Execution, specs: Sequence[TensorSpec], advance: Callable[[int], None]
    ) -> dict[str, dict[str, float]]:
        """Metrics by output, all of them of this execution.

        Raises:
            ModelError: the original's outputs have other shapes.
        """
        comparisons = {spec.name: OutputComparison(spec) for spec in specs}
        for feeds, found in zip(self.batches, execution.outputs(self.batches), strict=True):
            expected = self.reference(feeds)
            for name, comparison in comparisons.items():
                if expected[name].shape != found[name].shape:
                    raise ModelError(
                        f"`{self.model}` returns `{name}` of shape {list(expected[name].shape)}, the bundle "
                        f"{list(found[name].shape)}: it is not the model the bundle was made from",
                        hint="edgeq inspect BUNDLE names the source",
                    )
                comparison.add(expected[name], found[name], feeds.get("attention_mask"))
            advance(len(feeds["input_ids"]))
        metrics = {name: comparison.metrics() for name, comparison in comparisons.items()}
        if self.labelled is not None and self.original_score is not None:
            score = self.labelled.measure(execution.outputs, self.preprocessor, advance)
            metrics[self.labelled.output] |= {
                self.labelled.name: score,
                f"{self.labelled.name}_original": self.original_score,
            }
        return metrics


def open_live(bundle: Bundle, request: ValidationRequest, progress: Progress) -> Live:
    """Read the texts, then load the original, so that bad data cost no time.

    Raises:
        DataError: the bundle has no tokenizer, or the data cannot be used.
        EdgeqError: the original cannot be loaded.
    """
    from edgeq.calibration import load_samples
    from edgeq.exporters import load_model
    from edgeq.quantize.batches import batches_of
    from edgeq.runtime.runtime import load_preprocessor

    source = bundle.manifest.source
    preprocessor = load_preprocessor(bundle)
    if preprocessor is None:
        raise DataError("the bundle has no tokenizer; live comparison needs one")
    labelled = None
    if request.labels is not None:
        labelled = read_labelled(request.labels, source, bundle.variants[0].outputs[0].name)
    data = load_samples(request.data, column=request.data_column, count=LIVE_SAMPLES, seed=request.seed)
    if data.feeds is not None:
        raise DataError(f"`{request.data}` holds tensors, expected texts to compare on")
    judge = preprocessor.with_max_length(_shortest(bundle, preprocessor))
    batches = batches_of(for_task(data.samples, source.task), judge, EVALUATION_BATCH)
    with progress.stage("loading the original"):
        original = load_model(str(request.against), task=str(source.task))
    score = None
    if labelled is not None:
        count = len(labelled.samples)
        with progress.stage(f"the original on {len(labelled.gold)} labelled samples", count) as stage:
            runs = (lambda many: map(original.reference, many)), judge, stage.advance
            score = labelled.measure(*runs)
    return Live(
        model=str(request.against),
        reference=original.reference,
        batches=tuple(feeds for feeds, _ in batches),
        source=f"{len(data.samples)} samples of {data.source}",
        preprocessor=judge,
        labelled=labelled,
        original_score=score,
    )


def _shortest(bundle: Bundle, preprocessor: TextPreprocessor) -> int:
    """Tokens that every variant takes."""
    static = [
        dim
        for variant in bundle.variants
        for spec in variant.inputs
        for dim in spec.shape[1:2]
        if isinstance(dim, int)
    ]
    return min([preprocessor.max_length, *static])
