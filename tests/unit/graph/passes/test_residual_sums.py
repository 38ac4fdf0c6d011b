"""Residual sums that ONNX Runtime leaves alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edgeq.graph.passes.residual_sums import write_residual_sums
from edgeq.graph.passes.sequence import edited
from edgeq.runtime.session import VariantSession


def optimized(model: ir.Model, folder: Path) -> Counter[str]:
    ir.save(model, folder / "model.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(str(folder / "optimized.onnx")).graph.node)


def test_layer_normalization_keeps_its_own_kernel(exported: Callable[..., Any], tmp_path: Path) -> None:
    model = exported("bert").canonical.model
    plain, written = optimized(model, tmp_path), optimized(edited(model, write_residual_sums()), tmp_path)
    assert plain["SkipLayerNormalization"] > 0  # else the pass has no purpose any more
    assert written["SkipLayerNormalization"] == 0
    assert written["LayerNormalization"] == plain["SkipLayerNormalization"] + plain["LayerNormalization"]


def test_computes_the_same(exported: Callable[..., Any], tmp_path: Path) -> None:
    canonical = exported("bert").canonical
    feeds = {
        spec.name: np.ones((2, 5), spec.dtype)
        * np.arange(1, 6, dtype=spec.dtype) ** (spec.name == "input_ids")
        for spec in canonical.inputs
    }
    found = []
    for name, model in (("plain", canonical.model), ("sums", edited(canonical.model, write_residual_sums()))):
        ir.save(model, tmp_path / f"{name}.onnx")
        found.append(VariantSession(tmp_path / f"{name}.onnx", canonical).run(feeds))
    for name, expected in found[0].items():
        # Two kernels of the same normalization: float32 rounding of outputs of unit variance.
        assert np.abs(found[1][name] - expected).max() <= 1e-5
        assert np.abs(found[1][name] - expected[:, ::-1]).max() > 1e-3


def test_other_sums_stay_as_they_are(exported: Callable[..., Any]) -> None:
    model = exported("bert").canonical.model
    before = Counter(node.op_type for node in model.graph)
    after = Counter(node.op_type for node in edited(model, write_residual_sums()).graph)
    assert before["Sum"] == 0 and Counter(node.op_type for node in model.graph) == before
    assert after["Sum"] == before["Add"] - after["Add"] == before["LayerNormalization"]
