"""Streaming observers: fixed-size statistics of a tensor, whatever the number of samples.

Import from the modules: `histogram` (values), `channels` (per-channel moments), `tensor` (both, on one
tensor), `layout` (which axes are positions), `ranges` (a quantization range from a histogram).
"""
