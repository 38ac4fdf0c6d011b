"""What `edgeq export` prints at the end: how small, how faithful, how fast, where it runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgeq.runtime.generation.engine_process import LLAMA_CPP
from edgeq.runtime.runtime import load_preprocessor
from edgeq.tasks import head_in

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.measured import Measured
    from edgeq.pipeline.plan import TargetResult


def summary_table(
    results: Sequence[TargetResult],
) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Title, columns and rows of everything one export made: a column per variant, side by side."""
    columns = [(result, variant) for result in results for variant in result.bundle.variants]
    found = [result.measured[variant.id] for result, variant in columns]
    rows = [
        ("size", *(_size(variant, result) for result, variant in columns)),
        *_fidelity_rows(found),
        *_invariance_row(found),
        *_parity_row(found),
        ("latency here, of fp32", *(_latency(values) for values in found)),
        ("memory to run", *(_memory(values) for values in found)),
        ("placement", *(describe_placement(variant.placement) or "-" for _, variant in columns)),
        *_ios_row([variant for _, variant in columns]),
        ("verification", *(str(values.verification) for values in found)),
        ("gates", *(_verdict(variant.id, result) for result, variant in columns)),
    ]
    metrics = next(iter(found[0].fidelity.values()))
    judged = f"{int(metrics['n'])} held-out {'tokens' if 'perplexity' in metrics else 'rows'}"
    targets = ", ".join(result.target for result in results)
    name = results[0].bundle.manifest.name
    title = f"{name} for {targets}, against {results[0].compared_with} on {judged}"
    return title, ("", *_headings(columns)), rows


def next_commands(results: Sequence[TargetResult], model: str | None = None) -> list[str]:
    """What to type next, ready to be copied; nothing of a bundle that failed its gate.

    Args:
        results: of an export.
        model: that was exported.
    """
    passed = [result for result in results if not result.failed_gates]
    return [command for result in passed for command in _commands(result, model)]


def _commands(result: TargetResult, model: str | None) -> Iterator[str]:
    bundle, first = result.bundle, result.bundle.variants[0]
    path = shlex.quote(str(bundle.path))
    if first.runtime == LLAMA_CPP and find_spec("llama_cpp") is None:
        yield f'llama-cli -m {shlex.quote(str(bundle.path / first.model_file))} -p "Once upon a time" -n 64'
        # Without llama.cpp `run` refuses, and `validate` simulates it on the original.
        if bundle.manifest.golden and model is not None:
            yield f"edgeq validate {path} --against {shlex.quote(model)}"
        return
    yield f"edgeq run {path} {_sample_input(bundle)}"
    if bundle.manifest.golden:
        yield f"edgeq validate {path}"
    if len(bundle.variants) > 1:
        output = shlex.quote(f"{bundle.path}-{first.id}")
        yield f"edgeq pack {path} --variants {first.id} --output {output}"


def _sample_input(bundle: Bundle) -> str:
    """Options of `run` with an input that the kind of model has an answer to."""
    example = head_in(bundle.manifest).entry.example
    return example.format(mask=_mask_token(bundle)) if "{mask}" in example else example


def _mask_token(bundle: Bundle) -> str:
    preprocessor = load_preprocessor(bundle)
    special = {} if preprocessor is None else preprocessor.settings.special_tokens
    return special.get("mask_token", "[MASK]")


def _headings(columns: Sequence[tuple[TargetResult, Variant]]) -> list[str]:
    """Variant ids; with their target where two targets have a variant of that id."""
    ids = [variant.id for _, variant in columns]
    return [
        variant.id if ids.count(variant.id) == 1 else f"{variant.id} ({result.target})"
        for result, variant in columns
    ]


def _latency(values: Measured) -> str:
    """Only what was measured: an interpreter's time says nothing of a phone's."""
    if values.timing is None:
        return "not measured"
    return f"{values.timing.ratio:.2f}x ({values.timing.p50_ms:.1f} ms)"


def _memory(values: Measured) -> str:
    return "not measured" if values.ram_bytes is None else f"{values.ram_bytes / 2**20:.0f} MiB"


def _parity_row(found: list[Measured]) -> list[tuple[str, ...]]:
    """The difference to the ONNX variant of the same plan, and what rounding explains."""
    if not any(values.differences for values in found):
        return []
    cells = (
        ", ".join(f"{item.value:.2g} (at most {item.bound:.2g})" for item in values.differences.values())
        for values in found
    )
    return [("from the same plan in ONNX", *(cell or "-" for cell in cells))]


def _ios_row(variants: list[Variant]) -> list[tuple[str, ...]]:
    oldest = [variant.requirements.get("min_ios") for variant in variants]
    if all(version is None for version in oldest):
        return []
    return [("iOS", *("-" if version is None else f"{version} or newer" for version in oldest))]


def _size(variant: Variant, result: TargetResult) -> str:
    return f"{variant.size_bytes / 1e6:.1f} MB ({variant.size_bytes / result.fp32_bytes:.0%} of fp32)"


