"""Tracing a model whose matrices are not in memory: fake tensors while torch traces, references afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgeq.exporters.causal_lm.weights import DecoderWeights
from edgeq.graph.edit import remove_unused
from edgeq.graph.streamed_tensor import streamed
from edgeq.quantize.streaming.stacked_rows import StackedRows

if TYPE_CHECKING:
    import onnx_ir as ir

OWNER = "model."
"""The attribute of the traced module that holds transformers' model."""


def stand_in_for_matrices(model: Any) -> None:
    """Replace meta parameters by fake ones, which torch traces as if they were on the CPU; tied ones stay tied."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    made: dict[int, torch.nn.Parameter] = {}
    for part in model.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is None or not parameter.is_meta:
                continue
            if id(parameter) not in made:
                with mode:
                    stand_in = torch.empty(parameter.shape)
                made[id(parameter)] = torch.nn.Parameter(stand_in, requires_grad=False)
            setattr(part, name, made[id(parameter)])


@contextmanager
def matrices_as_inputs(model: ir.Model, weights: DecoderWeights) -> Iterator[None]:
    """While this lasts matrices are inputs of the graph, so that nobody folds them; then initializers by reference."""
    from torch._subclasses.fake_tensor import FakeTensor

    graph = model.graph
    matrices = [
        value
        for value in graph.initializers.values()
        if isinstance(getattr(value.const_value, "raw", None), FakeTensor)
    ]
    for value in matrices:
        del graph.initializers[str(value.name)]
        value.const_value = None
        graph.inputs.append(value)
    yield
    for value in matrices:
        graph.inputs.remove(value)
        tensor = weights[str(value.name).removeprefix(OWNER)]
        value.const_value = StackedRows([tensor], value.name)
        graph.register_initializer(value)


def fold_transposes(model: ir.Model) -> None:
    """Store weights as the products read them, `[in, out]`, where nobody reads them otherwise."""
    for value in list(model.graph.initializers.values()):
        readers, tensor = value.consumers(), streamed(value)
        if tensor is None or len(readers) != 1 or readers[0].op_type != "Transpose" or len(tensor.shape) != 2:
            continue
        turned = tensor.transposed()
        value.const_value, value.shape = turned, turned.shape
        readers[0].outputs[0].replace_all_uses_with(value)
    remove_unused(model)
