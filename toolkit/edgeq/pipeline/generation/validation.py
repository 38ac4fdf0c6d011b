"""`edgeq validate` for language models: golden vectors, and predictions on text against the live original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from edgeq.bundle.decoder_cases import check_decoder_case
from edgeq.bundle.manifest import Gate
from edgeq.comparison import judge
from edgeq.errors import IntegrityError, ModelError, UnsupportedError
from edgeq.onnx_runtime import ordered_level
from edgeq.pipeline.drift import Drift, case_drifts, not_finite, worst
from edgeq.pipeline.generation.data import judged_windows, texts_of
from edgeq.pipeline.generation.labels import examine
from edgeq.pipeline.generation.replay import (
    LanguageReport,
    answer_sequences,
    language_golden_of,
    replay_answers,
    replay_language,
)
from edgeq.pipeline.kernel_noise import golden_metrics, is_golden, kept_of
from edgeq.pipeline.sessions import ONNX_RUNTIME, variant_spec
from edgeq.pipeline.tokenization import replay_prompts
from edgeq.pipeline.validation import (
    LIVE_SAMPLES,
    ValidationReport,
    ValidationRequest,
    VariantReport,
    case_gates,
    judge_stored,
    labelled_gates,
    together,
)
from edgeq.runtime.executors import architecture_of, environment_of, open_executor
from edgeq.runtime.generation.generator import bundle_tokenizer
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.settings import GENERATION_FILE, GenerationSettings
from edgeq.runtime.perplexity import Logits, agreement_length, compare_on, greedy
from edgeq.targets import get_target
from edgeq.tasks import LABELLED_METRICS, head_in
from edgeq.types import Array, Feeds, FloatArray, Outputs, Verification

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.language_golden import LanguageGolden
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.generation.file_runs import Run
    from edgeq.pipeline.labelled import LabelledResult
    from edgeq.progress import Progress
    from edgeq.runtime.executors import Place
    from edgeq.targets.base import CheckpointTarget

GREEDY_PROMPTS = 4
GREEDY_TOKENS = 32


def validate_language_model(
    bundle: Bundle,
    variants: Sequence[Variant],
    skipped: Mapping[str, str],
    cases: Sequence[GoldenCase],
    request: ValidationRequest,
    progress: Progress,
) -> ValidationReport:
    """Replay the golden prefill and decode steps where asked, and compare predictions live with `--against`.

    Raises:
        IntegrityError: a golden case is no step that a variant could take.
        EdgeqError: the original or the data cannot be used, or the lane is not set up.
    """
    for variant in variants:
        for case in cases:
            if variant.id in case.outputs:
                check_decoder_case(case, variant)
    language = replay_language(bundle, variants)
    tokenization = replay_prompts(bundle_tokenizer(bundle), cases)
    run = _Validation(bundle, request, progress, language_golden_of(bundle), language)
    reports = []
    not_run = dict(skipped)
    for variant in variants:
        with progress.stage(f"validating {variant.id} on {request.on}", len(cases)) as stage:
            try:
                reports.append(run.of(variant, [case for case in cases if variant.id in case.outputs]))
            except UnsupportedError as error:
                if not run.language.differences:
                    raise
                # What is wrong beside the model is a verdict of its own.
                not_run[variant.id] = str(error)
            stage.advance(len(cases))
    return ValidationReport(tuple(reports), not_run, tokenization, run.language)


@dataclass(slots=True)
class _Validation:
    """One request.

    Attributes:
        bundle: what is validated.
        request: how.
        progress: where stages go.
        golden: the recorded answers are in it; None in bundles of older versions.
        language: what was repeated; the answers of each variant are added.
    """

    bundle: Bundle
    request: ValidationRequest
    progress: Progress
    golden: LanguageGolden | None
    language: LanguageReport

    def of(self, variant: Variant, cases: Sequence[GoldenCase]) -> VariantReport:
        """One variant."""
        if not cases:
            raise IntegrityError(f"no golden case holds outputs of `{variant.id}`")
        return self._graph(variant, cases) if variant.runtime == ONNX_RUNTIME else self._file(variant, cases)

    def _graph(self, variant: Variant, cases: Sequence[GoldenCase]) -> VariantReport:
        request, model = self.request, self.bundle.model_path(variant)
        executor = open_executor(
            cast("Place", request.on), cpu=request.cpu, target_arch=architecture_of(variant)
        )
        level = ordered_level(variant.requirements)
        feeds = [case.feeds for case in cases]
        answers = [_from_empty(cases[0], ids) for ids in answer_sequences(self.golden, variant)]
        outputs = executor.run(model, [*feeds, *answers], level)
        self._replay(variant, [found["logits"][0] for found in outputs[len(cases) :]])
        live, labelled = None, None
        if request.against is not None or request.labels is not None:
            settings = GenerationSettings.load(self.bundle.file(GENERATION_FILE))
            session = DecoderSession(model, settings.cache, settings.context_length, level=level)
            reference = self._original()
            if reference is not None:
                live = _live(self.bundle, session.logits, reference, request, self.progress)
            labelled = self._labelled(session.logits, reference)
        where = (executor.verification, environment_of(executor, variant))
        return _report(self.bundle, variant, cases, outputs[: len(cases)], live, labelled, request, *where)

    def _original(self) -> Logits | None:
        from edgeq.exporters.causal_lm import load_original

        if self.request.against is None:
            return None
        with self.progress.stage("loading the original"):
            return _one_by_one(load_original(str(self.request.against)))

    def _labelled(self, logits: Logits, reference: Logits | None) -> LabelledResult | None:
        """What the questions say that were given; None where none were."""
        if self.request.labels is None:
            return None
        return examine(self.bundle, self.request.labels, logits, reference, self.request.seed, self.progress)

    def _file(self, variant: Variant, cases: Sequence[GoldenCase]) -> VariantReport:
        """A variant that its target's runtime runs, or, where that is not installed, the original with its weights."""
        from edgeq.exporters.causal_lm import open_original
        from edgeq.pipeline.generation.file_runs import executed_run, simulated_run

        request, model = self.request, self.bundle.model_path(variant)
        target = cast("CheckpointTarget", get_target(self.bundle.manifest.target))
        run: Run | None = executed_run(target, variant_spec(variant), model)
        live, reference = None, None
        if request.against is not None:
            original = open_original(str(request.against))
            run = run or simulated_run(target, model, original)
            reference = _one_by_one(original.reference)
            live = _live(self.bundle, run.logits, reference, request, self.progress)
        if run is None:
            raise UnsupportedError(
                f"`{variant.id}` runs on {variant.runtime}, which is not installed here",
                hint="pip install 'edgeq[llama]', or --against MODEL, which simulates it",
            )
        sequences = answer_sequences(self.golden, variant)
        self._replay(variant, [run.logits(np.asarray(ids, np.int64)) for ids in sequences])
        labelled = self._labelled(run.logits, reference)
        outputs = [{"logits": run.logits(case.feeds["input_ids"][0])[None]} for case in cases]
        where = (run.verification, run.where)
        return _report(self.bundle, variant, cases, outputs, live, labelled, request, *where)

    def _replay(self, variant: Variant, rows: Sequence[FloatArray]) -> None:
        self.language = replay_answers(self.language, self.golden, variant, rows)


