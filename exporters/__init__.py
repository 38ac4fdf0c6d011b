"""Exporters: from a model family to the canonical graph."""
