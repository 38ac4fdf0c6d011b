"""What `edgeq export` prints at the end: how small, how faithful, how fast, where it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Variant
    from edgeq.pipeline.export import TargetResult
    from edgeq.pipeline.measure import Measured

COLUMNS = (
    "variant",
    "MB",
    "of fp32",
    "cosine mean",
    "p1",
    "min",
    "alone = batch",
    "latency of fp32*",
    "placement",
    "gate",
)


def summary_table(result: TargetResult) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Title, columns and rows for one bundle."""
    manifest = result.bundle.manifest
    rows = [_row(result, variant) for variant in manifest.variants]
    samples = next(iter(next(iter(result.measured.values())).fidelity.values()))["n"]
    title = (
        f"{manifest.name} for {result.target}: against the original on {int(samples)} held-out rows\n"
        f"* at batch 1, on this machine's CPU ({_levels(result)})"
    )
    return title, COLUMNS, rows


def _levels(result: TargetResult) -> str:
    return ", ".join(dict.fromkeys(str(values.verification) for values in result.measured.values()))


def _row(result: TargetResult, variant: Variant) -> tuple[str, ...]:
    values = result.measured[variant.id]
    worst = min(values.fidelity.values(), key=lambda metrics: metrics["cosine_mean"])
    failed = [gate for gate in result.failed_gates if gate.variant == variant.id]
    return (
        variant.id,
        f"{variant.size_bytes / 1e6:.1f}",
        f"{variant.size_bytes / result.fp32_bytes:.0%}",
        f"{worst['cosine_mean']:.4f}",
        f"{worst['cosine_p01']:.4f}",
        f"{worst['cosine_min']:.4f}",
        "-" if values.batch_invariance is None else f"{values.batch_invariance:.4f}",
        f"{values.timing.ratio:.2f}x",
        describe_placement(variant.placement),
        "FAILED" if failed else "passed",
    )


def describe_placement(placement: Any) -> str:
    """One cell: partitions and nodes for accelerators, integer kernels for CPUs."""
    nodes = placement.get("nodes", {})
    if "NnapiExecutionProvider" in nodes:
        taken, total = nodes["NnapiExecutionProvider"], sum(nodes.values())
        count = placement["partitions"]
        return f"NNAPI {taken}/{total} nodes, {count} partition{'s' if count != 1 else ''}"
    if "integer_matmuls" in placement:
        return f"CPU, {placement['integer_matmuls']} integer matmuls"
    return ", ".join(f"{provider} {count}" for provider, count in nodes.items())


def result_json(result: TargetResult) -> dict[str, Any]:
    """One bundle in `export --json`."""
    manifest = result.bundle.manifest
    return {
        "target": result.target,
        "path": str(result.bundle.path),
        "archive": None if result.archive is None else str(result.archive),
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
        "latency_ms": {
            "p50": values.timing.p50_ms,
            "p95": values.timing.p95_ms,
            "ratio": values.timing.ratio,
        },
        "ram_bytes": values.ram_bytes,
        "verification": str(values.verification),
        "placement": dict(variant.placement),
    }
