"""What reports say of an ML program."""

from __future__ import annotations

from dataclasses import replace

from edgeq.bundle.manifest import Variant
from edgeq.report.snippets import swift_lines
from edgeq.report.words import placement_lines, placement_summary
from edgeq.types import TensorSpec

VARIANT = Variant(
    id="coreml-int8",
    models={"model": "model/coreml-int8/Model.mlpackage"},
    runtime="coreml",
    execution_provider="all compute units",
    precision="int8",
    inputs=(TensorSpec("input_ids", "int32", (1, "sequence")),),
    outputs=(TensorSpec("sentence_embedding", "float32", (1, 8)),),
    size_bytes=1,
    placement={
        "operations": 102,
        "int8_inputs": 12,
        "float32_nodes": ["norm"],
        "sequence_lengths": [16, 32],
        "level": "decided by Core ML on the device",
    },
)


def test_a_program_in_sentences() -> None:
    summary = "ML program of 102 operations, 12 with int8 inputs, 1 node in float32"
    assert placement_summary(VARIANT) == summary
    assert placement_lines(VARIANT) == [
        f"An {summary}; where each runs is decided by Core ML on the device.",
        "Sequences of 16, 32 tokens; a text is padded to the smallest that holds it.",
    ]


def test_a_float_program_with_one_length_says_less() -> None:
    plain = {**VARIANT.placement, "int8_inputs": 0, "float32_nodes": [], "sequence_lengths": [32]}
    (line,) = placement_lines(replace(VARIANT, placement=plain))
    assert line == "An ML program of 102 operations; where each runs is decided by Core ML on the device."


def test_swift_uses_the_bundles_names() -> None:
    text = "\n".join(swift_lines(VARIANT))
    assert 'bundle.appending(path: "model/coreml-int8/Model.mlpackage")' in text
    assert '["input_ids": inputIds]' in text
    assert 'featureValue(for: "sentence_embedding")' in text
