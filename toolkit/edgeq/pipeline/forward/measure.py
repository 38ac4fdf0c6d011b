"""What a lowered variant is worth: fidelity on held-out samples, latency beside float32, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.bundle.golden import GoldenCase, is_per_token_vector
from edgeq.comparison import Run, batch_invariance, compare_outputs
from edgeq.errors import ModelError
from edgeq.pipeline.forward.against_onnx import OnnxProbe
from edgeq.pipeline.forward.data import DataSets
from edgeq.pipeline.golden_metrics import kept_of
from edgeq.pipeline.measured import INVARIANCE_SAMPLES, Measured, describe_environment
from edgeq.processors.text_padding import full_batch
from edgeq.progress import Progress
from edgeq.runtime.footprint import measure_ram_bytes
from edgeq.runtime.session import Signature, VariantSession
from edgeq.runtime.timing import Timing, interleave
from edgeq.tasks.tokens import Tokens
from edgeq.types import ONNX_RUNTIME, Array, Feeds, Role, Verification

if TYPE_CHECKING:
    from edgeq.graph.component import Component
    from edgeq.pipeline.forward.against_onnx import OnnxVariant
    from edgeq.targets.target import Lowered, Session, Target, VariantSpec
    from edgeq.tasks import Head

ORIGINAL_FP32 = "fp32"
BENCH_TOKENS = 128
RAM_PROBES = 3
GOLDEN_VALUES = 1 << 19
"""Values of one output that a golden case records, 2 MB; of more, those of some tokens."""

_NOWHERE = np.zeros(0, np.int64)


def open_session(target: Target, spec: VariantSpec, lowered: Lowered, pad_id: int) -> Session:
    """A session over a written variant."""
    signature = Signature(lowered.inputs, lowered.outputs)
    return target.open(spec, lowered.model, signature, pad_id=pad_id)


def measure_variants(
    canonical: Component,
    head: Head,
    fp32_model: Path,
    reference: Run,
    written: Mapping[str, tuple[VariantSpec, Lowered]],
    sessions: Mapping[str, Session],
    data: DataSets,
    progress: Progress,
    peer: OnnxVariant | None = None,
) -> dict[str, Measured]:
    """Measure every variant of a bundle, side by side; those that are not ONNX also against `peer` of the same plan."""
    with progress.stage("comparing with the original", data.held_out_samples) as stage:
        probes = {
            name: OnnxProbe(sessions[name], peer, canonical.outputs)
            for name, (spec, _) in written.items()
            if peer is not None and spec.runtime != ONNX_RUNTIME
        }
        runs: dict[str, Run] = {name: probes.get(name, session.run) for name, session in sessions.items()}
        compared = compare_outputs(reference, runs, data.held_out, head, stage.advance)
        fidelity = {name: comparison.metrics() for name, comparison in compared.items()}
        _require_finite(fidelity)
    timings, ram = _speed_and_memory(canonical, fp32_model, written, sessions, data, progress)
    return {
        name: Measured(
            fidelity[name],
            _invariance(head, session, data),
            timings.get(name),
            ram.get(name),
            session.verification,
            compared[name].relative_errors(),
            compared[name].cosines(),
            describe_environment(session.environment),
            probes[name].parities() if name in probes else {},
        )
        for name, session in sessions.items()
    }


def _speed_and_memory(
    canonical: Component,
    fp32_model: Path,
    written: Mapping[str, tuple[VariantSpec, Lowered]],
    sessions: Mapping[str, Session],
    data: DataSets,
    progress: Progress,
) -> tuple[dict[str, Timing], dict[str, int]]:
    """Latency of what is timed, and RSS of what ONNX Runtime runs."""
    timed = {name: session for name, session in sessions.items() if is_timed(session)}
    measurable = {name: lowered for name, (spec, lowered) in written.items() if spec.runtime == ONNX_RUNTIME}
    if not timed and not measurable:
        return {}, {}
    timings: dict[str, Timing] = {}
    tokens = min(BENCH_TOKENS, canonical.max_length)
    with progress.stage("measuring latency and memory", 1 + len(measurable)) as stage:
        if timed:
            baseline = VariantSession(fp32_model, canonical, spin=False, exact=False)
            shipped: dict[str, Session | VariantSession] = {
                name: _shipped(*written[name]) if name in measurable else session
                for name, session in timed.items()
            }
            timings = _timings(baseline, shipped, data, canonical.max_length)
        stage.advance()
        ram = {}
        for name, lowered in measurable.items():
            level = written[name][0].level
            ram[name] = measure_ram_bytes(
                lowered.model, lowered.inputs, tokens=tokens, probes=RAM_PROBES, level=level
            )
            stage.advance()
    return timings, ram


def _shipped(spec: VariantSpec, lowered: Lowered) -> VariantSession:
    """A session with the kernels that an app gets."""
    signature = Signature(lowered.inputs, lowered.outputs)
    return VariantSession(lowered.model, signature, spin=False, level=spec.level, exact=False)


def is_timed(session: Session) -> bool:
    """Whether its latency means anything: an interpreter's is its own, not the model's."""
    return session.verification.rank > Verification.SIMULATED.rank


def _require_finite(fidelity: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    for variant, outputs in fidelity.items():
        for output, metrics in outputs.items():
            if not np.isfinite(list(metrics.values())).all():
                raise ModelError(f"variant `{variant}` returns NaN or infinite values in `{output}`")


def _timings(
    fp32: VariantSession, sessions: Mapping[str, Session | VariantSession], data: DataSets, max_length: int
) -> dict[str, Timing]:
    static = [length for session in sessions.values() if (length := session.static_length) is not None]
    feeds = full_batch(data.held_out[-1], min(BENCH_TOKENS, max_length, *static))
    contenders = {ORIGINAL_FP32: lambda: fp32.run(feeds)}
    for name, session in sessions.items():
        contenders[name] = lambda session=session: session.run(feeds)  # type: ignore[misc]
    return interleave(contenders, baseline=ORIGINAL_FP32, rounds=21, budget_s=6.0)


def _invariance(head: Head, session: Session, data: DataSets) -> float | None:
    output = next(
        (
            spec
            for spec in head.outputs
            if len(spec.shape) == 2 and spec.role not in (Role.START_LOGITS, Role.END_LOGITS)
        ),
        None,
    )
    free = head.entry.has_cosine and session.static_length is None
    if output is None or data.padding is None or not free:
        return None
    batch = {name: array[:INVARIANCE_SAMPLES] for name, array in data.held_out[-1].items()}
    return batch_invariance(session.run, batch, output.name, data.padding)


def golden_cases(
    reference: Run, sessions: Mapping[str, Session], head: Head, data: DataSets
) -> list[GoldenCase]:
    """Golden samples through the original and every variant that takes their length."""
    specs = head.outputs
    cases = []
    for sample in data.golden:
        takes = {name: session for name, session in sessions.items() if takes_length(session, sample.feeds)}
        if not takes:
            continue
        case = GoldenCase(sample.id, sample.samples, sample.feeds, {}, {}, _positions(head, sample.feeds))
        recorded = {name: kept_of(case, specs, session.run(case.feeds)) for name, session in takes.items()}
        expected = kept_of(case, specs, reference(case.feeds))
        cases.append(replace(case, reference=expected, outputs=recorded))
    return cases


def takes_length(session: Session, feeds: Feeds) -> bool:
    """Whether a variant's static sequence, if it has one, holds these feeds."""
    longest = max((array.shape[1] for array in feeds.values() if array.ndim > 1), default=1)
    return session.static_length is None or longest <= session.static_length


def _positions(head: Head, feeds: Feeds) -> Array | None:
    """Tokens to record where all of them would take more than `GOLDEN_VALUES` per output: spread, and some masks."""
    batch, tokens = next(iter(feeds.values())).shape[:2]
    widths = [spec.shape[-1] for spec in head.outputs if is_per_token_vector(spec)]
    widest = max((width for width in widths if isinstance(width, int)), default=1)
    room = max(GOLDEN_VALUES // (batch * widest), 2)
    if not widths or tokens <= room:
        return None
    ids = Tokens.of_feeds(feeds).ids
    at_mask = _NOWHERE if ids is None else np.flatnonzero((ids == head.mask_id).any(axis=0))[: room // 2]
    spread = np.linspace(0, tokens - 1, room - len(at_mask)).round().astype(np.int64)
    return np.union1d(spread, at_mask)
