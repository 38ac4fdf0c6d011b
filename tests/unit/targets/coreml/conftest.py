"""Tiny ONNX graphs, lowered and opened by the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.targets.coreml.interpreter.machine import MilInterpreter
from edgeq.targets.coreml.lowering import LoweredPackage, lower_to_mil

Graph = Callable[..., ir.Model]
Lower = Callable[..., tuple[MilInterpreter, LoweredPackage]]


@pytest.fixture(scope="session")
def graph() -> Graph:
    """`graph(nodes, inputs, outputs, weights)`: a model in the canonical opset; dimensions may be names."""

    def build(
        nodes: Sequence[onnx.NodeProto],
        inputs: Mapping[str, tuple[str, Sequence[Any]]],
        outputs: Sequence[str],
        weights: Mapping[str, np.ndarray] | None = None,
        opset: int = 20,
    ) -> ir.Model:
        def info(name: str, dtype: str, shape: Sequence[Any] | None) -> onnx.ValueInfoProto:
            kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            return onnx.helper.make_tensor_value_info(name, kind, shape)

        proto = onnx.helper.make_graph(
            list(nodes),
            "test",
            [info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
            [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
            [
                onnx.numpy_helper.from_array(np.asarray(array), name)
                for name, array in (weights or {}).items()
            ],
        )
        model = onnx.helper.make_model(
            proto, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10
        )
        return ir.from_proto(onnx.shape_inference.infer_shapes(model))

    return build


@pytest.fixture
def lower(tmp_path: Path) -> Lower:
    """`lower(model, precision="fp32", ...)`: the package's interpreter, and what lowering said."""
    numbers = count()

    def run(
        model: ir.Model, *, rounding: bool = True, **options: Any
    ) -> tuple[MilInterpreter, LoweredPackage]:
        path = tmp_path / f"m{next(numbers)}.mlpackage"
        lowered = lower_to_mil(model, path, **{"precision": "fp32", **options})
        return MilInterpreter(path, rounding=rounding), lowered

    return run
