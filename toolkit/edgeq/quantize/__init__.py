"""Quantization: observe, decide. Nothing here edits the graph a target ships."""