_FIDELITY = (
    ("cosine_mean", "cosine mean / p1 / min", "{cosine_mean:.4f} / {cosine_p01:.4f} / {cosine_min:.4f}"),
    ("score_error_mean", "score error mean / p99", "{score_error_mean:.4f} / {score_error_p99:.4f}"),
    ("rank_correlation", "rank correlation", "{rank_correlation:.4f}"),
    (
        "decision_agreement",
        "same decisions, of the worst label",
        "{decision_agreement:.1%}, {label_agreement_min:.1%}",
    ),
    (
        "probability_error_mean",
        "probability error mean / p99",
        "{probability_error_mean:.4f} / {probability_error_p99:.4f}",
    ),
    ("span_agreement", "same answer span", "{span_agreement:.1%}"),
)
"""Rows of whatever kind of model has the first metric."""


def _fidelity_rows(found: list[Measured]) -> list[tuple[str, ...]]:
    rows = []
    for output in found[0].fidelity:
        prefix = "" if len(found[0].fidelity) == 1 else f"{output}: "
        metrics = [values.fidelity[output] for values in found]
        rows += [
            (f"{prefix}{title}", *(shown.format(**values) for values in metrics))
            for needed, title, shown in _FIDELITY
            if needed in metrics[0]
        ]
        if "perplexity" in metrics[0]:
            rows += [
                (
                    f"{prefix}KL mean / p99, nats",
                    *(f"{m['kl_mean']:.4f} / {m['kl_p99']:.4f}" for m in metrics),
                ),
                (
                    f"{prefix}perplexity, of original",
                    *(f"{m['perplexity']:.3f}, {m['perplexity_original']:.3f}" for m in metrics),
                ),
            ]
        if "top1_agreement" in metrics[0]:
            rows.append((f"{prefix}top-1 agreement", *(f"{m['top1_agreement']:.1%}" for m in metrics)))
    return rows


def _invariance_row(found: list[Measured]) -> list[tuple[str, ...]]:
    """The lowest cosine between a text alone and the same text in a batch."""
    values = [item.batch_invariance for item in found]
    if all(value is None for value in values):
        return []
    return [("alone = in a batch", *("-" if value is None else f"{value:.4f}" for value in values))]


def _verdict(variant: str, result: TargetResult) -> str:
    gates = [gate for gate in result.bundle.manifest.gates if gate.variant == variant]
    failed = [gate for gate in gates if not gate.passed]
    return f"{len(gates)} passed" if not failed else f"FAILED: {', '.join(gate.metric for gate in failed)}"


def describe_placement(placement: Any) -> str:
    """One cell: partitions and nodes for accelerators, integer kernels for CPUs."""
    nodes = placement.get("nodes", {})
    if "NnapiExecutionProvider" in nodes:
        taken, total = nodes["NnapiExecutionProvider"], sum(nodes.values())
        count = placement["partitions"]
        return f"NNAPI {taken}/{total} nodes, {count} partition{'s' if count != 1 else ''}"
    if "operations" in placement:
        return _program(placement)
    if "integer_matmuls" in placement:
        return f"CPU, {_matmuls(placement)}"
    return ", ".join(f"{provider} {count}" for provider, count in nodes.items())


def _program(placement: Any) -> str:
    """`ML program, 231 operations, 36 int8 inputs, 12 in float32`."""
    parts = [f"ML program, {placement['operations']} operations"]
    if placement["int8_inputs"]:
        parts.append(f"{placement['int8_inputs']} int8 inputs")
    if placement["float32_nodes"]:
        parts.append(f"{len(placement['float32_nodes'])} nodes in float32")
    return ", ".join(parts)


def _matmuls(placement: Any) -> str:
    kinds = (("integer_matmuls", "integer"), ("block_matmuls", "block-quantized"), ("float_matmuls", "float"))
    counted = [f"{placement[key]} {name}" for key, name in kinds[:2] if placement.get(key)]
    return f"{' + '.join(counted) or 'float'} matmuls"


def result_json(result: TargetResult) -> dict[str, Any]:
    """One bundle in `export --json`."""
    manifest = result.bundle.manifest
    return {
        "target": result.target,
        "path": str(result.bundle.path),
        "archive": None if result.archive is None else str(result.archive.absolute()),
        "status": str(manifest.status),
        "variants": [
            _variant_json(variant, result.measured[variant.id], result) for variant in manifest.variants
        ],
        "gates": [
            {
                "variant": gate.variant,
                "output": gate.output,
                "metric": gate.metric,
                "op": gate.op,
                "threshold": gate.threshold,
                "value": gate.value,
                "passed": gate.passed,
            }
            for gate in manifest.gates
        ],
    }


def _variant_json(variant: Variant, values: Measured, result: TargetResult) -> dict[str, Any]:
    return {
        "id": variant.id,
        "size_bytes": variant.size_bytes,
        "size_of_fp32": variant.size_bytes / result.fp32_bytes,
        "fidelity": {name: dict(metrics) for name, metrics in values.fidelity.items()},
        "batch_invariance_min": values.batch_invariance,
        "relative_error_to_onnx": {
            output: {"value": item.value, "bound": item.bound, "derived_from": item.derived_from}
            for output, item in values.differences.items()
        },
        "latency_ms": None
        if values.timing is None
        else {
            "p50": values.timing.p50_ms,
            "p95": values.timing.p95_ms,
            "ratio": values.timing.ratio,
        },
        "ram_bytes": values.ram_bytes,
        "verification": str(values.verification),
        "placement": dict(variant.placement),
    }
