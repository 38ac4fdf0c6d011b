"""The live comparison: a variant beside the original model on texts that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.comparison import Run
from edgeq.errors import DataError, ModelError
from edgeq.pipeline.data import EVALUATION_BATCH, for_task
from edgeq.pipeline.labelled import Labelled, LabelledResult, read_labelled
from edgeq.progress import Progress
from edgeq.tasks.tokens import Tokens
from edgeq.types import Array, Feeds, Outputs, Sample, Task, TensorSpec

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.executions import Execution
    from edgeq.pipeline.validation import ValidationRequest
    from edgeq.runtime.text import TextPreprocessor
    from edgeq.tasks import Head

LIVE_SAMPLES = 128


@dataclass(frozen=True, slots=True)
class Live:
    """The original model and texts to compare on.

    Attributes:
        model: what the user named.
        reference: the original.
        batches: feeds to compare on.
        source: where the texts come from, for people.
    """

    model: str
    reference: Run
    batches: tuple[Feeds, ...]
    source: str

    @property
    def samples(self) -> int:
        """Samples that `compare` runs, for a progress bar."""
        return sum(len(feeds["input_ids"]) for feeds in self.batches)

    def compare(
        self, execution: Execution, head: Head, advance: Callable[[int], None]
    ) -> dict[str, dict[str, float]]:
        """Metrics by output, all of them of this execution.

        Raises:
            ModelError: the original's outputs have other shapes.
        """
        comparison = head.compare()
        for feeds, found in zip(self.batches, execution.outputs(self.batches), strict=True):
            expected = self.reference(feeds)
            for spec in head.outputs:
                self._require_shape(spec, expected, found)
            comparison.add(expected, found, Tokens.of_feeds(feeds))
            advance(len(feeds["input_ids"]))
        return comparison.metrics()

    def _require_shape(self, spec: TensorSpec, expected: Outputs, found: Outputs) -> None:
        if expected[spec.name].shape != found[spec.name].shape:
            raise ModelError(
                f"`{self.model}` returns `{spec.name}` of shape {list(expected[spec.name].shape)}, the bundle "
                f"{list(found[spec.name].shape)}: it is not the model the bundle was made from",
                hint="edgeq inspect BUNDLE names the source",
            )


@dataclass(frozen=True, slots=True)
class Examination:
    """Labelled samples that every variant answers.

    Attributes:
        labelled: the samples.
        preprocessor: the bundle's, cut to what every variant takes.
        original: the original's answers; None where no original was named.
        seed: of the bootstrap.
    """

    labelled: Labelled
    preprocessor: TextPreprocessor
    original: Array | None
    seed: int

    @property
    def samples(self) -> int:
        """Samples that `examine` runs, for a progress bar."""
        return len(self.labelled.samples)

    def examine(self, execution: Execution, advance: Callable[[int], None]) -> LabelledResult:
        """The metric of one execution."""
        answers = self.labelled.predictions(execution.outputs, self.preprocessor, advance)
        return self.labelled.result(answers, self.original, self.seed)


@dataclass(frozen=True, slots=True)
class Comparands:
    """What a bundle is validated with besides its golden cases; None where the user named nothing."""

    live: Live | None = None
    examination: Examination | None = None

    @property
    def samples(self) -> int:
        """Samples of both."""
        return sum(part.samples for part in (self.live, self.examination) if part is not None)


def open_comparands(bundle: Bundle, head: Head, request: ValidationRequest, progress: Progress) -> Comparands:
    """Read the texts, then load the original, so that bad data cost no time.

    Raises:
        DataError: the bundle has no tokenizer, or the data cannot be used.
        EdgeqError: the original cannot be loaded.
    """
    from edgeq.exporters import load_model
    from edgeq.runtime.runtime import load_preprocessor

    if request.against is None and request.labels is None:
        return Comparands()
    preprocessor = load_preprocessor(bundle)
    if preprocessor is None:
        raise DataError("the bundle has no tokenizer; texts need one")
    judge = preprocessor.with_max_length(_shortest(bundle, preprocessor))
    labelled = None if request.labels is None else read_labelled(request.labels, head)
    if request.against is None:
        assert labelled is not None
        return Comparands(examination=Examination(labelled, judge, None, request.seed))
    batches, source = _batches(request, bundle.manifest.source.task, labelled, judge)
    with progress.stage("loading the original"):
        original = load_model(str(request.against), task=str(bundle.manifest.source.task)).reference
    live = Live(str(request.against), original, batches, source)
    if labelled is None:
        return Comparands(live)
    count = len(labelled.samples)
    with progress.stage(f"the original on {len(labelled.gold)} labelled samples", count) as stage:
        answers = labelled.predictions(lambda many: map(original, many), judge, stage.advance)
    return Comparands(live, Examination(labelled, judge, answers, request.seed))


def _batches(
    request: ValidationRequest, task: Task, labelled: Labelled | None, judge: TextPreprocessor
) -> tuple[tuple[Feeds, ...], str]:
    """Texts to compare outputs on: the user's, else the labelled ones, else the built-in ones."""
    from edgeq.calibration import load_samples
    from edgeq.quantize.batches import batches_of

    samples: tuple[Sample, ...]
    if labelled is not None and request.data is None:
        samples, source = labelled.samples[:LIVE_SAMPLES], str(request.labels)
    else:
        data = load_samples(request.data, column=request.data_column, count=LIVE_SAMPLES, seed=request.seed)
        if data.feeds is not None:
            raise DataError(f"`{request.data}` holds tensors, expected texts to compare on")
        samples, source = for_task(data.samples, task, judge), data.source
    batches = tuple(feeds for feeds, _ in batches_of(samples, judge, EVALUATION_BATCH))
    return batches, f"{len(samples)} samples of {source}"


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
