"""What a lowered decoder is worth: predictions against the original, speed beside float32, memory, golden vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.language_golden import GreedyGolden
from edgeq.errors import ModelError
from edgeq.pipeline.generation.golden import Answering, greedy_golden
from edgeq.pipeline.generation.written_decoder import WholeDecoder, open_written
from edgeq.pipeline.measured import Measured, describe_environment
from edgeq.quantize.segmented.values import ValueStore
from edgeq.runtime.executors import NativeExecutor, native_environment
from edgeq.runtime.generation.footprint import measure_generation_bytes
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.perplexity import Window, compare_scored, scored_logits
from edgeq.runtime.timing import Timing, interleave
from edgeq.samples import Sample, Text
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    from edgeq.exporters.causal_lm import ExportedLanguageModel
    from edgeq.pipeline.generation.data import LanguageData
    from edgeq.progress import Progress
    from edgeq.runtime.generation.settings import GenerationSettings
    from edgeq.targets.target import VariantSpec

FEWEST_PROMPTS, MOST_PROMPTS = 2, 6
GOLDEN_TOKENS = 24
GOLDEN_BYTES = 4 << 20
"""Logits of golden prompts, before compression: where one takes little there are more, whose noise cancels further in
the mean."""
RARE_TOKENS = 8
TIMED_CONTEXT = 64
EXPECTED_BYTES = 64 << 20
"""The original's logits held in memory; the rest lies in a temporary file."""


def measure_language(
    exported: ExportedLanguageModel,
    model: Path,
    fp32: DecoderSession | None,
    spec: VariantSpec,
    data: LanguageData,
    progress: Progress,
    *,
    safe: bool,
) -> Measured:
    """Measure one variant.

    Args:
        exported: the original is run through its `reference`.
        model: the variant's file.
        fp32: the float32 graph; None where it is too large to run, and speed is not compared.
        spec: the CPU the variant is made for, and the level it orders.
        data: held-out windows.
        progress: two stages.
        safe: its integer sums are exact in any kernel.

    Raises:
        ModelError: it returns NaN or infinite values.
    """
    settings = exported.settings
    expected = _run_original(exported, data.windows, progress)
    decoder = open_written(model, settings, spec.level)
    where = native_environment(decoder.level, safe=safe)
    with progress.stage("comparing with the original", len(data.windows)) as stage:
        logits = (values["logits"] for values in expected)
        fidelity = compare_scored(logits, decoder.scored(data.windows), data.windows, stage.advance)
    expected.close()
    if not np.isfinite(list(fidelity.values())).all():
        raise ModelError("the quantized model returns NaN or infinite logits")
    with progress.stage("measuring speed and memory"):
        timing, ram = None, None
        if isinstance(decoder, WholeDecoder):
            timing = None if fp32 is None else _decode_timing(fp32, decoder.session)
            # The next process holds the model too.
            del decoder
            ram = measure_generation_bytes(model, settings.cache, settings.context_length, spec.level)
    return Measured(
        {"logits": fidelity},
        None,
        timing,
        ram,
        NativeExecutor(spec.architecture).verification,
        environment=describe_environment(where),
    )


def _run_original(
    exported: ExportedLanguageModel, windows: Sequence[Window], progress: Progress
) -> ValueStore:
    """The original's logits, before anything else is loaded: the two are not in memory together."""
    found = ValueStore(EXPECTED_BYTES)
    with progress.stage("running the original", len(windows)) as stage:
        for logits in scored_logits(lambda ids: exported.reference(ids[None])[0], windows):
            found.append({"logits": logits})
            stage.advance()
    exported.rest()
    return found


def _decode_timing(fp32: DecoderSession, session: DecoderSession) -> Timing:
    """One token after a short text, against float32 in the same rounds."""
    contenders = {"fp32": _step(fp32), "variant": _step(session)}
    return interleave(contenders, baseline="fp32", rounds=21, budget_s=4.0)["variant"]


