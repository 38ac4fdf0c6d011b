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
    symbols: dict[Any, tuple[int, ...]] = field(default_factory=dict)
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
        return [tuple(self._dim(dim, index) for dim in seen.shape) for index in range(len(self.lengths))]

    def learn(self, var: Var, shapes: list[tuple[int, ...]]) -> Var:
        """Remember what MIL's fresh symbols in `var`'s shape stand for at each sequence length."""
        for dim, sizes in zip(var.shape, zip(*shapes, strict=True), strict=True):
            if getattr(dim, "is_symbol", False):
                self.symbols.setdefault(dim, sizes)
        return var

    def _dim(self, dim: Any, index: int) -> int:
        if isinstance(dim, (int, np.integer)):
            return int(dim)
        bound = dim.subs({symbol: sizes[index] for symbol, sizes in self.symbols.items()})
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
        """A value that grows with the sequence: stored at the longest, a window of it taken at run time."""
        if all(value.ndim == 0 for value in known.per_length):
            return self.number([int(value) for value in known.per_length], name)
        longest = known.longest
        begins = [_window_in(longest, value) for value in known.per_length]
        if any(begin is None for begin in begins):
            raise UnsupportedError(
                f"`{name}` changes with the sequence length in a way that slicing cannot express",
                hint="lower with one --seq-len",
            )
        begin = self.vector([begin for begin in begins if begin is not None], f"{name}_begin")
        shapes = [value.shape for value in known.per_length]
        size = self.vector(shapes, f"{name}_size")
        whole = self.constant(Known.same(longest, len(self.lengths)), dtype, f"{name}_longest")
        cut = self.mb.slice_by_size(x=whole, begin=begin, size=size, name=safe_name(f"{name}_cut"))
        return self.learn(cut, shapes)

    def vector(self, values: list[tuple[int, ...]], name: str) -> Any:
        """Integers per sequence length as a MIL operand: a literal when fixed, else computed at run time."""
        if len(set(values)) == 1:
            return list(values[0])
        columns = zip(*values, strict=True)
        parts = [self.number(list(column), f"{name}_{axis}") for axis, column in enumerate(columns)]
        return self.mb.concat(values=parts, axis=0, name=safe_name(name))

    def number(self, values: list[int], name: str) -> Any:
        """One integer per sequence length: fixed, the length itself, or `a * length + b`."""
        if len(set(values)) == 1:
            return np.int32(values[0])
        slope, rest = divmod(values[1] - values[0], self.lengths[1] - self.lengths[0])
        offset = values[0] - slope * self.lengths[0]
        if rest or [slope * length + offset for length in self.lengths] != values:
            raise UnsupportedError(
                f"`{name}` is {values} at lengths {self.lengths}: not a multiple of them plus a constant",
                hint="lower with one --seq-len",
            )
        key = ("number", slope, offset)
        if key not in self.shared:
            scaled = self.length if slope == 1 else self.mb.mul(x=self.length, y=np.int32(slope))
            self.shared[key] = self.mb.add(x=scaled, y=np.int32(offset)) if offset else scaled
        return self.shared[key]

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


def _window_in(whole: Array, part: Array) -> tuple[int, ...] | None:
    """Where `part` lies in `whole`: at the start, in the middle or at the end of every axis; None if nowhere."""
    if part.ndim != whole.ndim:
        return None
    spare = [big - small for big, small in zip(whole.shape, part.shape, strict=True)]
    for begin in ([0] * whole.ndim, [room // 2 for room in spare], spare):
        window = tuple(slice(start, start + size) for start, size in zip(begin, part.shape, strict=True))
        if np.array_equal(whole[window], part):
            return tuple(begin)
    return None


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
