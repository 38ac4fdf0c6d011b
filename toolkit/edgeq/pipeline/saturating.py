"""Layers of a written variant, or of any ONNX file, whose integer sums are not exact on every CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ModelError
from edgeq.graph.overflow import find_saturating, integer_layers
from edgeq.onnx_runtime import (
    DEFAULT_LEVEL,
    OptimizationLevel,
    kernels_saturate,
    ordered_level,
    session_options,
)
from edgeq.runtime.executors import CAN_SATURATE
from edgeq.saturation import saturating_product
from edgeq.types import ONNX_RUNTIME, Array, Feeds

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle


def saturated_here(layers: Callable[[], Sequence[str] | None]) -> tuple[str, ...] | None:
    """Layers whose integer sums saturate in the kernels that an app gets on this CPU; none where those are exact.

    Args:
        layers: finds those that can saturate at all, None where nothing can tell; not asked where kernels are exact.
    """
    if not kernels_saturate():
        return ()
    found = layers()
    return None if found is None else tuple(found)


def saturating_layers(bundle: Bundle, variant: Variant) -> list[str] | None:
    """Of a variant at the level it orders: as its bundle records them, else as its graph shows them.

    None where nothing here can tell.
    """
    recorded = variant.placement.get(CAN_SATURATE)
    if recorded is not None:
        return [str(name) for name in recorded]
    if variant.runtime != ONNX_RUNTIME:
        return None
    layers: list[str] = []
    for component in variant.models:
        found = saturating_in(bundle.model_path(variant, component), ordered_level(variant.requirements))
        if found is None:
            return None
        layers += found
    return layers


def saturating_in(model: Path, level: OptimizationLevel = DEFAULT_LEVEL) -> list[str] | None:
    """Of an ONNX file; None for one that cannot be read, and in a light install, which reads no graphs."""
    if find_spec("onnx_ir") is None:
        return None

    try:
        return [layer.node for layer in find_saturating(model, level)]
    except ModelError:
        return None


def saturated_layers(
    model: Path, feeds: Feeds, *, level: OptimizationLevel = DEFAULT_LEVEL, rows: int = 256
) -> dict[str, bool]:
    """What kernels that add pairs in 16 bits would make of real activations, emulated on whatever CPU this is.

    Args:
        model: an ONNX file whose uint8 activations are tensors of its graph.
        feeds: its own inputs.
        level: of the session that computes the activations, with exact sums.
        rows: of activations that are multiplied, at most.

    Returns:
        By the name of each integer layer with constant weights, in graph order: whether its product differs from the
        exact one.

    Raises:
        ModelError: the file is no ONNX model.
    """
    import onnx
    import onnxruntime

    layers = [layer for layer in integer_layers(model) if layer.weights]
    names = list(dict.fromkeys(layer.activations for layer in layers))
    graph = onnx.load(str(model))
    outputs = {output.name for output in graph.graph.output}
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None)
        for name in names
        if name not in outputs
    )
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), session_options(level=level), providers=["CPUExecutionProvider"]
    )
    codes = dict(zip(names, session.run(names, dict(feeds)), strict=True))
    return {
        layer.node: any(_differs(codes[layer.activations], weight, rows) for weight in layer.weights)
        for layer in layers
    }


def _differs(activations: Array, weight: Array, rows: int) -> bool:
    some = activations.reshape(-1, len(weight))[:rows]
    exact = some.astype(np.int64) @ weight.astype(np.int64)
    return not np.array_equal(saturating_product(some, weight), exact)
