"""Validation of language models: golden steps and recorded answers, and predictions on text beside the original."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np

from edgeq.bundle.decoder_cases import check_decoder_case
from edgeq.errors import UnsupportedError
from edgeq.onnx_runtime import ordered_level
from edgeq.pipeline.executions import Execution
from edgeq.pipeline.generation.against_original import LiveText, open_live
from edgeq.pipeline.generation.file_runs import Run, executed_run, simulated_run
from edgeq.pipeline.generation.labels import Questions, read_questions
from edgeq.pipeline.generation.language_report import LanguageReport
from edgeq.pipeline.generation.replay import (
    answer_sequences,
    language_golden_of,
    replay_answers,
    replay_language,
)
from edgeq.pipeline.sessions import ONNX_RUNTIME, variant_spec
from edgeq.pipeline.tokenization import TokenizationReport, replay_prompts
from edgeq.pipeline.validation.judge import Compared, Examined
from edgeq.runtime.executors import architecture_of, environment_of, level_of, open_executor
from edgeq.runtime.generation.generator import bundle_tokenizer
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.settings import GENERATION_FILE, GenerationSettings
from edgeq.targets import get_target
from edgeq.tasks import head_in
from edgeq.tasks.tokens import Tokens
from edgeq.types import Array, Feeds, Outputs, Role

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.language_golden import LanguageGolden
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.validation.request import ValidationRequest
    from edgeq.processors.prompts import PromptTokenizer
    from edgeq.progress import Progress
    from edgeq.runtime.executors import Place
    from edgeq.runtime.perplexity import Logits
    from edgeq.targets.target import CheckpointTarget
    from edgeq.tasks import Head


@dataclass(frozen=True, slots=True)
class SequenceExecution(Execution):
    """How one variant is executed on steps and on whole sequences.

    Attributes:
        open_logits: what predicts the tokens of a sequence; opened when it is needed.
    """

    open_logits: Callable[[], Logits] = field(kw_only=True)


def open_generation_judge(
    bundle: Bundle,
    variants: Sequence[Variant],
    cases: Sequence[GoldenCase],
    request: ValidationRequest,
    progress: Progress,
) -> GenerationJudge:
    """Repeat everything that needs no run of the model, read the user's texts and load the original.

    Raises:
        IntegrityError: a golden case is no step that a variant could take, or the record cannot be read.
        EdgeqError: the original or the data cannot be used.
    """
    for variant in variants:
        for case in cases:
            if variant.id in case.outputs:
                check_decoder_case(case, variant)
    language = replay_language(bundle, variants)
    settings, tokenizer = GenerationSettings.load(bundle.file(GENERATION_FILE)), bundle_tokenizer(bundle)
    tokenization = replay_prompts(tokenizer, cases)
    questions = _questions(bundle, settings, tokenizer, request, progress)
    live = open_live(variants, settings, tokenizer, request, progress)
    answers = _answers(live, questions, progress)
    golden = language_golden_of(bundle)
    return GenerationJudge(
        bundle, request, settings, golden, tokenization, live, language, questions, answers
    )


def _questions(
    bundle: Bundle,
    settings: GenerationSettings,
    tokenizer: PromptTokenizer,
    request: ValidationRequest,
    progress: Progress,
) -> Questions | None:
    if request.labels is None:
        return None
    limits = settings.context_length, settings.vocabulary
    return read_questions(request.labels, head_in(bundle.manifest), tokenizer, *limits, progress.notice)


def _answers(live: LiveText | None, questions: Questions | None, progress: Progress) -> Array | None:
    """The original's; None where there is no original, or nothing is asked."""
    if live is None or questions is None:
        return None
    count = len(questions.gold)
    with progress.stage(f"the original on {count} questions", count) as stage:
        return questions.predictions(live.reference, stage.advance)