def _step(session: DecoderSession) -> Callable[[], object]:
    tokens = min(TIMED_CONTEXT, session.context_length - 1)
    state = session.start(tokens + 1)
    session.prefill(state, [1] * tokens)
    past = dict(state.past)

    def run() -> None:
        # Every round decodes the same position.
        state.length, state.past = tokens, dict(past)
        session.feed(state, [1])

    return run


def language_golden(
    exported: ExportedLanguageModel, spec: VariantSpec, model: Path, data: LanguageData
) -> list[GoldenCase]:
    """Golden vectors: a prompt from an empty cache, and the step after it from the cache the variant left.

    The reference of the step is the original run over prompt and token together.
    """
    settings = exported.settings
    limit = min(GOLDEN_TOKENS, settings.context_length - 1)
    prompts = golden_prompts(data, limit, settings.vocabulary)
    # The decoder is not in memory together with the original.
    answers = open_written(model, settings, spec.level).answers([ids for ids, _ in prompts])
    cases = []
    for index, (answer, (_, text)) in enumerate(zip(answers, prompts, strict=True)):
        ids, token = answer.prompt, answer.token
        reference = exported.reference(np.concatenate([ids, token])[None])
        cases += [
            GoldenCase(
                f"prefill-{index:02d}",
                text,
                _feeds(ids, 0) | answer.empty,
                {"logits": reference[:, :-1]},
                {spec.id: {"logits": answer.logits[None]}},
            ),
            GoldenCase(
                f"decode-{index:02d}",
                (),
                _feeds(token, len(ids)) | answer.past,
                {"logits": reference[:, -1:]},
                {spec.id: {"logits": answer.step[None]}},
            ),
        ]
    exported.rest()
    return cases


def golden_prompts(
    data: LanguageData, limit: int, vocabulary: int
) -> list[tuple[tuple[int, ...], tuple[Sample, ...]]]:
    """Token ids and their sample: the longest whole texts within the limit, else starts of texts, without a text.

    Behind them tokens from all over the vocabulary to the very last: texts reach few rows of the tables.
    """
    pairs = sorted(
        zip(data.prompts, data.prompt_texts, strict=True), key=lambda item: (-len(item[0]), item[1])
    )
    whole = [(ids, (Text(text),) if text else ()) for ids, text in pairs if 2 <= len(ids) <= limit]
    cut: list[tuple[tuple[int, ...], tuple[Sample, ...]]] = [
        (ids[:limit], ()) for ids, _ in pairs if len(ids) > limit
    ]
    size = 2 * np.dtype(np.float32).itemsize * vocabulary * limit  # the original's and the variant's
    prompts = max(FEWEST_PROMPTS, min(MOST_PROMPTS, GOLDEN_BYTES // size))
    rare = np.linspace(0, vocabulary - 1, min(RARE_TOKENS, limit)).astype(int)
    return [*[*whole, *cut][:prompts], (tuple(int(token) for token in rare), ())]


def _feeds(ids: Array, past: int) -> dict[str, Array]:
    return {INPUT_IDS: ids[None], ATTENTION_MASK: np.ones((1, past + len(ids)), np.int64)}


def graph_answers(
    spec: VariantSpec, model: Path, settings: GenerationSettings, tokenizer_json: str, noise: float
) -> GreedyGolden:
    """The answers of a written graph; none of one that is run some nodes at a time.

    Args:
        spec: its id, and the level it orders.
        model: its file.
        settings: of the model.
        tokenizer_json: its tokenizer.
        noise: the most that a logit may be off.
    """
    decoder = open_written(model, settings, spec.level)
    if not isinstance(decoder, WholeDecoder):
        reason = "the file is run some nodes at a time, and every token would take a pass over it"
        return GreedyGolden(spec.id, 0.0, reason)
    session = decoder.session

    def start(capacity: int) -> Callable[[Sequence[int]], FloatArray]:
        state = session.start(capacity)
        return lambda tokens: session.prefill(state, tokens)

    return greedy_golden(tokenizer_json, settings, Answering(spec.id, start, session.logits, noise))
