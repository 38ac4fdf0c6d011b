"""Words and number formats that the card, the HTML report and the terminal share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from edgeq.calibration import BUILT_IN
from edgeq.metrics import SHARES
from edgeq.tasks import head_in, is_autoregressive
from edgeq.types import Verification

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Gate, Manifest, Variant
    from edgeq.types import SourceInfo, TensorSpec

METRIC_TITLES: Mapping[str, str] = {
    "cosine_mean": "cosine, mean",
    "cosine_p01": "cosine, 1st percentile",
    "cosine_min": "cosine, lowest",
    "relative_error_mean": "relative error, mean",
    "relative_error_p95": "relative error, 95th percentile",
    "sqnr_db": "SQNR, dB",
    "max_abs": "largest absolute difference",
    "top1_agreement": "top-1 agreement",
    "probability_error_mean": "probability error, mean",
    "probability_error_p99": "probability error, 99th percentile",
    "regret_mean": "probability lost by other first choices, mean",
    "decision_agreement": "same decisions at 0.5",
    "label_agreement_min": "same decisions at 0.5, worst label",
    "score_error_mean": "score error in spreads of the scores, mean",
    "score_error_p99": "score error in spreads of the scores, 99th percentile",
    "score_error_max": "score error in spreads of the scores, largest",
    "rank_correlation": "rank correlation with the original",
    "span_agreement": "same answer span",
    "span_regret_mean": "score lost by other answer spans, mean",
    "kl_mean": "KL divergence, mean, nats",
    "kl_p99": "KL divergence, 99th percentile, nats",
    "kl_se": "KL divergence, standard error of the mean",
    "perplexity": "perplexity",
    "perplexity_original": "perplexity of the original",
    "delta_p_rms": "change of the right token's probability, RMS",
    "relative_error_to_onnx": "relative difference to the ONNX variant of the same plan, mean",
    "batch_invariance_min": "cosine, alone against in a batch, lowest",
}
"""Metric by its name in `edgeq.json`; the others are shown by that name."""

VERIFICATION_MEANINGS: Mapping[Verification, str] = {
    Verification.STRUCTURE: "read off the files, nothing was executed",
    Verification.SIMULATED: "computed by edgeq's own interpreter of the target's graph, not by the target's runtime",
    Verification.EXECUTED_OTHER_ARCH: "the real runtime on another processor or provider than the target's",
    Verification.EXECUTED_ARM64_EMULATED: "the real ARM64 kernels under emulation",
    Verification.EXECUTED: "the real runtime on the target's architecture",
}

RUNTIME_TITLES: Mapping[str, str] = {
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-genai": "ONNX Runtime GenAI",
    "coreml": "Core ML",
    "llama.cpp": "llama.cpp",
}

CPU = "CPUExecutionProvider"
NNAPI = "NnapiExecutionProvider"
FLOATS = frozenset({"fp32", "fp16"})


def task_title(manifest: Manifest) -> str:
    """What a model does; of a sequence classifier its head decides."""
    return head_in(manifest).entry.does


def megabytes(size_bytes: int) -> str:
    """`23.07 MB` (10^6 bytes), `41.2 kB` below 0.1 MB."""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"


def metric_title(name: str) -> str:
    """A metric in words."""
    return METRIC_TITLES.get(name, name)


def metric_value(name: str, value: float) -> str:
    """A value with the digits that mean something for its metric."""
    if name == "sqnr_db":
        return f"{value:.1f}"
    if name in SHARES:
        return f"{100 * value:.2f} %"
    if name.startswith("cosine") or name == "batch_invariance_min":
        return f"{value:.6f}"
    return f"{value:.4g}"


def shape_text(spec: TensorSpec) -> str:
    """`[batch, 384]`."""
    return f"[{', '.join(map(str, spec.shape))}]"


def provider_name(provider: str) -> str:
    """`NnapiExecutionProvider` -> `NNAPI`; a Core ML compute unit stays as it is."""
    name = provider.removesuffix("ExecutionProvider")
    return {"Nnapi": "NNAPI", "Xnnpack": "XNNPACK"}.get(name, name)


def runtime_title(variant: Variant) -> str:
    """`ONNX Runtime, NNAPI`."""
    return (
        f"{RUNTIME_TITLES.get(variant.runtime, variant.runtime)}, {provider_name(variant.execution_provider)}"
    )


def requirement_lines(variant: Variant) -> list[tuple[str, str]]:
    """What a variant needs, in words and in a fixed order; keys this version does not know come last."""
    known = {
        "onnxruntime": "ONNX Runtime",
        "onnxruntime-genai": "ONNX Runtime GenAI",
        "min_android_api": "Android API level",
        "min_ios": "iOS",
        "min_macos": "macOS",
        "abi": "ABI",
        "max_tokens": "tokens of a text, at most",
        "min_ram_mb": "memory to load and run",
        "context_length": "tokens of prompt and answer together, at most",
        "kv_cache_bytes_per_token": "bytes of KV cache per token",
        "session_options": "session options",
        "nnapi_flags": "NNAPI flags",
    }
    wanted = variant.requirements
    keys = [key for key in known if key in wanted] + sorted(key for key in wanted if key not in known)
    return [
        (known.get(key, key), _requirement(key, wanted[key])) for key in keys if not is_empty(wanted[key])
    ]


def _requirement(key: str, value: Any) -> str:
    if key == "min_ram_mb":
        return f"{value} MB, measured where the bundle was made"
    if key in ("min_android_api", "min_ios", "min_macos"):
        return f"{value} or newer"
    return plain(value)


def is_empty(value: Any) -> bool:
    """Whether free-form JSON says nothing: its key alone is noise to people."""
    return value in ([], {}, "")


def plain(value: Any) -> str:
    """Free-form JSON in one line, without what is empty."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items() if not is_empty(item))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def saturation_text(layers: Sequence[str], shown: int = 8) -> str:
    """What layers whose sums can leave 16 bits mean, in one sentence; empty without any."""
    if not layers:
        return ""
    return (
        f"integer sums of {_count(len(layers), 'layer')} can saturate on x86-64 processors without VNNI, where apps "
        f"then get other numbers: {_first(layers, shown)}"
    )