@dataclass(slots=True)
class GenerationJudge:
    """One request.

    Attributes:
        bundle: what is validated.
        request: how.
        settings: of the bundle.
        golden: the recorded answers are in it; None in bundles of older versions.
        tokenization: of the golden prompts.
        live: the original and text; None where the user named none.
        language: what was repeated; the answers of each variant are added.
        questions: that the user named; None for none.
        answers: the original's; None where there is no original, or nothing is asked.
    """

    bundle: Bundle
    request: ValidationRequest
    settings: GenerationSettings
    golden: LanguageGolden | None
    tokenization: TokenizationReport | None
    live: LiveText | None
    language: LanguageReport
    questions: Questions | None = None
    answers: Array | None = None

    @property
    def samples(self) -> int:
        """What `compare` and `examine` run."""
        texts = 0 if self.live is None else self.live.samples
        return texts + (0 if self.questions is None else len(self.questions.gold))

    @property
    def run_by(self) -> None:
        """The original of a language model is always run by edgeq."""

    def executions(self, variant: Variant) -> Iterator[SequenceExecution]:
        """The one way in which the place can run a variant.

        Raises:
            UnsupportedError: this machine cannot offer it.
        """
        yield self._graph(variant) if variant.runtime == ONNX_RUNTIME else self._file(variant)

    def _graph(self, variant: Variant) -> SequenceExecution:
        request, model = self.request, self.bundle.model_path(variant)
        executor = open_executor(
            cast("Place", request.on),
            cpu=request.cpu,
            target_arch=architecture_of(variant),
            adb=request.adb,
        )
        level = ordered_level(variant.requirements)

        def open_logits() -> Logits:
            return DecoderSession(
                model, self.settings.cache, self.settings.context_length, level=level
            ).logits

        return SequenceExecution(
            request.on,
            level_of(executor, variant),
            environment_of(executor, variant),
            lambda batches: executor.run(model, batches, level),
            sys.maxsize,  # Golden steps are few, and every run loads the model.
            open_logits=open_logits,
        )

    def _file(self, variant: Variant) -> SequenceExecution:
        """A variant that its target's runtime runs, or, where that is not installed, the original with its weights."""
        model = self.bundle.model_path(variant)
        target = cast("CheckpointTarget", get_target(self.bundle.manifest.target))
        run: Run | None = executed_run(target, variant_spec(variant), model)
        if run is None and self.live is not None and self.live.original is not None:
            run = simulated_run(target, model, self.live.original)
        if run is None:
            raise UnsupportedError(
                f"`{variant.id}` runs on {variant.runtime}, which is not installed here",
                hint="pip install 'edgeq[llama]', or --against MODEL, which simulates it",
            )
        logits, output = run.logits, self._output(variant)
        return SequenceExecution(
            self.request.on,
            run.verification,
            run.where,
            lambda batches: [{output: logits(_ids(feeds))[None]} for feeds in batches],
            open_logits=lambda: logits,
        )

    def _output(self, variant: Variant) -> str:
        """The name of a variant's logits."""
        return head_in(self.bundle.manifest, variant).outputs[0].name

    def repeats(self, variant: Variant, cases: Sequence[GoldenCase]) -> list[Feeds]:
        """The recorded answers of a variant, each as one sequence."""
        return [_from_empty(variant, cases[0], ids) for ids in answer_sequences(self.golden, variant)]

    def repeat(self, variant: Variant, outputs: Sequence[Outputs]) -> None:
        """Add what became of the answers."""
        output = self._output(variant)
        rows = [found[output][0] for found in outputs]
        self.language = replay_answers(self.language, self.golden, variant, rows)

    def compare(
        self, execution: SequenceExecution, head: Head, advance: Callable[[int], None]
    ) -> Compared | None:
        """Predictions beside the original's; None where the user named none."""
        if self.live is None:
            return None
        metrics, source = self.live.compare(execution.open_logits(), advance)
        return Compared({head.outputs[0].name: metrics}, source)

    def examine(self, execution: SequenceExecution, advance: Callable[[int], None]) -> Examined | None:
        """Questions answered by one execution; None where the user named none."""
        if self.questions is None:
            return None
        found = self.questions.predictions(execution.open_logits(), advance)
        result = self.questions.result(found, self.answers, self.request.seed)
        return Examined(head_in(self.bundle.manifest).outputs[0].name, result)


def _ids(feeds: Feeds) -> Array:
    """Token ids of one sequence, `[tokens]`."""
    ids = Tokens.of_feeds(feeds).ids
    assert ids is not None, "a step of a decoder has token ids"
    row: Array = ids[0]
    return row


def _from_empty(variant: Variant, case: GoldenCase, ids: Sequence[int]) -> Feeds:
    """Feeds of a sequence from an empty cache, which a golden case has the shape of."""
    sequence = np.asarray([ids], np.int64)
    filled = {Role.TOKEN_IDS: sequence, Role.ATTENTION_MASK: np.ones_like(sequence)}
    empty = {name: array[:, :, :0] for name, array in case.feeds.items() if array.ndim == 4}
    return {spec.name: filled[spec.role] for spec in variant.inputs if spec.role in filled} | empty
