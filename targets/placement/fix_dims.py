"""Give the named free dimensions of a model's inputs a value."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeq.errors import ConfigError

if TYPE_CHECKING:
    import onnx


def free_dims(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the free dimensions of the model's inputs, in order of appearance."""
    constant = {tensor.name for tensor in proto.graph.initializer}
    names: dict[str, None] = {}
    for value in proto.graph.input:
        if value.name not in constant:
            names.update(dict.fromkeys(d.dim_param for d in value.type.tensor_type.shape.dim if d.dim_param))
    return tuple(names)


def fix_dims(proto: onnx.ModelProto, dims: Mapping[str, int]) -> None:
    """Replace, in place, every dimension named in `dims` by its number.

    Raises:
        ConfigError: a name no input has, or a size below 1.
    """
    _check(dims, free_dims(proto))
    for values in (proto.graph.input, proto.graph.output, proto.graph.value_info):
        for value in values:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in dims:
                    dim.dim_value = dims[dim.dim_param]


def _check(dims: Mapping[str, int], known: tuple[str, ...]) -> None:
    for name, size in dims.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"the model's inputs have no free dimension `{name}`; they have: {_listed(known)}",
                hint=f"did you mean --dim {close[0]}={size}?" if close else None,
            )
        if size < 1:
            raise ConfigError(f"dimension `{name}` is {size}, expected at least 1")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none (every dimension is fixed or has no name)"
