"""GGUF block types: scale search weighted by calibration, error feedback, and the bytes of the file.

`quantize_rows(rows, BLOCK_TYPES["Q4_K"], evidence)` is the way in. docs/gguf.md explains what is chosen and why.
"""

from __future__ import annotations

from edgeq.quantize.ggml.quantize import Evidence, fit_rows, quantize_rows
from edgeq.quantize.ggml.types import BLOCK_TYPES, BlockType

__all__ = ["BLOCK_TYPES", "BlockType", "Evidence", "fit_rows", "quantize_rows"]
