"""Which precision fits a device and a use, from a model's config alone."""

from __future__ import annotations

from edgeq.pipeline.advise.advice import DEFAULT_SHARE, Advice, Option, Request
from edgeq.pipeline.advise.decide import advise
from edgeq.pipeline.advise.quality import Quality, Tolerance, parse_tolerance
from edgeq.pipeline.advise.sizes import megabytes, parse_size

__all__ = [
    "DEFAULT_SHARE",
    "Advice",
    "Option",
    "Quality",
    "Request",
    "Tolerance",
    "advise",
    "megabytes",
    "parse_size",
    "parse_tolerance",
]
