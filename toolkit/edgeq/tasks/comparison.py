"""Comparisons of all outputs of a model with another's, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from edgeq.metrics import row_blocks
from edgeq.tasks.compared import Metrics, TaskComparison
from edgeq.tasks.entry import Head
from edgeq.tasks.measures import Measure, Spans
from edgeq.tasks.tokens import Tokens
from edgeq.types import Array, Outputs, Role, TensorSpec


class Rows:
    """Every output by itself: rows are samples, or tokens that are not padding.

    Args:
        head: names the outputs and the metrics that are kept.
        measure: makes what accumulates the head's own metrics; None for vectors.
    """

    def __init__(self, head: Head, measure: Callable[[], Measure] | None = None) -> None:
        self.head = head
        self.general = {comparison.spec.name: comparison for comparison in head.compare_each()}
        self.own = {} if measure is None else {spec.name: measure() for spec in head.outputs}

    @property
    def rows(self) -> int:
        """Rows of the first output."""
        return len(next(iter(self.general.values())).cosine)

    def add(self, expected: Outputs, found: Outputs, tokens: Tokens) -> None:
        """Compare one batch."""
        for spec in self.head.outputs:
            self.add_output(spec, expected[spec.name], found[spec.name], tokens.mask_of(spec))

    def add_output(self, spec: TensorSpec, expected: Array, found: Array, mask: Array | None) -> None:
        """Compare one batch of one output at the positions of a mask."""
        self.general[spec.name].add(expected, found, mask)
        if spec.name in self.own:
            for a, b in row_blocks(spec, expected, found, mask):
                if len(a):
                    self.own[spec.name].add(a, b)

    def metrics(self) -> Metrics:
        """Those the entry names."""
        wanted = ("n", *self.head.entry.metrics)
        result: Metrics = {}
        for name, comparison in self.general.items():
            found = comparison.metrics()
            if name in self.own:
                found |= self.own[name].metrics()
            result[name] = {metric: found[metric] for metric in wanted if metric in found}
        return result

    def cosines(self) -> dict[str, list[float]]:
        """Where they mean something."""
        if not self.head.entry.has_cosine:
            return {}
        return {name: comparison.cosine for name, comparison in self.general.items()}

    def relative_errors(self) -> dict[str, float]:
        """Of every output, whether or not its entry names them."""
        return {
            name: comparison.metrics()["relative_error_mean"] for name, comparison in self.general.items()
        }


class AnswerSpans(Rows):
    """Start and end logits by themselves, and the answers that both give together."""

    def __init__(self, head: Head, measure: Callable[[], Measure]) -> None:
        super().__init__(head, measure)
        names = {spec.role: spec.name for spec in head.outputs}
        self.start, self.end = names[Role.START_LOGITS], names[Role.END_LOGITS]
        self.spans = Spans()

    def add(self, expected: Outputs, found: Outputs, tokens: Tokens) -> None:
        """Compare one batch."""
        super().add(expected, found, tokens)
        pairs = [(outputs[self.start], outputs[self.end]) for outputs in (expected, found)]
        self.spans.add(pairs[0], pairs[1], tokens.mask)

    def metrics(self) -> Metrics:
        """The answers' metrics stand with both outputs, for either can change them."""
        answers = self.spans.metrics()
        return {name: metrics | answers for name, metrics in super().metrics().items()}


class AtMasks:
    """Words at the mask token where any text has one, else at every token.

    What a fill-mask model says of a token that is not masked is the token itself: easy, and not what it is used for.
    """

    def __init__(self, head: Head, measure: Callable[[], Measure]) -> None:
        self.head = head
        self.masked, self.everywhere = Rows(head, measure), Rows(head, measure)

    def add(self, expected: Outputs, found: Outputs, tokens: Tokens) -> None:
        """Compare one batch."""
        for spec in self.head.outputs:
            at_masks = self._masks(spec, tokens)
            if at_masks is not None and at_masks.any():
                self.masked.add_output(spec, expected[spec.name], found[spec.name], at_masks)
            elif not self.masked.rows:
                self.everywhere.add_output(spec, expected[spec.name], found[spec.name], tokens.mask_of(spec))

    def _masks(self, spec: TensorSpec, tokens: Tokens) -> Array | None:
        ids = tokens.ids_of(spec)
        if ids is None or self.head.mask_id is None:
            return None
        at_masks: Array = (ids == self.head.mask_id).astype(np.int64)
        return at_masks

    def metrics(self) -> Metrics:
        """Of the masks where there are any."""
        return self._judged.metrics()

    def cosines(self) -> dict[str, list[float]]:
        """Of the masks where there are any."""
        return self._judged.cosines()

    def relative_errors(self) -> dict[str, float]:
        """Of the masks where there are any."""
        return self._judged.relative_errors()

    @property
    def _judged(self) -> Rows:
        return self.masked if self.masked.rows else self.everywhere


def compare_all(comparison: TaskComparison, batches: Iterable[tuple[Outputs, Outputs, Tokens]]) -> Metrics:
    """The metrics of some batches of expected and found outputs."""
    for expected, found, tokens in batches:
        comparison.add(expected, found, tokens)
    return comparison.metrics()
