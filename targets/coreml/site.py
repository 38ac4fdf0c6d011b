"""One ONNX node as an operator lowering sees it: its operands in the right dtype, attributes and name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeq.errors import UnsupportedError
from edgeq.targets.coreml.context import Context, Var, dtype_of, is_float, safe_name
from edgeq.targets.coreml.known import Known
from edgeq.types import Array


class Site:
    """A node being lowered.

    Args:
        context: the lowering it belongs to.
        node: the ONNX node.
    """

    def __init__(self, context: Context, node: ir.Node) -> None:
        self.context = context
        self.node = node
        self.mb = context.mb
        self.dtype = "fp32" if node.name in context.kept_fp32 else context.precision
        self.name = self.output_name(0)

    @property
    def where(self) -> str:
        """The node in a message."""
        return f"operator `{self.node.op_type}` at `{self.node.name or self.node.outputs[0].name}`"

    def output_name(self, index: int) -> str:
        """MIL name of an output; graph outputs keep theirs for the final cast."""
        value = self.node.outputs[index]
        name = safe_name(str(value.name))
        return f"{name}_value" if value.is_graph_output() else name

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def value(self, index: int) -> ir.Value:
        """The ONNX value behind an input."""
        if not self.has(index):
            raise UnsupportedError(f"{self.where} lacks input {index}")
        value = self.node.inputs[index]
        assert value is not None
        return value

    def seen(self, index: int) -> Known | Var:
        """An input as known value or MIL variable."""
        return self.context.values[self.value(index)]

    def var(self, index: int, dtype: str | None = None) -> Var:
        """An input as a MIL variable: floats in the node's compute dtype, integers as int32.

        Args:
            index: which input.
            dtype: a MIL dtype to cast to instead.
        """
        seen = self.seen(index)
        if isinstance(seen, Known):
            return self.context.constant(
                seen, dtype or self._mil_dtype(seen.longest), str(self.value(index).name)
            )
        current = dtype_of(seen)
        wanted = dtype or (self.dtype if is_float(current) else current)
        return self.context.cast(seen, wanted)

    def _mil_dtype(self, array: Array) -> str:
        if array.dtype == np.bool_:
            return "bool"
        return "int32" if np.issubdtype(array.dtype, np.integer) else self.dtype

    def known(self, index: int) -> Array:
        """An input that must be the same known value at every sequence length."""
        seen = self.seen(index)
        if not isinstance(seen, Known) or seen.varies:
            raise UnsupportedError(
                f"{self.where} needs input {index} to be constant; it is computed at run time"
            )
        return seen.longest

    def known_or(self, index: int, default: Array | None) -> Array | None:
        """An optional constant input."""
        return self.known(index) if self.has(index) else default

    def knowns(self, index: int) -> tuple[Array, ...]:
        """A known input at each sequence length."""
        seen = self.seen(index)
        if not isinstance(seen, Known):
            raise UnsupportedError(
                f"{self.where} needs input {index} to be constant; it is computed at run time"
            )
        return seen.per_length

    def dims(self, index: int = 0) -> list[tuple[int, ...]]:
        """An input's shape at each sequence length."""
        return self.context.dims(self.value(index))

    def rank(self, index: int = 0) -> int:
        """An input's rank."""
        return len(self.dims(index)[0])

    def attr(self, name: str, default: Any) -> Any:
        """An attribute, or the operator's default."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def axis(self, default: int, index: int = 0) -> int:
        """The `axis` attribute as a non-negative number."""
        axis = int(self.attr("axis", default))
        return axis + self.rank(index) if axis < 0 else axis

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse an attribute value that has no MIL form.

        Raises:
            UnsupportedError: the attribute is given with another value.
        """
        attribute = self.node.attributes.get(name)
        if attribute is not None and attribute.value not in allowed:
            raise UnsupportedError(
                f"{self.where} has {name}={attribute.value!r}; Core ML lowering knows {allowed}"
            )
