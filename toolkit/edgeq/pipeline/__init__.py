"""The only place where exporters, quantization, targets and bundles are wired together."""
