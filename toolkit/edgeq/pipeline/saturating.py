"""Layers of a written variant, or of any ONNX file, whose integer sums are not exact on every CPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.runtime.executors import CAN_SATURATE

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle

ONNX_RUNTIME = "onnxruntime"


def saturating_layers(bundle: Bundle, variant: Variant) -> list[str] | None:
    """Of a variant: as its bundle records them, else as its graph shows them; None where nothing here can tell."""
    recorded = variant.placement.get(CAN_SATURATE)
    if recorded is not None:
        return [str(name) for name in recorded]
    return saturating_in(bundle.file(variant.model)) if variant.runtime == ONNX_RUNTIME else None


def saturating_in(model: Path) -> list[str] | None:
    """Of an ONNX file; None in a light install, which cannot read graphs."""
    if find_spec("onnx_ir") is None:
        return None
    from edgeq.graph.overflow import find_saturating

    return [layer.node for layer in find_saturating(model)]
