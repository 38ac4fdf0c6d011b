"""Placement: which nodes of an ONNX model a phone's accelerator takes, predicted on the desktop."""

from __future__ import annotations

from edgeq.targets.placement.predict import predict
from edgeq.targets.placement.report import Landmine, PlacementReport, Prediction, RefusedNode

__all__ = ["Landmine", "PlacementReport", "Prediction", "RefusedNode", "predict"]
