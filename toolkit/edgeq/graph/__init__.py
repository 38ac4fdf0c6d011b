"""The graph layer: the canonical model and the passes that rewrite it."""
