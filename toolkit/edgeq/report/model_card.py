"""MODEL_CARD.md: what a bundle is, where it came from, how to run it, what was measured and how."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.files import atomic_write_text
from edgeq.report.markdown import block, code, prose, table
from edgeq.report.snippets import (
    kotlin_lines,
    language_kotlin_lines,
    language_python_lines,
    llama_cpp_lines,
    python_lines,
    swift_lines,
)
from edgeq.report.words import (
    VERIFICATION_MEANINGS,
    calibration_title,
    caveats,
    float_parts,
    gate_text,
    megabytes,
    metric_title,
    metric_value,
    placement_lines,
    requirement_lines,
    runtime_title,
    shape_text,
    source_title,
    task_title,
)
from edgeq.tasks import is_autoregressive
from edgeq.types import ONNX_RUNTIME, Role, Verification

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Manifest, Quantization, Variant
    from edgeq.types import TensorSpec

CARD_FILE = "MODEL_CARD.md"
CORE_ML = "coreml"
LLAMA_CPP = "llama.cpp"
SHOWN_EXCLUSIONS = 40
_LICENSE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


def write_model_card(folder: Path, manifest: Manifest) -> None:
    """Write the card into a bundle's folder."""
    atomic_write_text(folder / CARD_FILE, model_card(manifest))


