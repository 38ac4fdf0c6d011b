"""A decoder graph as the rest of edgeq expects it: module paths as names, tied tables stored once, named dimensions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.exporters.canonicalize import (
    lift_constants,
    multiply_by_constants,
    remove_unused,
    share_constants,
    share_tied_heads,
    strip_metadata,
    unfold_gemm,
)
from edgeq.exporters.naming import name_constants, name_nodes
from edgeq.graph.edit import Editor
from edgeq.graph.passes.in_place import in_place
from edgeq.graph.passes.sequence import run_passes
from edgeq.graph.streamed_tensor import streamed
from edgeq.types import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir


def normalize_traced(model: ir.Model, prefixes: Sequence[str]) -> None:
    """Clean up a graph that torch traced, in place.

    Args:
        model: straight from the tracer.
        prefixes: module paths left out of names, longest first.
    """
    run_passes(
        model,
        *lift_constants(),
        multiply_by_constants(),
        unfold_gemm(),
        *remove_unused(),
        share_constants(),
        share_tied_heads(),
        name_nodes(prefixes),
        name_constants(),
        strip_metadata(),
    )


def normalize_built(model: ir.Model, windows: Sequence[int | None]) -> None:
    """Clean up a graph of GenAI's model builder, in place: its names are paths with slashes.

    Args:
        model: straight from the builder.
        windows: how far back each layer sees.

    Raises:
        PassError: the graph has another number of attention layers.
    """
    run_passes(
        model,
        set_windows(windows),
        table_first(),
        *remove_unused(),
        share_constants(),
        share_tied_heads(),
        name_built_nodes(),
        strip_metadata(),
    )


@in_place
def name_built_nodes(model: ir.Model) -> bool:
    """Module paths with dots, as traced graphs have them."""
    taken: set[str] = set()
    for node in model.graph:
        name = built_name(str(node.name))
        node.name = name if name not in taken else f"{name}/{node.op_type.lower()}"
        taken.add(str(node.name))
    return True


@in_place
def set_windows(model: ir.Model, windows: Sequence[int | None]) -> bool:
    """Let every attention see as far as the model does: the builder (0.18) leaves Mistral's window out."""
    import onnx_ir as ir

    attentions = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    if len(attentions) != len(windows):
        raise ValueError(f"{len(attentions)} attention operators, expected {len(windows)}")
    for node, window in zip(attentions, windows, strict=True):
        size = -1 if window is None else window
        node.attributes["local_window_size"] = ir.AttrInt64("local_window_size", size)
        # The rolling cache of newer builders needs buffers of at least a window; ours hold the whole text.
        node.attributes.pop("sliding_window_cache", None)
    return bool(attentions)


def built_name(name: str) -> str:
    """`/model/layers.0/attn/q_proj/MatMul` to `layers.0.attn.q_proj`: the operator of a weight is its module."""
    path = name.removeprefix("/").removeprefix("model/")
    path = re.sub(r"/(MatMul|Gather)$", "", path)
    return path.replace("/", ".")


@in_place
def table_first(model: ir.Model) -> bool:
    """Store a tied table as `[rows, columns]`, transposed for the head and not for the lookup.

    The builder stores the head's matrix and looks tokens up in its transpose. Recipes, and the packed formats that
    lookup and product share, see the table.
    """
    import numpy as np

    is_changed = False
    for node in list(model.graph):
        if node.op_type != "Gather" or node.inputs[0] is None:
            continue
        transpose = node.inputs[0].producer()
        if transpose is None or transpose.op_type != "Transpose":
            continue
        head = transpose.inputs[0]
        if head is None or not head.is_initializer() or head.const_value is None:
            continue
        lazy = streamed(head)
        tensor = np.ascontiguousarray(head.const_value.numpy().T) if lazy is None else lazy.transposed()
        value = Editor(model).constant(tensor, "embed_tokens.weight")
        node.replace_input_with(0, value)
        _transpose_for_readers(model, head, value)
        is_changed = True
    return is_changed


def _transpose_for_readers(model: ir.Model, head: ir.Value, table: ir.Value) -> None:
    """Products that read the head's matrix read the transposed table."""
    import onnx_ir as ir

    readers = [node for node in head.consumers() if node.op_type == "MatMul"]
    for reader in readers:
        flipped = ir.node("Transpose", [table], {"perm": [1, 0]}, name=f"{reader.name}/transpose")
        flipped.outputs[0].name = f"{reader.name}/transposed_table"
        flipped.outputs[0].type, flipped.outputs[0].shape = head.type, head.shape
        model.graph.insert_before(reader, flipped)
        reader.replace_input_with(1, flipped.outputs[0])


def declare(model: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Give inputs and outputs the shapes and names of dimensions that are declared for them, in place.

    Raises:
        ValueError: the graph has other inputs or outputs.
    """
    import onnx_ir as ir

    for values, specs in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        by_name = {value.name: value for value in values}
        if set(by_name) != {spec.name for spec in specs}:
            raise ValueError(
                f"the graph has {sorted(map(str, by_name))}, expected {[spec.name for spec in specs]}"
            )
        for spec in specs:
            by_name[spec.name].shape = ir.Shape(list(spec.shape))
        values[:] = [by_name[spec.name] for spec in specs]
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and not value.is_graph_output():
                # The tracer's own symbols (`s62 + s70`) mean nothing to a reader; runtimes infer shapes again.
                value.shape = None
