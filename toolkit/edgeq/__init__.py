"""edgeq: Hugging Face transformers to phones, with numbers that prove what the phone will compute."""

from edgeq.api import export, load, validate

__version__ = "0.1.0"

__all__ = ["__version__", "export", "load", "validate"]
