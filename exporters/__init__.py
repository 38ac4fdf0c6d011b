"""Exporters: from a model family to the canonical graph.

Families of text encoders are in `encoders/`, of decoders in `edgeq.families`.
"""

from __future__ import annotations

from edgeq.exporters.architecture import TextArchitecture
from edgeq.exporters.encoders import ARCHITECTURES
from edgeq.exporters.exported_model import ExportedModel, ModelFacts
from edgeq.exporters.headers import check_headers
from edgeq.exporters.loading import inspect_model, load_model
from edgeq.exporters.samples import sample_model_path

__all__ = [
    "ARCHITECTURES",
    "ExportedModel",
    "ModelFacts",
    "TextArchitecture",
    "check_headers",
    "inspect_model",
    "load_model",
    "sample_model_path",
]
