"""Fixing dimensions folds shape arithmetic, and refuses names that do not exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import ConfigError
from edgeq.graph.passes.sequence import edited
from edgeq.graph.passes.static_shapes import fix_dimensions
from edgeq.runtime.session import VariantSession
from edgeq.samples import as_samples


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "modernbert"])
def test_no_shape_arithmetic_is_left_and_values_agree(
    architecture: str, exported: Callable[..., Any], tmp_path: Path
) -> None:
    model = exported(architecture)
    fixed = edited(model.canonical.model, fix_dimensions({"batch": 1, "sequence": 16}))
    assert not {node.op_type for node in fixed.graph} & {"Shape", "Range", "ConstantOfShape", "NonZero"}
    assert all(isinstance(dim, int) for node in fixed.graph for value in node.outputs for dim in value.shape)
    ir.save(fixed, tmp_path / "fixed.onnx")
    ir.save(model.canonical.model, tmp_path / "free.onnx")
    feeds = model.preprocessor(as_samples(["a text"]), pad_to=16)
    for name, free in VariantSession(tmp_path / "free.onnx", model.canonical).run(feeds).items():
        found = VariantSession(tmp_path / "fixed.onnx", model.canonical).run(feeds)[name]
        assert np.abs(found - free).max() <= 1e-5 * np.abs(free).max()  # the same float32 operators, folded


def test_an_unknown_name_is_an_error(exported: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="no input has a dimension named seq; it has batch, sequence"):
        edited(exported("bert").canonical.model, fix_dimensions({"batch": 1, "seq": 8}))


def test_a_dimension_left_free_is_an_error(exported: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="`sequence` was given no size"):
        edited(exported("bert").canonical.model, fix_dimensions({"batch": 1}))
