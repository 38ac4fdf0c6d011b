"""Half the bytes, float32 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import UnsupportedError
from edgeq.graph.passes.fp16_storage import store_fp16
from edgeq.graph.passes.sequence import edited
from edgeq.runtime.session import VariantSession
from edgeq.samples import as_samples


def test_weights_are_rounded_to_float16_and_nothing_else(
    exported: Callable[..., Any], tmp_path: Path
) -> None:
    model = exported("bert")
    stored = edited(model.canonical.model, store_fp16())
    halves = [v for v in stored.graph.initializers.values() if v.const_value.dtype == ir.DataType.FLOAT16]
    assert halves and all(value.const_value.size >= 1024 for value in halves)
    assert not any(
        value.const_value.size >= 1024 and value.const_value.dtype == ir.DataType.FLOAT
        for value in stored.graph.initializers.values()
    )
    rounded = model.canonical.model.clone()
    for value in rounded.graph.initializers.values():
        if value.const_value.dtype == ir.DataType.FLOAT and value.const_value.size >= 1024:
            value.const_value = ir.tensor(
                value.const_value.numpy().astype(np.float16).astype(np.float32), name=value.name
            )
    outputs = []
    for name, graph in (("stored", stored), ("rounded", rounded)):
        ir.save(graph, tmp_path / f"{name}.onnx")
        session = VariantSession(tmp_path / f"{name}.onnx", model.canonical)
        outputs.append(next(iter(session.run(model.preprocessor(as_samples(["some text"]))).values())))
    assert np.allclose(outputs[0], outputs[1], rtol=0, atol=1e-5 * np.abs(outputs[1]).max())
    assert (tmp_path / "stored.onnx").stat().st_size < 0.75 * (tmp_path / "rounded.onnx").stat().st_size


def test_a_weight_beyond_float16_is_refused(exported: Callable[..., Any]) -> None:
    model = exported("bert").canonical.model.clone()
    value = next(v for v in model.graph.initializers.values() if v.const_value.size >= 1024)
    value.const_value = ir.tensor(np.full(value.const_value.shape, 7e4, np.float32), name=value.name)
    with pytest.raises(UnsupportedError, match="beyond float16"):
        edited(model, store_fp16())
