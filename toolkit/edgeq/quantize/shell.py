"""A float graph whose layer weights are inputs: swapping one is free, and a session of the graph loads at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeq.graph.passes.in_place import in_place
from edgeq.numerics import affine_params
from edgeq.onnx_runtime import session_options
from edgeq.quantize.layers import ModelLayers
from edgeq.quantize.plan import LinearDecision
from edgeq.quantize.sites import EmbeddingSite, LinearSite
from edgeq.types import Array, Feeds, FloatArray, Outputs

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxruntime import InferenceSession


class Shell:
    """The graph without its layers' weights, and those weights beside it.

    Args:
        model: a float graph (equalized, where the layers of a plan are meant); not changed.
        layers: its layers.
        outputs: names of the outputs to return.
    """

    def __init__(self, model: ir.Model, layers: ModelLayers, outputs: Sequence[str]) -> None:
        self.layers = layers
        self.outputs = list(outputs)
        self.model = model.clone()
        self.weights = {
            name: _take_out(self.model, name) for name in dict.fromkeys(layers.initializers.values())
        }
        sites: list[LinearSite | EmbeddingSite] = [*layers.sites.linears, *layers.sites.embeddings]
        self._sites = {site.name: site for site in sites}

    def session(self, static: Sequence[LinearDecision] = ()) -> InferenceSession:
        """A session in which the inputs of these layers are rounded to int8 in their ranges."""
        import onnx_ir as ir
        import onnxruntime as ort

        from edgeq.graph.passes.sequence import edited

        model = edited(self.model, round_inputs(static)) if static else self.model
        data = ir.to_proto(model).SerializeToString()
        return ort.InferenceSession(data, session_options(), providers=["CPUExecutionProvider"])

    def run(
        self, session: InferenceSession, feeds: Feeds, changed: Mapping[str, FloatArray] | None = None
    ) -> Outputs:
        """Outputs with some weights changed.

        Args:
            session: from `session`.
            feeds: model inputs.
            changed: other weights by layer name, as `[in, out]` (tables `[columns, rows]`).
        """
        weights = self.weights | {
            self.layers.initializers[name]: self._stored(name, weight)
            for name, weight in (changed or {}).items()
        }
        return dict(zip(self.outputs, session.run(self.outputs, {**feeds, **weights}), strict=True))

    def _stored(self, name: str, weight: FloatArray) -> Array:
        """A weight in the orientation the graph has it."""
        site = self._sites[name]
        flipped = isinstance(site, EmbeddingSite) or site.transposed
        return np.ascontiguousarray(weight.T if flipped else weight, np.float32)


def _take_out(model: ir.Model, name: str) -> Array:
    """Turn an initializer into a graph input; returns what it held."""
    value = model.graph.initializers.pop(name)
    assert value.const_value is not None
    weight = np.ascontiguousarray(value.const_value.numpy())
    value.const_value = None
    model.graph.inputs.append(value)
    return weight


@in_place
def round_inputs(model: ir.Model, static: Sequence[LinearDecision]) -> bool:
    """Round the inputs of layers to int8 in their ranges, and shift their biases."""
    from edgeq.graph.edit import Editor
    from edgeq.graph.passes.shift_biases import shift_bias

    editor = Editor(model)
    nodes = {str(node.name): node for node in model.graph}
    for item in static:
        node = nodes[item.name]
        value = node.inputs[0]
        scale, zero = affine_params(*item.input_range, "uint8", False)
        constants = [editor.constant(scale, f"{item.name}.scale"), editor.constant(zero, f"{item.name}.zero")]
        codes = editor.op(
            "QuantizeLinear", [value, *constants], f"{item.name}.codes", before=node, dtype=constants[1].dtype
        )
        rounded = editor.op("DequantizeLinear", [codes, *constants], f"{item.name}.rounded", before=node)
        node.replace_input_with(0, rounded)
        if item.bias_shift is not None:
            shift_bias(editor, node, item.bias_shift)
    editor.finish()
    return bool(static)
