"""Questions with a right answer, scored by a language model: what `validate --labels` reads for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import DataError, ModelError
from edgeq.pipeline.labelled import LabelledResult, labelled_metric, labelled_result
from edgeq.runtime.generation.generator import bundle_tokenizer
from edgeq.runtime.generation.settings import GENERATION_FILE, GenerationSettings
from edgeq.runtime.perplexity import Logits, negative_log_likelihood
from edgeq.tasks import head_in
from edgeq.tasks.labelled import Question, ignore
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.progress import Progress
    from edgeq.runtime.generation.tokenizer import PromptTokenizer
    from edgeq.tasks import Head
    from edgeq.tasks.labelled import LabelledMetric, Notify

SEPARATOR = " "
"""Between a prompt and a choice."""


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """Questions and what they are scored by.

    Attributes:
        metric: reads and scores.
        samples: the questions.
        gold: index of each right choice.
        tokens: each question's choices behind its prompt.
    """

    metric: LabelledMetric
    samples: tuple[Question, ...]
    gold: Array
    tokens: tuple[tuple[Continuation, ...], ...]

    def predictions(self, logits: Logits, advance: Callable[[int], None] = lambda _: None) -> Array:
        """What a model answers, `[questions]`.

        Args:
            logits: the model.
            advance: told how many questions are done.

        Raises:
            ModelError: some likelihoods are NaN or infinite.
        """
        scores: FloatArray = np.full((len(self.samples), max(map(len, self.tokens))), -np.inf, np.float64)
        for row, (question, tokens) in enumerate(zip(self.samples, self.tokens, strict=True)):
            for column, (choice, found) in enumerate(zip(question.choices, tokens, strict=True)):
                scores[row, column] = found.log_likelihood(logits) / len(choice)
            advance(1)
        bad = sum(
            not np.isfinite(row[: len(found)]).all() for row, found in zip(scores, self.tokens, strict=True)
        )
        if bad:
            raise ModelError(f"likelihoods of {bad} of {len(scores)} questions are NaN or infinite")
        return self.metric.predict(scores)

    def result(self, predictions: Array, original: Array | None, seed: int) -> LabelledResult:
        """The metric, and where there is an original what is lost against it on the same questions."""
        return labelled_result(self.metric, self.gold, predictions, original, seed)


@dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """A choice behind its prompt.

    Attributes:
        ids: of both, `[tokens]`.
        first: index of the choice's first token.
    """

    ids: Array
    first: int

    def log_likelihood(self, logits: Logits) -> float:
        """Of the choice, in nats."""
        found = logits(self.ids[:-1])[self.first - 1 :]
        return -float(negative_log_likelihood(found, self.ids[self.first :]).sum())


def examine(
    bundle: Bundle,
    labels: Path,
    logits: Logits,
    reference: Logits | None,
    seed: int,
    progress: Progress,
) -> LabelledResult:
    """Ask a bundle's model, and the original where there is one, the questions of a file.

    Args:
        bundle: its tokenizer and settings hold.
        labels: the file.
        logits: the bundle's model.
        reference: the original.
        seed: of the bootstrap.
        progress: one stage.

    Raises:
        DataError: see `read_questions`.
        ModelError: likelihoods are NaN or infinite.
    """
    settings = GenerationSettings.load(bundle.file(GENERATION_FILE))
    questions = read_questions(
        labels,
        head_in(bundle.manifest),
        bundle_tokenizer(bundle),
        settings.context_length,
        settings.vocabulary,
        progress.notice,
    )
    models = [model for model in (logits, reference) if model is not None]
    with progress.stage("answering questions", len(models) * len(questions.gold)) as stage:
        found, *original = (questions.predictions(model, stage.advance) for model in models)
    return questions.result(found, original[0] if original else None, seed)


def read_questions(
    path: Path, head: Head, tokenizer: PromptTokenizer, context: int, rows: int, notify: Notify = ignore
) -> Questions:
    """Read questions for a language model.

    Args:
        path: lines by tabs.
        head: the model's.
        tokenizer: of the model.
        context: most tokens that it takes.
        rows: of its embedding table.
        notify: told that a line was taken as a header.

    Raises:
        DataError: a line is of another form, there are too few, or a question is longer than the context.
    """
    metric = labelled_metric(head.entry)
    found, gold = metric.read(path, head.labels, rows, notify)
    questions = tuple(sample for sample in found if isinstance(sample, Question))
    tokens = tuple(
        tuple(_continuation(tokenizer, question.prompt, choice) for choice in question.choices)
        for question in questions
    )
    for question, parts in zip(questions, tokens, strict=True):
        longest = max(len(part.ids) for part in parts)
        if longest > context:
            raise DataError(
                f"{question.prompt[:40]!r} and its choices have {longest} tokens; the model takes {context}"
            )
        for part in parts:
            tokenizer.require_embeddings(part.ids.tolist(), rows, "the questions hold")
    return Questions(metric, questions, gold, tokens)


def _continuation(tokenizer: PromptTokenizer, prompt: str, choice: str) -> Continuation:
    """Tokens of the whole text, divided where the prompt's own tokens end; one token at least is the choice's."""
    ids = np.asarray(tokenizer.encode(prompt + SEPARATOR + choice), np.int64)
    before = len(tokenizer.encode(prompt))
    return Continuation(ids, max(1, min(before, len(ids) - 1)))