def saturated_text(layers: Sequence[str], shown: int = 8) -> str:
    """What was timed on a CPU whose kernels saturate, in one sentence."""
    return (
        "timed with this CPU's own kernels, as an app runs it; their integer sums can saturate in 16 bits in "
        f"{_count(len(layers), 'layer')}, where results are then not exact: {_first(layers, shown)}"
    )


def _first(names: Sequence[str], shown: int) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def source_title(source: SourceInfo) -> str:
    """The model's id; the last part of a local path, which would say more about a machine than about the model."""
    model = source.model
    if PurePosixPath(model).is_absolute() or PureWindowsPath(model).is_absolute():
        last = model.replace("\\", "/").rstrip("/").rsplit("/", maxsplit=1)[-1]
        return f"a local folder, {last or model}"
    return model


def calibration_title(source: str) -> str:
    """Where calibration samples come from, in words."""
    return "edgeq's built-in texts" if source == BUILT_IN else source


def gate_text(gate: Gate) -> tuple[str, str]:
    """`(bound, verdict)`: `>= 0.97`, `passed`."""
    verdict = {True: "passed", False: "FAILED", None: "not measured"}[gate.passed]
    return f"{gate.op} {gate.threshold:.6g}", verdict


def placement_lines(variant: Variant) -> list[str]:
    """Where a variant's nodes run, in sentences."""
    placement = variant.placement
    lines = [*_node_lines(placement), *_kernel_lines(placement), *_program_lines(placement)]
    as_shipped = placement.get("as_shipped")
    if isinstance(as_shipped, Mapping) and {"nodes", "taken", "partitions"} <= set(as_shipped):
        lines.append(
            f"Without the runtime's level-1 optimizations: {as_shipped['taken']} of {as_shipped['nodes']} nodes, "
            f"{_count(as_shipped['partitions'], 'partition')}."
        )
    reasons = placement.get("reasons")
    if isinstance(reasons, Mapping):
        lines += [f"Refused: {reason} ({plain(count)} times)." for reason, count in reasons.items()]
    lines += [f"Known to fail on devices: {plain(item)}." for item in placement.get("landmines") or ()]
    lines += [f"Note: {plain(note)}." for note in placement.get("notes") or ()]
    return lines


def _node_lines(placement: Mapping[str, Any]) -> list[str]:
    nodes = placement.get("nodes")
    if not isinstance(nodes, Mapping):
        return []
    split = ", ".join(f"{_count(count, 'node')} on {provider_name(name)}" for name, count in nodes.items())
    partitions = placement.get("partitions")
    accelerated = any(name != CPU for name in nodes)
    pieces = f", in {_count(partitions, 'partition')}" if accelerated and isinstance(partitions, int) else ""
    how = "Predicted by rules" if placement.get("level") == "predicted" else "Counted on the optimized graph"
    return [f"{how}: {split}{pieces}."]


def placement_summary(variant: Variant) -> str:
    """`NNAPI takes all 602 nodes in one piece (predicted)`, or the kinds of matrix products of a CPU variant."""
    placement = variant.placement
    nodes, partitions = placement.get("nodes"), placement.get("partitions")
    accelerator = next((name for name in nodes if name != CPU), None) if isinstance(nodes, Mapping) else None
    if accelerator is None or not isinstance(nodes, Mapping):
        kinds = ", ".join(_kernels(placement))
        return f"CPU; matrix products: {kinds}" if kinds else _program(placement)
    taken, total = nodes[accelerator], sum(nodes.values())
    share = f"all {total} nodes" if taken == total else f"{taken} of {total} nodes"
    pieces = (
        f" in {'one piece' if partitions == 1 else f'{partitions} pieces'}"
        if isinstance(partitions, int)
        else ""
    )
    level = " (predicted)" if placement.get("level") == "predicted" else ""
    rest = "" if taken == total else ", the CPU the rest"
    return f"{provider_name(accelerator)} takes {share}{pieces}{rest}{level}"