def _one_by_one(reference: Callable[[Array], FloatArray]) -> Logits:
    """An original that takes batches, asked for one sequence."""
    return lambda ids: reference(ids[None])[0]


def _from_empty(case: GoldenCase, ids: Sequence[int]) -> Feeds:
    """Feeds of a sequence from an empty cache, which a golden case has the shape of."""
    sequence = np.asarray([ids], np.int64)
    empty = {name: array[:, :, :0] for name, array in case.feeds.items() if array.ndim == 4}
    return {"input_ids": sequence, "attention_mask": np.ones_like(sequence)} | empty


def _report(
    bundle: Bundle,
    variant: Variant,
    cases: Sequence[GoldenCase],
    outputs: Sequence[Outputs],
    live: tuple[dict[str, float], str] | None,
    labelled: LabelledResult | None,
    request: ValidationRequest,
    verification: Verification,
    environment: Mapping[str, str],
) -> VariantReport:
    head = head_in(bundle.manifest, variant)
    specs = head.outputs
    recorded = [case.outputs[variant.id] for case in cases]
    drifts = case_drifts(specs, cases, recorded, outputs)
    found = [kept_of(case, specs, output) for case, output in zip(cases, outputs, strict=True)]
    golden = golden_metrics(head, cases, found)
    metrics, source = live or (golden["logits"], f"{len(cases)} golden cases")
    gates = [
        *not_finite(variant.id, drifts),
        *case_gates(bundle, variant, cases, drifts),
        *_judged(bundle, variant, request, golden, metrics, drifts),
    ]
    notices: tuple[str, ...] = ()
    if labelled is not None:
        metrics = {**metrics, **labelled.metrics()}
        gates += labelled_gates(bundle, variant, "logits", labelled)
        if labelled.undecided is not None:
            notices = (f"{variant.id}: {labelled.undecided}; what running text shows judges",)
    return VariantReport(
        variant.id,
        verification,
        environment,
        {"logits": metrics},
        {"logits": worst(drifts["logits"])},
        tuple(gates),
        source,
        golden_metrics(head, cases, recorded),
        labelled,
        notices,
    )


