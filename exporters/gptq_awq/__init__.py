"""GPTQ and AWQ checkpoints as models: an ordinary folder of dequantized weights, and the codes beside it."""

from __future__ import annotations

from edgeq.exporters.gptq_awq.settings import PackedSettings, quantization_of, read_settings

__all__ = ["PackedSettings", "quantization_of", "read_settings"]