def model_card(manifest: Manifest) -> str:
    """The card's text; the same manifest gives the same text."""
    sections = (
        _front_matter,
        _title,
        _variants,
        _loading,
        _contract,
        _requirements,
        _quantization,
        _metrics,
        _gates,
        _placement,
        _caveats,
        _source,
    )
    lines = [line for section in sections for line in section(manifest)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _front_matter(manifest: Manifest) -> list[str]:
    """What model hubs read; only words that need no quoting get in."""
    license_ = manifest.source.license or ""
    lines = [f"license: {license_}"] if _LICENSE_ID.fullmatch(license_) else []
    tags = [
        tag for tag in ("edgeq", manifest.target, manifest.source.architecture) if _LICENSE_ID.fullmatch(tag)
    ]
    lines.append(f"tags: [{', '.join(tags)}]")
    return ["---", *lines, "---", ""]


def _title(manifest: Manifest) -> list[str]:
    source = manifest.source
    maker = manifest.created_by.get("edgeq", "of unknown version")
    lines = [
        f"# {prose(manifest.name)} for {prose(manifest.target)}",
        "",
        f"{task_title(manifest)}. Architecture {prose(source.architecture)}, "
        f"{source.parameters / 1e6:.1f} million parameters. "
        f"Made by edgeq {prose(maker)} from {prose(source_title(source))}.",
        "",
    ]
    if manifest.status == "failed":
        lines += ["> **This bundle is below its quality gate.** Do not ship it; see [Gates](#gates).", ""]
    return lines


def _variants(manifest: Manifest) -> list[str]:
    rows = [
        [
            code(variant.id),
            prose(runtime_title(variant)),
            prose(variant.precision),
            megabytes(variant.size_bytes),
        ]
        for variant in manifest.variants
    ]
    return [
        "## Variants",
        "",
        "An app takes the first one whose requirements it meets.",
        "",
        *table(["variant", "runs on", "precision", "size>"], rows),
    ]


def _loading(manifest: Manifest) -> list[str]:
    if is_autoregressive(manifest.source.task):
        return _loading_language_model(manifest)
    lines = ["## Load it", ""]
    if any(variant.runtime == ONNX_RUNTIME for variant in manifest.variants):
        lines += ["Python, on a desktop:", "", *block("python", python_lines(manifest))]
    for variant in _android_variants(manifest):
        intro = f"Kotlin, {code(variant.id)} (`val env = OrtEnvironment.getEnvironment()`):"
        lines += [intro, "", *block("kotlin", kotlin_lines(variant))]
    for variant in manifest.variants:
        if variant.runtime == CORE_ML:
            intro = f"Swift, {code(variant.id)} (`bundle` is the folder's URL in the app):"
            lines += [intro, "", *block("swift", swift_lines(variant))]
    return [*lines, *_checks(manifest, "the golden vectors")]


def _checks(manifest: Manifest, what: str) -> list[str]:
    """Bundles that were packed without golden cases have nothing to replay."""
    replays = [f"edgeq validate .   # replays {what}"] if manifest.golden else []
    return ["Check it:", "", *block("sh", ["sha256sum --check SHA256SUMS", *replays])]


def _loading_language_model(manifest: Manifest) -> list[str]:
    """Generation needs a loop and a cache: apps take ONNX Runtime GenAI, or do as our reference runtime does."""
    lines = ["## Load it", "", "Python, on a desktop:", "", *block("python", language_python_lines(manifest))]
    for variant in _android_variants(manifest):
        if "onnxruntime-genai" in variant.requirements:
            intro = f"Kotlin, {code(variant.id)}, with ONNX Runtime GenAI:"
            lines += [intro, "", *block("kotlin", language_kotlin_lines(variant))]
        else:
            lines += [
                f"ONNX Runtime GenAI does not run this family: {code(variant.id)} needs a loop over its KV cache.",
                "",
            ]
    for variant in manifest.variants:
        if variant.runtime == LLAMA_CPP:
            intro = f"llama.cpp, {code(variant.id)}, and any program that opens GGUF files:"
            lines += [intro, "", *block("sh", llama_cpp_lines(variant))]
    return [*lines, *_checks(manifest, "golden prefill and decode steps")]


def _android_variants(manifest: Manifest) -> list[Variant]:
    return [v for v in manifest.variants if v.runtime == ONNX_RUNTIME and "min_android_api" in v.requirements]


def _contract(manifest: Manifest) -> list[str]:
    lines = ["## Inputs and outputs", ""]
    for variant in manifest.variants:
        rows = [_tensor_row("in", spec) for spec in variant.inputs if not _is_later_layer(spec)]
        rows += [_tensor_row("out", spec) for spec in variant.outputs if not _is_later_layer(spec)]
        lines += [f"### {prose(variant.id)}", "", *table(["", "name", "dtype", "shape", "role"], rows)]
    steps = [f"- before: {code(step.step)} makes {_names(step.inputs)}" for step in manifest.preprocess]
    steps += [f"- after: {code(step.step)} reads {_names(step.outputs)}" for step in manifest.postprocess]
    if manifest.text_processor is not None:
        tokenizer = manifest.text_processor
        steps.append(
            f"- tokenizer: {code(f'{tokenizer.path}/tokenizer.json')}, at most {tokenizer.max_length} tokens with "
            f"special tokens, padded on the {prose(tokenizer.padding)} with id {tokenizer.pad_id}"
        )
    if any(spec.role is Role.PAST for variant in manifest.variants for spec in variant.inputs):
        steps.append(
            "- past and present: those of layer 0 are shown, every layer has them, numbered; see `generation.json`"
        )
    labels = manifest.source.labels
    if labels:
        steps.append(f"- labels, by index: {_names(labels)}")
    if manifest.source.problem_type is not None:
        steps.append(f"- problem type: {code(manifest.source.problem_type)}")
    return [*lines, *steps, "", "A free dimension has a name, a static one a number.", ""]


def _is_later_layer(spec: TensorSpec) -> bool:
    """Past and present are shown for layer 0; those of the other layers differ by their number alone."""
    return spec.role in (Role.PAST, Role.PRESENT) and ".0." not in spec.name


def _tensor_row(direction: str, spec: TensorSpec) -> list[str]:
    return [direction, code(spec.name), code(spec.dtype), code(shape_text(spec)), code(spec.role)]


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(code(name) for name in names)


def _requirements(manifest: Manifest) -> list[str]:
    rows = [
        [code(variant.id), prose(what), prose(value)]
        for variant in manifest.variants
        for what, value in requirement_lines(variant)
    ]
    return ["## Requirements", "", *table(["variant", "what", "value"], rows)] if rows else []


def _quantization(manifest: Manifest) -> list[str]:
    quantization = manifest.quantization
    if quantization is None:
        return ["## Quantization", "", "None: the weights are floating point.", ""]
    bits = quantization.bits_per_weight
    per_weight = f", {bits:.2f} bits per weight over the whole file" if bits else ""
    lines = [
        "## Quantization",
        "",
        f"- {prose(quantization.precision)}{per_weight}; the exact settings are in {code(quantization.recipe)}",
        *_calibration(quantization),
        *_kept_in_float(quantization),
    ]
    by_design = float_parts(manifest)
    return [*lines, *([f"- {by_design}"] if by_design else []), ""]


def _calibration(quantization: Quantization) -> list[str]:
    data = quantization.calibration
    if data is None:
        return ["- no calibration data was needed"]
    return [
        f"- calibrated on {data.samples} samples of {prose(calibration_title(data.source))}, seed {data.seed}, "
        f"SHA-256 of the data {code(data.sha256)}"
    ]


def _kept_in_float(quantization: Quantization) -> list[str]:
    excluded = quantization.excluded
    if not excluded:
        return ["- no layer or embedding table was excluded"]
    lines = [f"- left in float: {len(excluded)} of the layers and tables"]
    lines += [f"  - {code(item.node)}: {prose(item.reason)}" for item in excluded[:SHOWN_EXCLUSIONS]]
    more = len(excluded) - SHOWN_EXCLUSIONS
    return [*lines, *([f"  - and {more} more, listed in `edgeq.json`"] if more > 0 else [])]


def _metrics(manifest: Manifest) -> list[str]:
    if not manifest.metrics:
        return ["## Measured", "", "Nothing was measured.", ""]
    environments = list(dict.fromkeys(metric.environment for metric in manifest.metrics))
    rows = [
        [
            code(metric.variant),
            code(metric.output) if metric.output else "",
            prose(metric_title(metric.metric)),
            metric_value(metric.metric, metric.value),
            str(metric.n),
            prose(metric.verification),
            f"E{environments.index(metric.environment) + 1}",
        ]
        for metric in manifest.metrics
    ]
    columns = ["variant", "output", "metric", "value>", "n>", "verification", "where"]
    used = [
        level for level in Verification if any(metric.verification is level for metric in manifest.metrics)
    ]
    return [
        "## Measured",
        "",
        "Against the original model, on held-out samples that neither calibrated nor tuned anything. "
        "Latency is not in the bundle, whose bytes are reproducible: run `edgeq bench`.",
        "",
        *table(columns, rows),
        *(f"- E{index}: {prose(name)}" for index, name in enumerate(environments, 1)),
        *(f"- {prose(level)}: {prose(VERIFICATION_MEANINGS[level])}" for level in used),
        "",
    ]


def _gates(manifest: Manifest) -> list[str]:
    if not manifest.gates:
        return ["## Gates", "", "None.", ""]
    rows = []
    for gate in manifest.gates:
        bound, verdict = gate_text(gate)
        value = "" if gate.value is None else metric_value(gate.metric, gate.value)
        what = prose(metric_title(gate.metric))
        rows.append(
            [code(gate.variant), code(gate.output), what, bound, value, verdict, prose(gate.derived_from)]
        )
    columns = ["variant", "output", "metric", "required>", "value>", "verdict", "from"]
    golden = (
        f"{len(manifest.golden)} golden cases with their tolerances are in `golden/`."
        if manifest.golden
        else ""
    )
    return ["## Gates", "", *table(columns, rows), *([golden, ""] if golden else [])]


def _placement(manifest: Manifest) -> list[str]:
    found = [(variant.id, placement_lines(variant)) for variant in manifest.variants]
    lines = [f"- {code(name)}: {' '.join(map(prose, sentences))}" for name, sentences in found if sentences]
    return ["## Placement", "", *lines, ""] if lines else []


def _caveats(manifest: Manifest) -> list[str]:
    return ["## Limits", "", *(f"- {item}" for item in caveats(manifest)), ""]


def _source(manifest: Manifest) -> list[str]:
    source = manifest.source
    license_ = (
        prose(source.license) if source.license else "not stated by the source; find out before you ship"
    )
    lines = [
        "## Source and licence",
        "",
        f"- model: {prose(source_title(source))}",
        f"- revision: {code(source.revision) if source.revision else 'none recorded; the hashes below identify it'}",
        f"- licence of the source, which applies to this bundle too: {license_}",
        "- made with: "
        + ", ".join(f"{prose(name)} {prose(version)}" for name, version in manifest.created_by.items()),
        "",
    ]
    rows = [[code(item.path), code(item.sha256)] for item in source.files]
    return [*lines, *(table(["file of the source", "SHA-256"], rows) if rows else [])]