def _live(
    bundle: Bundle, logits: Logits, reference: Logits, request: ValidationRequest, progress: Progress
) -> tuple[dict[str, float], str]:
    """Metrics against the original on text, and how that was done."""
    from edgeq.calibration import load_samples

    settings = GenerationSettings.load(bundle.file(GENERATION_FILE))
    tokenizer = bundle_tokenizer(bundle)
    data = load_samples(request.data, column=request.data_column, count=LIVE_SAMPLES, seed=request.seed)
    texts = texts_of(data.samples)
    windows = judged_windows(tokenizer, texts, settings.context_length, settings.vocabulary)
    _require_same_vocabulary(reference, settings.vocabulary, request)
    with progress.stage("comparing predictions", len(windows)) as stage:
        found = compare_on(reference, logits, windows, stage.advance)
    lengths = []
    with progress.stage("comparing greedy answers", GREEDY_PROMPTS) as stage:
        for text in texts[:GREEDY_PROMPTS]:
            ids = tokenizer.encode(text)[: min(16, settings.context_length // 2)]
            tokens = min(GREEDY_TOKENS, settings.context_length - len(ids))
            lengths.append(
                agreement_length(
                    greedy(reference, ids, tokens, settings.stop_ids),
                    greedy(logits, ids, tokens, settings.stop_ids),
                )
            )
            stage.advance()
    length = len(windows[0].ids)
    found["greedy_agreement_mean"] = float(np.mean(lengths))
    return found, (
        f"{int(found['n'])} tokens of {data.source}, windows of {length} tokens every {max(1, length // 2)}, "
        f"greedy answers of {GREEDY_TOKENS} tokens to {len(lengths)} prompts"
    )


def _require_same_vocabulary(reference: Logits, size: int, request: ValidationRequest) -> None:
    found = reference(np.zeros(1, np.int64)).shape[-1]
    if found != size:
        raise ModelError(
            f"`{request.against}` predicts one of {found} tokens, the bundle one of {size}: it is another model",
            hint="--against takes the model the bundle was made from (edgeq inspect names it)",
        )


def _judged(
    bundle: Bundle,
    variant: Variant,
    request: ValidationRequest,
    golden: Mapping[str, Mapping[str, float]],
    found: Mapping[str, float],
    drifts: Mapping[str, Sequence[Drift]],
) -> list[Gate]:
    """Bounds on all golden cases together; then the user's gates, or those stored in the bundle on live text.

    The stored floors were set on thousands of tokens: the few of the golden cases cannot be held to them.
    """
    stored = [
        gate
        for gate in bundle.manifest.gates
        if gate.variant == variant.id and gate.metric not in LABELLED_METRICS
    ]
    all_cases = together(golden, drifts)
    gates = [judge_stored(gate, all_cases) for gate in stored if is_golden(gate)]
    if request.gates:
        asked = [
            Gate(variant.id, "logits", gate.metric, gate.op, gate.threshold, "--gate")
            for gate in request.gates
        ]
        return gates + [judge(gate, found) for gate in asked]
    if request.against is None:
        return gates
    return gates + [judge_stored(gate, {"logits": found}) for gate in stored if not is_golden(gate)]
