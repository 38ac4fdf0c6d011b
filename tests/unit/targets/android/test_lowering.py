"""Whole encoders for NNAPI: the same numbers, one partition, the right types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import UnsupportedError
from edgeq.graph.edit import Editor
from edgeq.quantize.recipes import load_recipe
from edgeq.runtime.session import Signature, VariantSession
from edgeq.samples import as_samples
from edgeq.targets.android.nnapi import lower_for_nnapi, write_nnapi_variant
from edgeq.targets.android.target import TARGET
from edgeq.targets.target import LoweringInput, LoweringOptions, VariantSpec
from edgeq.types import Precision, Role

SEQ = 32


def nnapi(precision: str) -> VariantSpec:
    """The NNAPI variant of a recipe."""
    return next(spec for spec in TARGET.variants(load_recipe(precision)) if spec.engine == "nnapi")


# GELU's tanh form is off by at most 5e-4 per activation; two layers of a normalized encoder pass on a little more.
GELU_FORM = 5e-3


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("bert", "sentence-embedding"),
        ("bert", "sequence-classification"),
        ("bert", "question-answering"),
        ("distilbert", "token-classification"),
        ("roberta", "fill-mask"),
        ("albert", "feature-extraction"),
        ("deberta-v2", "feature-extraction"),
        ("modernbert", "feature-extraction"),
    ],
)
def test_float_lowering_is_one_partition_with_the_same_outputs(
    architecture: str, task: str, exported: Callable[..., Any], tmp_path: Path
) -> None:
    model = exported(architecture, task)
    source = LoweringInput(model.canonical)
    lowered = write_nnapi_variant(nnapi("fp32"), source, LoweringOptions(SEQ), tmp_path / "model.onnx")
    assert lowered.placement["full"], lowered.notes
    session = VariantSession(
        lowered.model, Signature(lowered.inputs, lowered.outputs), pad_id=model.preprocessor.pad_id
    )
    feeds = model.preprocessor(as_samples(["a text of some length", "short"]))
    expected, found = model.reference(feeds), session.run(feeds)
    mask = feeds["attention_mask"].astype(bool)
    for spec in model.canonical.outputs:
        a, b = expected[spec.name], found[spec.name]
        keep = mask if a.ndim >= 2 and a.shape[:2] == mask.shape else slice(None)
        assert np.abs(a[keep] - b[keep]).max() <= GELU_FORM * np.abs(a[keep]).max()


def test_inputs_are_what_nnapi_takes(exported: Callable[..., Any]) -> None:
    model, inputs = lower_for_nnapi(LoweringInput(exported("bert").canonical), Precision.FP32, SEQ)
    assert {spec.role: spec.dtype for spec in inputs} == {
        Role.TOKEN_IDS: "int32",
        Role.ATTENTION_MASK: "float32",
        Role.TOKEN_TYPE_IDS: "int32",
    }
    assert all(spec.shape == (1, SEQ) for spec in inputs)
    assert model.opset_imports[""] <= 17
    assert not {node.op_type for node in model.graph} & {
        "Identity",
        "Squeeze",
        "Unsqueeze",
        "Cast",
        "Pow",
        "Where",
    }


def test_padding_does_not_change_the_result(exported: Callable[..., Any], tmp_path: Path) -> None:
    """Lengths 32 and 48 see the same text behind different padding."""
    model = exported("bert", "sentence-embedding")
    results = []
    for length in (SEQ, 48):
        source = LoweringInput(model.canonical)
        path = tmp_path / f"{length}.onnx"
        lowered = write_nnapi_variant(nnapi("fp32"), source, LoweringOptions(length), path)
        session = VariantSession(lowered.model, Signature(lowered.inputs, lowered.outputs))
        results.append(session.run(model.preprocessor(as_samples(["one text"])))["sentence_embedding"])
    # exp(-10000) is zero in float32: padding weighs exactly nothing, what is left is summation order.
    assert np.abs(results[0] - results[1]).max() <= 1e-5


def test_fp16_is_half_the_file_and_one_partition_after_level_1(
    exported: Callable[..., Any], tmp_path: Path
) -> None:
    model = exported("bert", "sentence-embedding")
    sizes = {}
    for precision in (Precision.FP32, Precision.FP16):
        source = LoweringInput(model.canonical, precision=precision)
        path = tmp_path / f"{precision}.onnx"
        lowered = write_nnapi_variant(nnapi(precision), source, LoweringOptions(SEQ), path)
        assert lowered.placement["full"]
        sizes[precision] = lowered.model.stat().st_size
    assert sizes[Precision.FP16] < sizes[Precision.FP32]


def test_variants_are_ordered_by_preference() -> None:
    specs = TARGET.variants(load_recipe("int8"))
    assert [spec.id for spec in specs] == ["cpu-int8", "nnapi-int8"]
    assert [spec.one_partition for spec in specs] == [False, True]


def test_nnapi_has_no_int4_and_says_why() -> None:
    refusals = {spec.engine: spec.refusal for spec in TARGET.variants(load_recipe("int4"))}
    assert refusals["cpu"] is None and refusals["nnapi"]


def test_a_graph_that_nnapi_would_cut_is_not_shipped(exported: Callable[..., Any], tmp_path: Path) -> None:
    """An operator NNAPI lacks, in the middle of the encoder: the export says how many partitions and why."""
    model = exported("bert")
    graph = model.canonical.model.clone()
    softmax = next(node for node in graph.graph if node.op_type == "Softmax")
    editor = Editor(graph)
    value = softmax.inputs[0]
    erf = editor.op("Erf", [value], "strange", before=softmax, shape=value.shape)
    softmax.replace_input_with(0, erf)
    source = LoweringInput(replace(model.canonical, model=graph))
    with pytest.raises(UnsupportedError, match=r"in 2 partitions, not all in one: Erf") as caught:
        write_nnapi_variant(nnapi("fp32"), source, LoweringOptions(SEQ), tmp_path / "model.onnx")
    assert "--variants cpu" in str(caught.value.hint)
