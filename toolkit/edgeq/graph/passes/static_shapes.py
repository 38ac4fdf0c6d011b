"""Give free dimensions a size and fold what becomes constant (shape arithmetic, position lookups)."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeq.errors import ConfigError
from edgeq.graph.passes.in_place import in_place

FOLD_LIMIT_BYTES = 1 << 28
"""Largest tensor folding may read or make; position tables of long models stay below it."""


@in_place
def fix_dimensions(model: ir.Model, sizes: Mapping[str, int]) -> bool:
    """Replace named free dimensions by sizes, and fold constants.

    Raises:
        ConfigError: a name no input has (silently changing nothing is the classic trap), or a dimension stays free.
    """
    known = {
        str(dim) for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)
    }
    unknown = sorted(set(sizes) - known)
    if unknown:
        raise ConfigError(
            f"no input has a dimension named {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}"
        )
    for value in model.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([_sized(dim, sizes) for dim in value.shape])
    _fold_constants(model)
    return True


def _fold_constants(model: ir.Model) -> None:
    """Re-infer every shape and evaluate what depends on constants only."""
    import logging

    from onnxscript import optimizer

    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    optimizer.optimize_ir(
        model,
        num_iterations=3,
        input_size_limit=FOLD_LIMIT_BYTES,
        output_size_limit=FOLD_LIMIT_BYTES,
        should_fold=_fills_a_shape,
    )
    for output in model.graph.outputs:
        output.shape = output.shape or ir.Shape([])


def _fills_a_shape(node: ir.Node) -> bool | None:
    """Small fills are shape arithmetic, which the optimizer keeps by default; older exporters expand through them."""
    size = node.inputs[0].const_value if node.op_type == "ConstantOfShape" and node.inputs[0] else None
    is_small = size is not None and int(size.numpy().prod()) <= MOST_DIMENSIONS
    return True if is_small else None


MOST_DIMENSIONS = 8


def _sized(dim: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if str(dim) not in sizes:
        raise ConfigError(f"the free dimension `{dim}` was given no size")
    return sizes[str(dim)]
