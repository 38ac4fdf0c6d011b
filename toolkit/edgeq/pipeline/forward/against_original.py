"""The live comparison: a variant beside the original model on texts that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration import load_samples
from edgeq.errors import DataError, ModelError
from edgeq.exporters.original import open_original
from edgeq.graph.component import SEQUENCE
from edgeq.pipeline.forward.data import EVALUATION_BATCH
from edgeq.pipeline.labelled import Labelled, read_labelled
from edgeq.pipeline.validation.judge import Compared, Examined
from edgeq.pipeline.validation.request import LIVE_SAMPLES
from edgeq.progress import Progress
from edgeq.quantize.batches import batches_of
from edgeq.runtime.runtime import load_preprocessor
from edgeq.samples import Sample
from edgeq.tasks.tokens import Tokens
from edgeq.types import Array, Feeds, Outputs, TensorSpec

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.exporters.library import TextReference
    from edgeq.pipeline.executions import Execution
    from edgeq.pipeline.validation.request import ValidationRequest
    from edgeq.processors.text import TextPreprocessor
    from edgeq.tasks import Head, TaskEntry


@dataclass(frozen=True, slots=True)
class Live:
    """The original model and texts to compare on.

    Attributes:
        model: what the user named.
        original: the original, from text.
        max_length: tokens that the bundle cuts a text to.
        batches: texts to compare on, with what the bundle's tokenizer makes of them.
        source: where the texts come from, for people.
    """

    model: str
    original: TextReference
    max_length: int
    batches: tuple[tuple[tuple[Sample, ...], Feeds], ...]
    source: str

    @property
    def samples(self) -> int:
        """Samples that `compare` runs, for a progress bar."""
        return sum(len(texts) for texts, _ in self.batches)

    @property
    def notices(self) -> Iterator[str]:
        """What the numbers alone do not say, for people."""
        yield from self.original.notices
        theirs = self.original.max_length
        if theirs is not None and theirs < self.max_length:
            yield f"the original cuts texts to {theirs} tokens, the bundle to {self.max_length}: longer texts differ"

    def compare(self, execution: Execution, head: Head, advance: Callable[[int], None]) -> Compared:
        """An execution beside the original.

        Raises:
            ModelError: the original's outputs have other shapes.
        """
        comparison = head.compare()
        outputs = execution.outputs([feeds for _, feeds in self.batches])
        for (texts, feeds), found in zip(self.batches, outputs, strict=True):
            expected = self._expected(head.outputs, texts, feeds, found)
            comparison.add(expected, found, Tokens.of_feeds(feeds))
            advance(len(texts))
        return Compared(comparison.metrics(), self.source)

    def _expected(
        self, specs: Sequence[TensorSpec], samples: Sequence[Sample], feeds: Feeds, found: Outputs
    ) -> Outputs:
        """The original's outputs of a batch, in the shapes of the bundle's; nothing where there is padding."""
        rows = self.original.run(samples)
        mask = Tokens.of_feeds(feeds).mask
        assert mask is not None, "a tokenizer's feeds have a mask"
        used = mask.sum(axis=1)
        expected = {}
        for spec in specs:
            whole = np.zeros(found[spec.name].shape, np.float32)
            for index, (sample, row) in enumerate(zip(samples, rows, strict=True)):
                # Per token, the bundle's row has padding behind the text's own tokens.
                place = (
                    whole[index, : used[index]]
                    if len(spec.shape) > 1 and spec.shape[1] == SEQUENCE
                    else whole[index]
                )
                self._require_shape(spec, sample, row[spec.name][0], place)
                place[...] = row[spec.name][0]
            expected[spec.name] = whole
        return expected

    def _require_shape(self, spec: TensorSpec, sample: Sample, theirs: Array, ours: Array) -> None:
        if theirs.shape != ours.shape:
            raise ModelError(
                f"`{self.model}` returns `{spec.name}` of shape {list(theirs.shape)} for {sample.to_json()!r:.40}, the "
                f"bundle {list(ours.shape)}: it is not the model the bundle was made from, or it reads texts otherwise",
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

    def examine(self, execution: Execution, advance: Callable[[int], None]) -> Examined:
        """The metric of one execution."""
        answers = self.labelled.predictions(execution.outputs, self.preprocessor, advance)
        return Examined(self.labelled.output, self.labelled.result(answers, self.original, self.seed))


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
    if request.against is None and request.labels is None:
        return Comparands()
    preprocessor = load_preprocessor(bundle)
    if preprocessor is None:
        raise DataError("the bundle has no tokenizer; texts need one")
    judge = preprocessor.fit(_shortest(bundle, preprocessor))
    labelled = None if request.labels is None else read_labelled(request.labels, head, progress.notice)
    if request.against is None:
        assert labelled is not None
        return Comparands(examination=Examination(labelled, judge, None, request.seed))
    batches, source = _batches(request, head.entry, labelled, judge)
    with progress.stage("loading the original") as loading:
        original = open_original(str(request.against), bundle.manifest.source.task, judge.max_length)
        loading.note = original.name
    live = Live(str(request.against), original, judge.max_length, batches, source)
    if labelled is None:
        return Comparands(live)
    count = len(labelled.samples)
    with progress.stage(f"the original on {len(labelled.gold)} labelled samples", count) as stage:
        answers = labelled.answers(original.run_one, stage.advance)
    return Comparands(live, Examination(labelled, judge, answers, request.seed))


def _batches(
    request: ValidationRequest, entry: TaskEntry, labelled: Labelled | None, judge: TextPreprocessor
) -> tuple[tuple[tuple[tuple[Sample, ...], Feeds], ...], str]:
    """Texts to compare outputs on: the user's, else the labelled ones, else the built-in ones."""
    samples: tuple[Sample, ...]
    if labelled is not None and request.data is None:
        samples, source = labelled.samples[:LIVE_SAMPLES], str(request.labels)
    else:
        data = load_samples(request.data, column=request.data_column, count=LIVE_SAMPLES, seed=request.seed)
        if data.feeds is not None:
            raise DataError(f"`{request.data}` holds tensors, expected texts to compare on")
        samples, source = entry.arrange(data.samples, judge), data.source
    batches = batches_of(samples, judge, EVALUATION_BATCH)
    ordered = iter(batches.sample(position) for position in range(len(samples)))
    paired = tuple((tuple(islice(ordered, count)), feeds) for feeds, count in batches)
    return paired, f"{len(samples)} samples of {source}"


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
