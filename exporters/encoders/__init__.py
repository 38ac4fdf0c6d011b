"""Families of text encoders, one file each.

Adding one is a file with an `ARCHITECTURE`, and one line in the table below.
"""

from __future__ import annotations

from edgeq.exporters.architecture import TextArchitecture
from edgeq.exporters.encoders import (
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
