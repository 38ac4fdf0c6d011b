"""edgeq: Hugging Face transformers to phones, with numbers that prove what the phone will compute."""

import os

from edgeq.api import export, load, validate
from edgeq.version import __version__

# ONNX Runtime's builds send telemetry from 1.29 on, and read this when they are loaded. A value that is set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["__version__", "export", "load", "validate"]
