"""The state of one lowering: values seen so far, constants and casts shared between their readers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from edgeq.errors import UnsupportedError
from edgeq.targets.coreml.decisions import ActivationQuant, ComputeDtype, WeightDecision
from edgeq.targets.coreml.known import Known
from edgeq.types import Array

Var: TypeAlias = Any
"""A coremltools MIL variable."""

FP16_LARGEST = 65504.0
FP16_SMALLEST = 2.0**-24
FP16_SMALLEST_NORMAL = 2.0**-14
MASK_FLOOR = -3.0e4
"""Stands for minus infinity in fp16: a score may be added to it without overflow, and exp() of it is 0."""


@dataclass(slots=True)
class Context:
    """Everything the operator lowerings share.

    Attributes:
        mb: the MIL builder.
        ios: deployment target.
        lengths: sequence lengths, ascending; one means static shapes.
        precision: dtype that float operators compute in unless listed in `kept_fp32`.
        kept_fp32: node names that compute in float32.
        weights: decision per initializer name.
        activations: static quantization per linear node name.
        length: the sequence length as a MIL scalar, when there are several.
        notes: what was changed or could not be honoured, for the report.
    """

    mb: Any
    ios: int
    lengths: tuple[int, ...]
    precision: ComputeDtype
    kept_fp32: frozenset[str]
    weights: Mapping[str, WeightDecision]
    activations: Mapping[str, ActivationQuant]
    length: Var | None = None
    symbol: Any = None
    values: dict[ir.Value, Known | Var] = field(default_factory=dict)
    done: set[ir.Node] = field(default_factory=set)
    absorbed: dict[ir.Value, ir.Value] = field(default_factory=dict)
    shared: dict[tuple[Any, ...], Var] = field(default_factory=dict)
    applied: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Record a remark once."""
        if text not in self.notes:
            self.notes.append(text)

    def dims(self, value: ir.Value) -> list[tuple[int, ...]]:
        """The value's concrete shape at each sequence length."""
        seen = self.values[value]
        if isinstance(seen, Known):
            return [array.shape for array in seen.per_length]
        return [tuple(self._dim(dim, length) for dim in seen.shape) for length in self.lengths]

    def _dim(self, dim: Any, length: int) -> int:
        if isinstance(dim, (int, np.integer)):
            return int(dim)
        bound = dim.subs({self.symbol: length})
        if bound.free_symbols:
            raise UnsupportedError(
                f"dimension {dim} cannot be derived from the sequence length", hint="lower with one --seq-len"
            )
        return int(bound)

    def cast(self, var: Var, dtype: str) -> Var:
        """`var` in another dtype, casting once per dtype."""
        if dtype_of(var) == dtype:
            return var
        key = ("cast", var.name, dtype)
        if key not in self.shared:
            self.shared[key] = self.mb.cast(x=var, dtype=dtype, name=f"{var.name}_to_{dtype}")
        return self.shared[key]

    def constant(self, known: Known, dtype: str, name: str) -> Var:
        """A known value as a shared MIL constant; one that varies is cut to the current length."""
        if known.varies:
            return self._cut(known, dtype, name)
        value = known.longest
        key = ("const", known.source or id(value), known.transposed, dtype)
        if key not in self.shared:
            # Keeping the array alive keeps its id from being reused.
            self.shared[("alive", id(value))] = value
            self.shared[key] = self.mb.const(val=self.to_dtype(value, dtype, name), name=safe_name(name))
        return self.shared[key]

    def _cut(self, known: Known, dtype: str, name: str) -> Var:
        """A value that grows with the sequence: stored at the longest, sliced at run time."""
        if self._is_length(known):
            return self.length
        longest = known.longest
        for value in known.per_length:
            window = tuple(slice(0, dim) for dim in value.shape)
            if value.ndim != longest.ndim or not np.array_equal(value, longest[window]):
                raise UnsupportedError(
                    f"`{name}` changes with the sequence length in a way that slicing cannot express",
                    hint="lower with one --seq-len",
                )
        shapes = [value.shape for value in known.per_length]
        size = self.shape_operand(shapes, name)
        whole = self.constant(Known.same(longest, len(self.lengths)), dtype, f"{name}_longest")
        return self.mb.slice_by_size(
            x=whole, begin=[0] * longest.ndim, size=size, name=safe_name(f"{name}_cut")
        )

    def _is_length(self, known: Known) -> bool:
        scalars = all(value.ndim == 0 for value in known.per_length)
        return scalars and [int(value) for value in known.per_length] == list(self.lengths)

    def shape_operand(self, shapes: list[tuple[int, ...]], name: str) -> Any:
        """A shape as a MIL operand: a literal when fixed, else built from the run-time sequence length."""
        if len(set(shapes)) == 1:
            return list(shapes[0])
        axes = list(zip(*shapes, strict=True))
        varying = [axis for axis, dims in enumerate(axes) if len(set(dims)) > 1]
        if any(list(axes[axis]) != list(self.lengths) for axis in varying):
            raise UnsupportedError(
                f"`{name}` has a dimension that is not the sequence length itself: {shapes}",
                hint="lower with one --seq-len",
            )
        parts = [self.length if axis in varying else np.int32(dims[0]) for axis, dims in enumerate(axes)]
        return self.mb.concat(values=parts, axis=0, name=safe_name(f"{name}_shape"))

    def to_dtype(self, value: Array, dtype: str, name: str) -> Array:
        """An array in a MIL dtype, kept inside what float16 and int32 can hold."""
        if dtype == "int32":
            return _int32(value, name)
        if dtype == "bool":
            return np.asarray(value, np.bool_)
        if dtype == "fp32":
            return np.asarray(value, np.float32)
        return self._fp16(np.asarray(value, np.float32), name)

    def _fp16(self, value: Array, name: str) -> Array:
        beyond = np.abs(value) > FP16_LARGEST
        if beyond.any():
            low = float(value.min())
            self.note(
                f"constant `{name}` reaches {low:.3g}, beyond float16: made {MASK_FLOOR:g} or its negative"
            )
            value = np.where(beyond, np.where(value < 0, MASK_FLOOR, -MASK_FLOOR), value)
        return np.asarray(value.astype(np.float16))


def _int32(value: Array, name: str) -> Array:
    info = np.iinfo(np.int32)
    if value.size and (value.min() < info.min or value.max() > info.max):
        raise UnsupportedError(f"`{name}` holds an integer beyond int32, Core ML's only index type")
    return np.asarray(value, np.int32)


def dtype_of(var: Var) -> str:
    """A MIL variable's dtype by its MIL name: fp16, fp32, int32, bool, int8, uint8."""
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(var.dtype))


def is_float(dtype: str) -> bool:
    """Whether a MIL dtype is a float."""
    return dtype in ("fp16", "fp32")


def safe_name(name: str) -> str:
    """A name MIL takes: letters, digits and underscores, not starting with a digit."""
    clean = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return f"_{clean}" if not clean or clean[0].isdigit() else clean
