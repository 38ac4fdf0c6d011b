"""edgeq: Hugging Face transformers to phones, with numbers that prove what the phone will compute."""

__version__ = "0.1.0"