def _kernel_lines(placement: Mapping[str, Any]) -> list[str]:
    found = _kernels(placement)
    return [f"Matrix products: {', '.join(found)}."] if found else []


def _program_lines(placement: Mapping[str, Any]) -> list[str]:
    """An ML program: the runtime places its operations itself."""
    if "operations" not in placement:
        return []
    lines = [f"An {_program(placement)}; where each runs is {placement.get('level')}."]
    lengths = placement.get("sequence_lengths") or ()
    if len(lengths) > 1:
        lines.append(f"Sequences of {plain(lengths)} tokens; a text is padded to the smallest that holds it.")
    return lines


def _program(placement: Mapping[str, Any]) -> str:
    """`ML program of 231 operations, 36 with int8 inputs, 2 nodes in float32`."""
    if "operations" not in placement:
        return ""
    parts = [f"ML program of {_count(placement['operations'], 'operation')}"]
    if placement.get("int8_inputs"):
        parts.append(f"{placement['int8_inputs']} with int8 inputs")
    if placement.get("float32_nodes"):
        parts.append(f"{_count(len(placement['float32_nodes']), 'node')} in float32")
    return ", ".join(parts)


def _kernels(placement: Mapping[str, Any]) -> list[str]:
    kinds = [("integer_matmuls", "integer"), ("block_matmuls", "block-quantized"), ("float_matmuls", "float")]
    return [f"{placement[key]} {word}" for key, word in kinds if placement.get(key)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def float_parts(manifest: Manifest) -> str:
    """What a quantized bundle computes in float by design, beside the layers its plan excludes."""
    if manifest.quantization is None or manifest.quantization.precision in FLOATS:
        return ""
    return (
        "Normalization, softmax, activation functions and the products inside attention are computed in float: "
        "they hold next to no weights, and rounding them costs accuracy."
    )


def caveats(manifest: Manifest) -> list[str]:
    """What a user of the bundle has to know, most serious first; only what applies to it."""
    found = []
    if manifest.status == "failed":
        found.append(
            "This bundle is below its quality gate. Readers refuse it unless they are told to go on (`--force`)."
        )
    levels = {metric.verification for metric in manifest.metrics}
    # Packed without them, a bundle has nothing to replay.
    has_golden = bool(manifest.golden)
    found += _engine_caveats(manifest)
    if Verification.EXECUTED not in levels and levels:
        found.append(
            "No number in this bundle comes from a phone"
            + (
                ". Replay the golden vectors on the devices you ship to."
                if has_golden
                else ", and it holds no golden vectors to replay on one."
            )
        )
    if Verification.EXECUTED_OTHER_ARCH in levels and any(
        v.precision not in FLOATS for v in manifest.variants
    ):
        found.append(
            "Integer sums are the same on every processor; the floats between them differ in their last bits, which "
            "now and then rounds a value the other way."
            + (
                " How far that may go was measured and bounds the golden cases; `edgeq validate BUNDLE --on arm64` "
                "shows the difference before a phone does."
                if has_golden
                else ""
            )
        )
    if manifest.quantization is not None and manifest.quantization.calibration is not None:
        found.append(
            "How values are rounded was decided on the calibration texts. Texts of another kind or language can lose "
            "more than the numbers here say; calibrate with texts of your app, and compare."
        )
    if any("min_ram_mb" in variant.requirements for variant in manifest.variants) and (
        is_autoregressive(manifest.source.task)
    ):
        found.append(
            "Memory was measured with a short text; each token of a longer one adds the bytes of KV cache listed above."
        )
    if not is_autoregressive(manifest.source.task) and manifest.text_processor is not None:
        found.append(f"Texts are cut to {_token_limits(manifest)}; what follows is ignored.")
    found.append("Limits and biases of the original model apply unchanged; see its own documentation.")
    return found


def _token_limits(manifest: Manifest) -> str:
    assert manifest.text_processor is not None
    static = {
        variant.id: spec.shape[1]
        for variant in manifest.variants
        for spec in variant.inputs
        if spec.role == "token_ids" and len(spec.shape) == 2 and isinstance(spec.shape[1], int)
    }
    shorter = "".join(f", {length} in {name}" for name, length in static.items())
    return f"{manifest.text_processor.max_length} tokens{shorter}"


def _engine_caveats(manifest: Manifest) -> list[str]:
    found = []
    if any(variant.execution_provider == NNAPI for variant in manifest.variants):
        found.append(
            "NNAPI is deprecated since Android 15. Its placement here is predicted from ONNX Runtime's rules, not "
            "executed: whether a vendor's driver takes the partition, and how fast it is, only the device can say. "
            "The numbers of NNAPI variants are those of the same graph on ONNX Runtime's CPU provider."
        )
    if any(metric.verification is Verification.SIMULATED for metric in manifest.metrics):
        found.append("Numbers marked `simulated` do not come from the target's runtime.")
    return found
