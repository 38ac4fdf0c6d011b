"""Exporters: from a model family to the canonical graph.

Adding an architecture is one file with an `ARCHITECTURE`, and one line in the table below.
"""

from __future__ import annotations

from edgeq.exporters import (
    albert,
    bert,
    deberta_v2,
    distilbert,
    electra,
    modernbert,
    mpnet,
    roberta,
    xlm_roberta,
)
from edgeq.exporters.architecture import TextArchitecture
from edgeq.exporters.base import ExportedModel, ModelFacts
from edgeq.exporters.headers import check_headers
from edgeq.exporters.loading import inspect_model, load_model
from edgeq.exporters.samples import sample_model_path

ARCHITECTURES: dict[str, TextArchitecture] = {
    "albert": albert.ARCHITECTURE,
    "bert": bert.ARCHITECTURE,
    "deberta-v2": deberta_v2.ARCHITECTURE,
    "distilbert": distilbert.ARCHITECTURE,
    "electra": electra.ARCHITECTURE,
    "modernbert": modernbert.ARCHITECTURE,
    "mpnet": mpnet.ARCHITECTURE,
    "roberta": roberta.ARCHITECTURE,
    "xlm-roberta": xlm_roberta.ARCHITECTURE,
}
"""Every supported `model_type`."""

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
